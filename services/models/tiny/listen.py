"""Listens to a piece of music by measurement.

    python -m services.models.tiny.listen out/demo.wav

Prints the tempo whose half beats catch most of the onsets, how much of the onsets' strength lies within an eighth of a
half beat around them (a quarter would by chance), the scale that holds most of the sound, and its share (seven of the
twelve pitch classes would hold 0.58 of noise). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile
import torch
import torchaudio

from .compose import FRAME_SECONDS
from .estimators import PULSE_HOP_SECONDS, pitch_classes

_NAMES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_NEAR = 0.125


@dataclass(frozen=True)
class Heard:
    """What a piece sounds like.

    Attributes:
        on_grid: share of the onsets' strength near half beats of that tempo, 0 to 1.
        on_scale: share of the pitch classes' strength on that scale, 0 to 1.
        scale: a major scale; that of the relative minor key is the same.
    """

    tempo_bpm: int
    on_grid: float
    scale: str
    on_scale: float
    rms: float
    peak: float


def listen(audio: torch.Tensor, rate: int) -> Heard:
    """Return what mono audio ``[T]`` sounds like; of some seconds at least."""
    tempo, on_grid = _grid(audio, rate)
    scale, on_scale = _scale(audio, rate)
    rms, peak = float(audio.square().mean().sqrt()), float(audio.abs().max())
    return Heard(tempo, round(on_grid, 3), scale, round(on_scale, 3), round(rms, 4), round(peak, 4))


def _grid(audio: torch.Tensor, rate: int) -> tuple[int, float]:
    mel = torchaudio.transforms.MelSpectrogram(rate, n_fft=1024, hop_length=round(rate * PULSE_HOP_SECONDS), n_mels=40)
    level = audio / audio.square().mean().sqrt().clamp(min=1e-4)
    onsets = (mel(level) + 1e-2).log().diff(dim=-1).clamp(min=0.0).mean(0)
    onsets = (onsets - onsets.median()).clamp(min=0.0)
    times = torch.arange(len(onsets)) * PULSE_HOP_SECONDS
    best = (0, 0.0)
    for half_beat in torch.arange(19.0, 51.0, 0.5) * FRAME_SECONDS / 2:
        phase = times / half_beat
        for shift in torch.arange(0.0, 1.0, 0.05):
            distance = ((phase + shift + 0.5) % 1.0 - 0.5).abs()
            share = float(onsets[distance <= _NEAR].sum() / onsets.sum().clamp(min=1e-6))
            if share > best[1]:
                best = (round(30.0 / float(half_beat)), share)
    return best


def _scale(audio: torch.Tensor, rate: int) -> tuple[str, float]:
    size = 8192
    spectrum = torch.stft(audio[None], size, size // 4, window=torch.hann_window(size), return_complex=True).abs()
    frequencies = torch.arange(spectrum.shape[1]) * rate / size
    strength = pitch_classes(spectrum.square(), frequencies, 110.0, 1500.0)[0].square().mean(-1)
    shares = [float(strength[[(root + step) % 12 for step in _MAJOR]].sum() / strength.sum()) for root in range(12)]
    root = max(range(12), key=lambda i: shares[i])
    return f"{_NAMES[root]} major or {_NAMES[(root + 9) % 12]} minor", shares[root]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    samples, rate = soundfile.read(options.file, dtype="float32", always_2d=True)
    audio = torch.from_numpy(samples.mean(axis=1))
    print(json.dumps(asdict(listen(audio, rate))))


if __name__ == "__main__":
    main()
