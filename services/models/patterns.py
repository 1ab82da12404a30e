"""The order in which the codes of a piece are predicted: AudioCraft's codebook patterns, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np


class Schedule:
    """Which (frame, codebook) each step predicts, for a piece of a given length.

    Step ``s`` (from 0) predicts ``frames[s, k]`` of codebook ``k``, or nothing where that is -1, and takes in what the
    step before predicted, ``inputs[s, k]``. A frame is whole after the step ``last_step[frame]``.
    """

    def __init__(self, provider: Any, frame_count: int) -> None:
        layout = provider.get_pattern(frame_count).layout[1:]  # the first is the empty start of the sequence
        self.frame_count = frame_count
        self.step_count = len(layout)
        self.frames = np.full((self.step_count, provider.n_q), -1, dtype=np.int64)
        for step, coordinates in enumerate(layout):
            for coordinate in coordinates:
                if coordinate.t < frame_count:
                    self.frames[step, coordinate.q] = coordinate.t
        self.inputs = np.concatenate([np.full((1, provider.n_q), -1, dtype=np.int64), self.frames[:-1]])
        last = np.zeros(frame_count, dtype=np.int64)
        for step, row in enumerate(self.frames):
            last[row[row >= 0]] = step
        # A frame can be decoded when it and all before it are whole.
        self.last_step = np.maximum.accumulate(last)

    def whole_frames(self, steps_done: int) -> int:
        """Return how many frames from the start are whole after that many steps."""
        return int(np.searchsorted(self.last_step, steps_done, side="left"))

    def first_step(self, frame: int) -> int:
        """Return the first step that predicts a code of that frame."""
        return int(np.argmax((self.frames == frame).any(axis=1)))
