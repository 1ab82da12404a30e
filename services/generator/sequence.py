"""What one request is in the engine: its codes, and the windows of the model in which they are made."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.generator.requests import Change, GenerationRequest
from services.generator.timeline import Mix, Timeline
from services.generator.windows import Windows
from services.models.conditions import RowConditions
from services.models.patterns import Schedule
from services.models.sessions import Session

UNKNOWN = -1
"""Stands for a code that is not drawn yet."""
MOST_CHUNK_FRAMES = 50
"""Frames that are decoded in one step, however many of a prompt are there: others wait for it."""


@dataclass(frozen=True, eq=False)
class PreparedChange:
    """A change and what it takes, worked out on any thread.

    Attributes:
        sources: what the rows attend to for each new text, ``[T, dim]``.
        nothing: what an unconditional row attends to, where the change may turn guidance on.
    """

    change: Change
    sources: dict[str, torch.Tensor]
    nothing: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is worked out of a request before its first step, on any thread.

    Attributes:
        rows: conditions of the first window.
        codes: int64 ``[K, P]``, the codes that the piece begins with; P may be 0.
        changes: those of a piece that is taken up again, each with the steps done before it.
    """

    rows: tuple[RowConditions, ...]
    codes: NDArray[np.int64]
    changes: tuple[tuple[int, PreparedChange], ...] = ()


@dataclass(eq=False)
class Sequence:
    """One request's place in the model.

    Attributes:
        rows: conditions of the rows, as they are in this window.
        schedule: of this window.
        codes: int64 ``[K, T]`` of this window, ``UNKNOWN`` where none is drawn yet.
        first_frame: frame of the piece at which this window begins.
        known: frames of this window that were there when it began.
        first_draw: the first step of this window that predicts a code of another frame.
        position: steps of this window that are taken in.
        state: the executor's.
        decoder: the codec's; None once the decoder is done.
        total_steps: steps that draw codes, in all windows; 0 without an end.
        steps: how many of them are done.
        upcoming: the next window's conditions, where they are others.
        timeline: what it hears and how it is drawn, by step.
        sources: what its rows attend to for each text, ``[T, dim]``.
        nothing: what the unconditional row attends to, where guidance was off at first.
        mix: what its rows hear now.
        window_start: steps done before this window.
        origin: step of the timeline at this window's first position; those of its prompt are before ``window_start``.
        past: int64 ``[K, F]``, all codes of a piece that is taken up again, until they are decoded.
    """

    request: GenerationRequest
    windows: Windows
    rows: tuple[RowConditions, ...]
    schedule: Schedule
    codes: NDArray[np.int64]
    first_frame: int
    known: int
    first_draw: int
    state: Any
    decoder: Session
    total_steps: int
    start_token: int
    position: int = 0
    steps: int = 0
    decoded_frames: int = 0
    chunks: int = 0
    samples: int = 0
    upcoming: Future[tuple[RowConditions, ...]] | None = None
    timeline: Timeline = field(init=False)
    sources: dict[str, torch.Tensor] = field(default_factory=dict)
    nothing: torch.Tensor | None = None
    mix: Mix = ()
    window_start: int = 0
    origin: int = 0
    past: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.timeline = Timeline(self.request.prompts, self.request.sampling)

    @property
    def moment(self) -> int:
        """Step of the timeline at which the next token is taken in."""
        return max(self.window_start, self.origin + self.position)

    @property
    def steps_left(self) -> int | None:
        """Steps that it still takes; None without an end."""
        return None if self.windows.frame_count is None else self.total_steps - self.steps

    @property
    def behind(self) -> bool:
        """Whether it is taken up again and most of what its caller knows is still to be decoded."""
        return self.past is not None and self.decoded_frames < self.past.shape[1] - MOST_CHUNK_FRAMES

    def change(self, step: int, prepared: PreparedChange) -> None:
        """Hear other things, or be drawn otherwise, from the step after so many steps on."""
        self.timeline.change(step, prepared.change)
        self.sources = {**prepared.sources, **self.sources}
        self.nothing = self.nothing if self.nothing is not None else prepared.nothing

    def conditions(self, mix: Mix) -> tuple[RowConditions, ...]:
        """Return what the rows attend to, to hear a mix of texts; two rows once guidance was on."""
        conditional, unconditional = self.rows[0], self.rows[1:]
        if mix is not self.timeline.start:
            conditional = RowConditions(
                tuple((self.sources[text], weight) for text, weight in mix), conditional.prepend
            )
        if not unconditional and self.nothing is not None and self.timeline.guided:
            unconditional = (RowConditions(((self.nothing, 1.0),)),)
        return conditional, *unconditional

    def forget(self) -> None:
        """Be at the start of the window again, with all that is drawn known: the caches are given back."""
        self.known = max(self.known, self.schedule.whole_frames(self.position))
        self.first_draw, self.position = max(self.first_draw, self.position), 0
        self.state = None

    @property
    def window_done(self) -> bool:
        return self.position == self.schedule.step_count

    @property
    def done(self) -> bool:
        """Whether every code of the piece is drawn."""
        return self.window_done and self.first_frame + self.schedule.frame_count == self.windows.frame_count

    @property
    def whole_frames(self) -> int:
        """Frames of the piece, from its start, whose codes are all there."""
        return self.first_frame + max(self.known, self.schedule.whole_frames(self.position))

    @property
    def due(self) -> NDArray[np.int64]:
        """Frames of the piece ``[K]`` whose codes the step that was taken in last predicts; -1 for none."""
        frames = self.schedule.frames[self.position - 1]
        return np.where(frames >= 0, frames + self.first_frame, -1)

    def take(self, limit: int) -> torch.Tensor:
        """Take in the next tokens, int64 ``[S, K]``: one, or as many known ones as there are, up to ``limit``."""
        end = min(self.position + limit, max(self.position, self.first_draw) + 1)
        frames = self.schedule.inputs[self.position : end]
        books = np.arange(len(self.codes))
        tokens = np.where(frames >= 0, self.codes[books, frames], self.start_token)
        self.position = end
        return torch.from_numpy(tokens)

    @property
    def draws(self) -> bool:
        """Whether the step that was taken in last predicts a code that is not known."""
        return self.position > self.first_draw

    def put(self, drawn: NDArray[np.int64]) -> None:
        """Write what the last step drew, ``[K]``, where nothing is known."""
        frames = self.schedule.frames[self.position - 1]
        for book in np.flatnonzero(frames >= 0):
            if self.codes[book, frames[book]] == UNKNOWN:
                self.codes[book, frames[book]] = drawn[book]
        self.steps += 1

    def piece(self, first: int, end: int) -> NDArray[np.int64]:
        """Return the codes of frames ``first`` to ``end`` of the piece, which lie in this window or in the past."""
        if first < self.first_frame and self.past is not None:
            past = self.past[:, first : min(end, self.first_frame)]
            return np.concatenate([past, self.codes[:, : max(0, end - self.first_frame)]], axis=1)
        return self.codes[:, first - self.first_frame : end - self.first_frame]


def window_codes(codes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return ``[K, length]`` that begins with the given codes; the rest is ``UNKNOWN``."""
    room = np.full((len(codes), length), UNKNOWN, dtype=np.int64)
    room[:, : codes.shape[1]] = codes
    return room
