"""Renders everyday sounds into a folder that the training steps read.

    python -m services.models.tiny.render_sounds --out out/tiny/sounds --clips 3000

Writes ``audio.npy`` (int16 ``[clips, samples]``, mono, 16 kHz) and ``captions.jsonl``, as ``render.py`` does for music.
Needs Debian's ``sonic-pi-samples`` (CC0).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .sound_captions import caption
from .sounds import SAMPLES, Sound


def _rendered(sound: Sound) -> NDArray[np.int16]:
    return np.asarray(sound.wave() * 32767.0).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/tiny/sounds"))
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sounds = [Sound.draw(2 * index) for index in range(options.clips)]
    shape = (len(sounds), SAMPLES)
    audio = np.lib.format.open_memmap(options.out / "audio.npy", mode="w+", dtype=np.int16, shape=shape)
    with ProcessPoolExecutor(options.jobs) as pool:
        for index, clip in enumerate(pool.map(_rendered, sounds, chunksize=16)):
            audio[index] = clip
    audio.flush()
    with (options.out / "captions.jsonl").open("w") as file:
        for sound in sounds:
            file.write(json.dumps({**asdict(sound), "caption": caption(sound, sound.seed)}) + "\n")
    print(f"rendered: {len(sounds)} clips, {len(sounds) * SAMPLES / 16_000 / 3600:.1f} hours, in {options.out}")


if __name__ == "__main__":
    main()
