"""Encodes rendered audio once, for the language models.

    python -m services.models.tiny.encode --codec out/tiny/codec --data out/tiny/data

Writes ``codes.npy`` (int16 ``[clips, K, frames]``) into the data folder. It may run beside the rendering, and training
beside it: a clip that is still silent is waited for, and one without codes yet holds -1. It goes on where it stopped.
On a CPU the services' own streaming encoder does the work; its codes are AudioCraft's, ties aside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.models.codecs import Frames, codec_of
from services.models.loader import LoadedCodec, load_codec

BATCH = 8


def encoder(loaded: LoadedCodec) -> Callable[[NDArray[np.int16]], NDArray[np.int16]]:
    """Return a function from int16 clips ``[N, T]`` to their codes ``[N, K, F]``."""
    count = loaded.info.codebook_count
    if loaded.info.device != "cpu":
        return lambda clips: _encode_whole(loaded.model, clips, loaded.info.device)
    codec = codec_of(loaded.model)

    def encode(clips: NDArray[np.int16]) -> NDArray[np.int16]:
        waves = [torch.from_numpy(np.array(clip)).float().div_(32768.0)[None] for clip in clips]
        made = [codec.encode_many([codec.encoding(count)], [wave], [True])[0].codes for wave in waves]
        return np.stack([codes.numpy() for codes in made]).astype(np.int16)

    return encode


def decoder(loaded: LoadedCodec) -> Callable[[NDArray[np.int16]], torch.Tensor]:
    """Return a function from codes ``[N, K, F]`` to float32 audio ``[N, T]``, mono, on the CPU."""
    codec = codec_of(loaded.model)

    def decode(codes: NDArray[np.int16]) -> torch.Tensor:
        blocks = [Frames(torch.from_numpy(np.array(rows)).long()) for rows in codes]
        return torch.stack([codec.decode_many([codec.decoding()], [block], [True])[0][0] for block in blocks])

    return decode


@torch.inference_mode()
def _encode_whole(model: Any, clips: NDArray[np.int16], device: str) -> NDArray[np.int16]:
    waves = torch.from_numpy(np.array(clips)).to(device).float().div_(32768.0)
    return np.asarray(model.encode(waves[:, None])[0].to(torch.int16).cpu().numpy())


def encode_all(loaded: LoadedCodec, data: Path, patience_seconds: float = 300.0) -> Path:
    """Encode what ``audio.npy`` holds; return the path of the codes.

    Raises:
        TimeoutError: a clip stays silent for longer than that.
    """
    audio = np.load(data / "audio.npy", mmap_mode="r")
    path = data / "codes.npy"
    if path.exists():
        codes = np.lib.format.open_memmap(path, mode="r+")
    else:
        frames = -(-audio.shape[1] * round(loaded.info.frame_rate_hz) // loaded.info.sample_rate_hz)
        shape = (len(audio), loaded.info.codebook_count, frames)
        codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=shape)
        codes[:] = -1
    encode = encoder(loaded)
    for first in range(0, len(audio), BATCH):
        rows = slice(first, first + BATCH)
        if (codes[rows] >= 0).all():
            continue
        deadline = time.monotonic() + patience_seconds
        while not audio[rows, ::97].any(axis=1).all():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{data / 'audio.npy'}: clips from {first} on are silent: the rendering has stopped")
            time.sleep(1.0)
        codes[rows] = encode(audio[rows])
    codes.flush()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="out/tiny/codec", help="folder of a checkpoint, or its name")
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    path = encode_all(load_codec(options.codec, options.device), options.data)
    print(f"encoded: {path}")


if __name__ == "__main__":
    main()
