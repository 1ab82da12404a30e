"""Estimators fitted to a corpus: what they hear in renders after the codec, and in what a model makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from services.models.loader import LoadedCodec, LoadedGenerator

from .compose import BEAT_FRAMES, INSTRUMENTS, MODES, TEMPI_BPM, Piece
from .corpus import read, split
from .encode import decoder, encoder
from .estimators import Classifier, frechet_distance, harmony, pulse, timbre, within
from .sounds import KINDS, Sound

SECONDS = 8
"""Of each piece that is judged."""
TOLERANCE = 0.06
_BATCH = 32


@dataclass(frozen=True)
class Verdict:
    """Shares, from 0 to 1, of pieces in which an attribute was heard as asked, and the distance to held-out renders."""

    shares: dict[str, float]
    frechet: float
    heard: dict[str, list[str]]


class _Ears:
    """Features of many pieces, a few at a time."""

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def __call__(self, audio: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        kinds = {"timbre": timbre, "pulse": pulse, "harmony": harmony}
        parts = [{name: kinds[name](batch, self.rate) for name in names} for batch in torch.split(audio, _BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in names}


class MusicJudge:
    """Hears instrument, tempo and mode.

    Attributes:
        ceiling: the verdict on reconstructions of renders that neither it nor the model was trained on.
        floor: the Fréchet distance between reconstructions of such renders and of those it was trained on.
        chance: what guessing gives.
    """

    features = ("timbre", "pulse", "harmony")

    def __init__(self, model: LoadedGenerator, data: Path, count: int) -> None:
        self._ears = _Ears(model.info.sample_rate_hz)
        pieces, audio = read(data, Piece), np.load(data / "audio.npy", mmap_mode="r")
        held = split(len(pieces))
        pieces = pieces[: held + count]
        heard = self._ears(reconstructions(model, audio[: len(pieces)]), self.features)
        self._names = list(INSTRUMENTS)
        instruments = torch.tensor([self._names.index(piece.instrument) for piece in pieces])
        tempi = torch.tensor([BEAT_FRAMES.index(piece.beat_frames) for piece in pieces])
        # Of the twelve views, that of the tonic; in each, one score for either mode.
        modes = torch.tensor([piece.root * len(MODES) + MODES.index(piece.mode) for piece in pieces])
        own = {name: rows[held:] for name, rows in heard.items()}
        self._instrument = Classifier(own["timbre"], instruments[held:], len(self._names))
        self._tempo = Classifier(own["pulse"], tempi[held:], len(TEMPI_BPM), hidden=96)
        self._mode = Classifier(own["harmony"], modes[held:], len(MODES), hidden=32)
        rest = {name: rows[:held] for name, rows in heard.items()}
        self._reference = self._instrument.embed(rest["timbre"])
        self.ceiling = self._judge(rest, pieces[:held])
        self.floor = frechet_distance(self._instrument.embed(own["timbre"]), self._reference)
        near = [sum(abs(tempo - asked) <= TOLERANCE * asked for tempo in TEMPI_BPM) for asked in TEMPI_BPM]
        self.chance = {
            "instrument": 1 / len(self._names),
            "tempo": sum(near) / len(TEMPI_BPM) ** 2,
            "mode": 1 / len(MODES),
        }

    def judge(self, audio: torch.Tensor, asked: Sequence[Piece]) -> Verdict:
        """Judge mono audio ``[N, T]`` by the pieces that its prompts described."""
        return self._judge(self._ears(audio, self.features), asked)

    def _judge(self, heard: dict[str, torch.Tensor], asked: Sequence[Piece]) -> Verdict:
        instruments = [self._names[i] for i in self._instrument.predict(heard["timbre"]).tolist()]
        tempi = [TEMPI_BPM[i] for i in self._tempo.predict(heard["pulse"]).tolist()]
        modes = [MODES[i] for i in self._mode.predict(heard["harmony"]).tolist()]
        shares = {
            "instrument": _share(instruments, [piece.instrument for piece in asked]),
            "tempo": within(tempi, [piece.tempo_bpm for piece in asked], TOLERANCE),
            "mode": _share(modes, [piece.mode for piece in asked]),
        }
        distance = frechet_distance(self._instrument.embed(heard["timbre"]), self._reference)
        return Verdict(shares, distance, {"instrument": instruments, "tempo": [str(t) for t in tempi], "mode": modes})


class SoundJudge:
    """Hears which kind of sound it is; attributes as ``MusicJudge``."""

    def __init__(self, model: LoadedGenerator, data: Path, count: int) -> None:
        self._ears = _Ears(model.info.sample_rate_hz)
        sounds, audio = read(data, Sound), np.load(data / "audio.npy", mmap_mode="r")
        held = split(len(sounds))
        sounds = sounds[: held + count]
        heard = self._ears(reconstructions(model, audio[: len(sounds)]), ["timbre"])["timbre"]
        self._names = list(KINDS)
        kinds = torch.tensor([self._names.index(sound.kind) for sound in sounds])
        self._kind = Classifier(heard[held:], kinds[held:], len(self._names))
        self._reference = self._kind.embed(heard[:held])
        self.ceiling = self._judge(heard[:held], sounds[:held])
        self.floor = frechet_distance(self._kind.embed(heard[held:]), self._reference)
        self.chance = {"sound": 1 / len(self._names)}

    def judge(self, audio: torch.Tensor, asked: Sequence[Sound]) -> Verdict:
        """Judge mono audio ``[N, T]`` by the sounds that its prompts described."""
        return self._judge(self._ears(audio, ["timbre"])["timbre"], asked)

    def _judge(self, heard: torch.Tensor, asked: Sequence[Sound]) -> Verdict:
        kinds = [self._names[i] for i in self._kind.predict(heard).tolist()]
        share = {"sound": _share(kinds, [sound.kind for sound in asked])}
        return Verdict(share, frechet_distance(self._kind.embed(heard), self._reference), {"sound": kinds})


def reconstructions(model: LoadedGenerator | LoadedCodec, clips: NDArray[np.int16]) -> torch.Tensor:
    """Return the first SECONDS of int16 clips ``[N, T]`` after the codec, float32 ``[N, T]``."""
    codec = model if isinstance(model, LoadedCodec) else LoadedCodec(model.codec, model.info)
    encode, decode = encoder(codec), decoder(codec)
    samples = SECONDS * model.info.sample_rate_hz
    parts = [decode(encode(clips[first : first + 8, :samples])) for first in range(0, len(clips), 8)]
    return torch.cat(parts)[:, :samples]


def _share(heard: Sequence[str], asked: Sequence[str]) -> float:
    return sum(h == a for h, a in zip(heard, asked, strict=True)) / len(asked)
