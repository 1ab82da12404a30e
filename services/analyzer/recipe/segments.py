"""Segments of real audio at 32 and at 24 kHz, cut once from the recordings of each split.

    python -m services.analyzer.recipe.segments

All real audio takes the way through 32 kHz, whatever its own rate, and is 16-bit: what comes out of a decoder does the
same, so that neither tells them apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from services.analyzer.recipe.sources import RATE_HZ, SPLITS, Recording, Split, recordings
from services.models.resampling import convert

FOLDER = Path("out/analyzer/segments")
MODEL_RATE_HZ = 24_000
SECONDS: dict[Split, float] = {"training": 4.0, "calibration": 10.0, "test": 10.0, "foreign": 10.0}
COUNTS: dict[Split, dict[str, int]] = {
    "training": {"render": 560, "music": 480, "speech": 320, "effects": 160},
    "calibration": {"render": 80, "music": 60, "speech": 50, "effects": 20},
    "test": {"render": 90, "music": 90, "speech": 80, "effects": 30},
    "foreign": {"render": 0, "music": 50, "speech": 50, "effects": 0},
}
_QUIETEST_RMS = 10 ** (-45 / 20)
_SILENT_RMS = 10 ** (-65 / 20)


def load(split: Split, rate_hz: int = MODEL_RATE_HZ, folder: Path = FOLDER) -> np.ndarray:
    """Return the segments of a split as a read-only int16 ``[N, T]``. Raises `FileNotFoundError`."""
    path = folder / f"{split}-{rate_hz}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path}: run python -m services.analyzer.recipe.segments first")
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def describe(split: Split, folder: Path = FOLDER) -> list[dict[str, str]]:
    """Return source, kind and recording of each segment of a split."""
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def to_pcm(audio: torch.Tensor) -> np.ndarray:
    """Return float audio as int16, clipped."""
    clipped: np.ndarray = (audio.clamp(-1, 1) * 32767.0).round().numpy().astype(np.int16)
    return clipped


def cut(audio: torch.Tensor, seconds: float, most: int, random: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield up to `most` parts of ``[T]`` at 32 kHz that do not overlap and are not silent."""
    length = round(seconds * RATE_HZ)
    places = [start * length for start in range(audio.shape[0] // length)]
    slack = audio.shape[0] - len(places) * length
    offset = int(random.integers(0, slack + 1))
    random.shuffle(places)
    for start in places:
        if not most:
            return
        part = audio[start + offset : start + offset + length]
        windows = part[: part.shape[0] // RATE_HZ * RATE_HZ].reshape(-1, RATE_HZ)
        if part.square().mean().sqrt() > _QUIETEST_RMS and bool((windows.square().mean(1).sqrt() > _SILENT_RMS).all()):
            yield part
            most -= 1


def build(split: Split, available: list[Recording], folder: Path = FOLDER) -> None:
    """Cut one split and write it."""
    random = np.random.default_rng(SPLITS.index(split))
    parts: list[torch.Tensor] = []
    lines: list[str] = []
    for kind, count in COUNTS[split].items():
        pool = [recording for recording in available if recording.split == split and recording.kind == kind]
        random.shuffle(pool)
        each = max(1, -(-count * 5 // (4 * max(1, len(pool)))))
        taken = 0
        for recording in pool:
            for part in cut(recording.read(), SECONDS[split], min(each, count - taken), random):
                parts.append(part)
                taken += 1
                lines.append(json.dumps({"kind": kind, "source": recording.source, "recording": recording.name}))
            if taken == count:
                break
        print(f"{split}: {kind}: {taken} of {count} segments from {len(pool)} recordings", flush=True)
    if not parts:
        return
    audio = torch.stack(parts)
    # One overall level of the loud ones: what passes full scale would be clipped, on one class more than the other.
    audio = audio / audio.abs().amax(dim=1, keepdim=True).clamp(min=0.9) * 0.9
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{split}-{RATE_HZ}.npy", to_pcm(audio))
    model_rate = torch.cat([convert(block, RATE_HZ, MODEL_RATE_HZ, block.shape[0]) for block in torch.split(audio, 16)])
    np.save(folder / f"{split}-{MODEL_RATE_HZ}.npy", to_pcm(model_rate))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    available = recordings()
    for split in SPLITS:
        if not (FOLDER / f"{split}.jsonl").exists():
            build(split, available)


if __name__ == "__main__":
    main()
