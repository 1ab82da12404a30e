"""What the language models learn from: codes on the disk, and the words that go with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import captions, sound_captions
from .compose import BEAT_FRAMES, INSTRUMENTS, MODES, PATTERNS, Piece
from .sounds import KINDS, PACES, Sound

FRAME_RATE_HZ = 50
LONGEST_HALF_BEAT = max(BEAT_FRAMES) // 2
"""In frames."""
HELD_OUT = 160
"""The first clips of every corpus are never trained on; fewer where there are few."""


class Corpus(Protocol):
    """Clips as codes int16 ``[clips, K, F]``, -1 where they are not encoded yet."""

    codes: NDArray[np.int16]
    sizes: Sequence[int]
    """How many classes each attribute of a clip has."""

    def attributes(self, index: int) -> Sequence[int]:
        """Return the class of each attribute of a clip."""

    def caption(self, index: int, seed: int) -> str:
        """Return one of many captions of a clip."""

    def starts(self, index: int, frames: int) -> list[int]:
        """Return the frames at which a crop of so many frames may begin; the first is 0."""

    def half_beat(self, index: int) -> int:
        """Return the frames of half a beat, 0 where nothing beats."""


class Music:
    """Composed pieces. A crop begins at a bar, so that its first frame is a beat."""

    sizes: Sequence[int] = (len(INSTRUMENTS), len(BEAT_FRAMES), len(MODES), 12, len(PATTERNS), 2)

    def __init__(self, data: Path) -> None:
        self.codes = np.load(data / "codes.npy", mmap_mode="r")
        self.pieces = read(data, Piece)

    def attributes(self, index: int) -> Sequence[int]:
        piece = self.pieces[index]
        return (
            list(INSTRUMENTS).index(piece.instrument),
            BEAT_FRAMES.index(piece.beat_frames),
            MODES.index(piece.mode),
            piece.root,
            PATTERNS.index(piece.pattern),
            int(piece.drums),
        )

    def caption(self, index: int, seed: int) -> str:
        # Every second one names all that the model is judged by.
        return captions.caption(self.pieces[index], seed, complete=seed % 2 == 0)

    def starts(self, index: int, frames: int) -> list[int]:
        return list(range(0, max(0, self.codes.shape[2] - frames) + 1, 4 * self.pieces[index].beat_frames))

    def half_beat(self, index: int) -> int:
        return self.pieces[index].beat_frames // 2


class Sounds:
    """Everyday sounds. A crop begins at any half second."""

    sizes: Sequence[int] = (len(KINDS), len(sound_captions.NAMES), len(PACES), 2)

    def __init__(self, data: Path) -> None:
        self.codes = np.load(data / "codes.npy", mmap_mode="r")
        self.sounds = read(data, Sound)

    def attributes(self, index: int) -> Sequence[int]:
        sound = self.sounds[index]
        detail = list(sound_captions.NAMES).index((sound.kind, sound.detail))
        return list(KINDS).index(sound.kind), detail, PACES.index(sound.pace), int(sound.distant)

    def caption(self, index: int, seed: int) -> str:
        return sound_captions.caption(self.sounds[index], seed)

    def starts(self, index: int, frames: int) -> list[int]:
        return list(range(0, self.codes.shape[2] - frames + 1, FRAME_RATE_HZ // 2))

    def half_beat(self, index: int) -> int:
        return 0


Drawn = TypeVar("Drawn", Piece, Sound)


def read(data: Path, kind: type[Drawn]) -> list[Drawn]:
    """Return the pieces or sounds of a rendered folder, in the order of its clips."""
    names = {field.name for field in fields(kind)}
    with (data / "captions.jsonl").open() as file:
        return [kind(**{k: v for k, v in json.loads(line).items() if k in names}) for line in file]


def split(count: int) -> int:
    """Return how many of the first clips are held out."""
    return min(HELD_OUT, count // 10)
