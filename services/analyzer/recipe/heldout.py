"""Recordings that no training hears, real and decoded, under every condition of the evaluation.

    python -m services.analyzer.recipe.heldout

Writes int16 ``[N, 10 s]`` at 24 kHz, one file a condition and class. "calibration" has a clean and a changed half;
"test" has the conditions of `services.analyzer.evaluate`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from services.analyzer.recipe import augment, decoders, segments
from services.analyzer.recipe.augment import Change
from services.analyzer.recipe.pairs import change
from services.analyzer.recipe.sources import RATE_HZ, Split
from services.models.tiny.checkpoints import replacing

FOLDER = Path("out/analyzer/heldout")
_ROWS: dict[Split, int] = {"calibration": 110, "test": 180, "foreign": 60}
_HOSTILE_ROWS = 50
"""Segments of the test under each condition but the clean one, which has all."""

HOSTILE: dict[str, Change] = {
    "mp3_64k": lambda audio: augment.lossy(audio, "mp3", 64_000, 44_100),
    "aac_64k": lambda audio: augment.lossy(audio, "aac", 64_000, 44_100),
    "opus_64k": lambda audio: augment.lossy(audio, "opus", 64_000, 48_000),
    "pitch_up_2": lambda audio: augment.pitched(audio, 2),
    "pitch_down_2": lambda audio: augment.pitched(audio, -2),
    "noise_20db": lambda audio: augment.noise(audio, 20.0, seed=20),
    "resampled_16k": lambda audio: augment.resampled(audio, 16_000),
}
CONDITIONS: dict[str, tuple[Split, str, str]] = {
    "clean": ("test", "clean.real", "clean.generated"),
    **{name: ("test", f"{name}.real", f"{name}.generated") for name in HOSTILE},
    "unseen_decoder": ("test", "clean.real", "unseen_decoder.generated"),
    "encodec_round_trip": ("test", "clean.real", "encodec_round_trip.generated"),
    "sound_codec": ("test", "sound_codec.real", "sound_codec.generated"),
    "foreign_audio": ("foreign", "clean.real", "clean.generated"),
    "griffin_lim": ("test", "clean.real", "clean.generated"),
    "clean_with_griffin_lim": ("test", "clean.real", "clean.generated"),
}
"""The test's conditions: split, real and generated audio; `rows` says which of their rows."""
_ANY_DECODER = ("unseen_decoder", "encodec_round_trip", "sound_codec")
"""What made the generated half is not what rows.jsonl says."""


def load(split: Split, name: str, folder: Path = FOLDER) -> np.ndarray:
    """Return one file of held-out audio, read-only. Raises `FileNotFoundError` with the command that makes it."""
    path = folder / split / f"{name}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run python -m services.analyzer.recipe.heldout first")
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def describe(split: Split, folder: Path = FOLDER) -> list[dict[str, str]]:
    """Return kind, source, recording and decoder of each row of a split. Raises `FileNotFoundError`."""
    path = folder / split / "rows.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run python -m services.analyzer.recipe.heldout first")
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_neural(split: Split, folder: Path = FOLDER) -> np.ndarray:
    """Tell by row of a split whether a neural decoder made the generated half: all but Griffin-Lim."""
    return np.array([not row["decoder"].startswith("griffin-lim") for row in describe(split, folder)])


def rows(condition: str) -> list[int]:
    """Return the rows that a condition takes: those of neural decoders, but where it is about Griffin-Lim."""
    split, _, generated = CONDITIONS[condition]
    neural = is_neural(split)[: len(load(split, generated))]
    if condition in _ANY_DECODER or condition == "clean_with_griffin_lim":
        return list(range(len(neural)))
    return [int(row) for row in np.flatnonzero(~neural if condition == "griffin_lim" else neural)]


def _write(split: Split, name: str, make: Callable[[], list[np.ndarray]]) -> None:
    path = FOLDER / split / f"{name}.npy"
    if path.exists():
        return
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, np.stack(make()))
    print(f"{split}: {name}", flush=True)


def _decoded(split: Split, rows: np.ndarray, names: list[str], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    low, high = segments.load(split, RATE_HZ), segments.load(split)
    return [decoders.decode(name, low[row], high[row], random) for name, row in zip(names, rows, strict=True)]


def build(split: Split) -> None:
    """Make what is missing of a split."""
    # Segments lie sorted by kind: the first of a fixed shuffle are a fair sample.
    rows = np.random.default_rng(11).permutation(len(segments.load(split)))[: _ROWS[split]]
    random = np.random.default_rng(12)
    names = [decoders.draw(random) for _ in rows]
    described = segments.describe(split)
    lines = [json.dumps({**described[row], "decoder": name}) for row, name in zip(rows, names, strict=True)]
    (FOLDER / split).mkdir(parents=True, exist_ok=True)
    (FOLDER / split / "rows.jsonl").write_text("\n".join(lines) + "\n")
    _write(split, "clean.real", lambda: [segments.load(split)[row] for row in rows])
    _write(split, "clean.generated", lambda: _decoded(split, rows, names, 13))
    real, generated = load(split, "clean.real"), load(split, "clean.generated")
    if split == "calibration":
        changes = [augment.draw(random)[1] for _ in rows]
        for name, clean in (("real", real), ("generated", generated)):
            _write(split, f"changed.{name}", lambda clean=clean: list(map(change, clean, changes)))  # type: ignore[misc]
    if split == "test":
        few = rows[:_HOSTILE_ROWS]
        for condition, by in HOSTILE.items():
            for name, clean in (("real", real), ("generated", generated)):
                _write(
                    split,
                    f"{condition}.{name}",
                    lambda clean=clean, by=by: [change(row, by) for row in clean[:_HOSTILE_ROWS]],  # type: ignore[misc]
                )
        _write(split, "unseen_decoder.generated", lambda: _decoded(split, few, [decoders.UNSEEN] * len(few), 14))
        trip = [decoders.ROUND_TRIP] * len(few)
        _write(split, "encodec_round_trip.generated", lambda: _decoded(split, few, trip, 15))
        sounds = [decoders.draw(random, "sound") for _ in few]
        _write(split, "sound_codec.generated", lambda: _decoded(split, few, sounds, 16))
        both = (segments.load(split, RATE_HZ)[few], segments.load(split)[few])
        _write(split, "sound_codec.real", lambda: list(map(decoders.reference, sounds, *both)))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for split in ("calibration", "test", "foreign"):
        build(split)


if __name__ == "__main__":
    main()
