"""The windows in which a piece is made, and where in them a piece is that begins or goes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from services.models.patterns import Schedule


@dataclass(frozen=True)
class Windows:
    """How a piece that is longer than the model's window is made, as AudioCraft's ``extend_stride`` does it.

    Every window but the last has ``size`` frames and begins ``stride`` frames after the one before, whose codes it
    goes on from. A piece without an end is the same, with no last window.

    Attributes:
        size: the longest that the model makes at once, in frames.
        stride: frames from the start of a window to the start of the next; below ``size``.
        frame_count: of the piece; None where it has no end.
    """

    size: int
    stride: int
    frame_count: int | None

    def at(self, known: int) -> tuple[int, int]:
        """Return the first frame and the length of the window that makes the frame after so many known ones."""
        first = 0 if known < self.size or not self.extended else ((known - self.size) // self.stride + 1) * self.stride
        return first, self.size if self.frame_count is None else min(self.size, self.frame_count - first)

    @property
    def extended(self) -> bool:
        """Whether there is more than one window."""
        return self.frame_count is None or self.frame_count > self.size


@dataclass(frozen=True)
class Place:
    """Where in its windows a piece is: the window's first frame, the frames of its prompt, the steps before it."""

    first: int
    prompt: int
    steps: int
    schedule: Schedule


class Schedules:
    """The steps of windows, by the frames that a window has."""

    def __init__(self, pattern_provider: Any) -> None:
        self.of = cache(lambda frame_count: Schedule(pattern_provider, frame_count))

    def step_count(self, windows: Windows, known: int) -> int:
        """Return the steps that draw codes of a piece, ``known`` frames of it given; 0 without an end."""
        steps, count = 0, windows.frame_count
        while count is not None and known < count:
            first, length = windows.at(known)
            schedule = self.of(length)
            steps += schedule.step_count - schedule.first_step(known - first)
            known = first + length
        return steps

    def place(self, windows: Windows, prompt: int, known: int) -> Place:
        """Return where a piece is that begins with ``prompt`` given frames, when ``known`` are there."""
        steps, given = 0, prompt
        while True:
            first, length = windows.at(given)
            schedule = self.of(length)
            if known < first + length or first + length == windows.frame_count:
                return Place(first, given - first, steps, schedule)
            steps += schedule.step_count - schedule.first_step(given - first)
            given = first + length
