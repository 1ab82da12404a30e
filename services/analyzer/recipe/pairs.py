"""The training set on disk: real audio beside what a decoder makes of it, each clean and augmented.

    python -m services.analyzer.recipe.pairs

Shards of int16 ``[pairs, 2 (real, decoded), 2 (clean, changed), T]`` at 24 kHz. Shards take their decoders from the
codecs and from the variants in turn; the last ones begin the segments again, with the codec of sounds. A shard that is
there is not made again, and training takes the shards that it finds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from services.analyzer.recipe import augment, decoders, segments
from services.analyzer.recipe.sources import RATE_HZ
from services.models.tiny.checkpoints import replacing

FOLDER = Path("out/analyzer/pairs")
_PAIRS_A_SHARD = 40
_SOUND_SHARDS = 12


def change(audio: np.ndarray, by: augment.Change) -> np.ndarray:
    """Apply a change to int16 ``[T]``."""
    return segments.to_pcm(by(torch.from_numpy(audio.astype(np.float32) / 32768.0)))


def build_shard(number: int, folder: Path = FOLDER) -> None:
    """Make one shard; its draws depend on nothing but its number."""
    random = np.random.default_rng([7, number])
    low, high = segments.load("training", RATE_HZ), segments.load("training")
    order = np.random.default_rng(0).permutation(len(high))
    round_, place = divmod(number, _shards_a_round(len(high)))
    rows = order[place * _PAIRS_A_SHARD : (place + 1) * _PAIRS_A_SHARD]
    shard = np.zeros((len(rows), 2, 2, high.shape[1]), np.int16)
    lines = []
    group = "sound" if round_ else ("codec", "variant")[number % 2]
    for pair, row in zip(shard, rows, strict=True):
        name = decoders.draw(random, group)
        pair[0, 0] = decoders.reference(name, low[row], high[row])
        pair[1, 0] = decoders.decode(name, low[row], high[row], random)
        label, by = augment.draw(random)
        pair[:, 1] = [change(audio, by) for audio in pair[:, 0]]
        lines.append(json.dumps({"segment": int(row), "decoder": name, "change": label}))
    (folder / f"{number:03d}.jsonl").write_text("\n".join(lines) + "\n")
    with replacing(folder / f"{number:03d}.npy") as path, path.open("wb") as file:
        np.save(file, shard)


def _shards_a_round(segments_: int) -> int:
    return -(-segments_ // _PAIRS_A_SHARD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("N", "OF"), help="every OF-th, from N")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    shards = _shards_a_round(len(segments.load("training"))) + _SOUND_SHARDS
    for number in range(options.part[0], shards, options.part[1]):
        if not (FOLDER / f"{number:03d}.npy").exists():
            build_shard(number)
            print(f"{number + 1} of {shards} shards", flush=True)


if __name__ == "__main__":
    main()
