"""Codes of a neural codec, packed as `CodeFrames` in audio.proto describes.

Frame by frame and, in a frame, codebook by codebook, each code takes `bits_per_code` bits, least significant
bit first, in a string of bits that fills each byte from its least significant bit. Only the last byte is
padded, with zeros. So two codebooks of 4 bits with the frames (0x1, 0x2), (0x3, 0x4) are the bytes 0x21 0x43.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from antiphon.v1 import audio_pb2

__all__ = ["bits_per_code", "pack_codes", "unpack_codes"]

MAX_BITS = 16


def bits_per_code(codebook_size: int) -> int:
    """Returns the bits that a code of a codebook with `codebook_size` entries takes, 1 to 16.

    Raises:
        ValueError: The size is not 1 to 65536.
    """
    if not 1 <= codebook_size <= 1 << MAX_BITS:
        raise ValueError(f"codebook_size: {codebook_size} is not 1 to {1 << MAX_BITS}")
    return max(1, (codebook_size - 1).bit_length())


def pack_codes(
    codes: NDArray[np.integer], bits: int, *, first_frame: int = 0, scales: Sequence[float] = ()
) -> audio_pb2.CodeFrames:
    """Packs codes of shape [K, T] (codebooks, frames), each in `bits` bits.

    Raises:
        ValueError: The shape, the type or `bits` is wrong, or a code does not fit into `bits`.
    """
    if codes.ndim != 2 or codes.shape[0] < 1 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes: {codes.dtype} of shape {codes.shape} is not integers of shape [K, T]")
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits: {bits} is not 1 to {MAX_BITS}")
    if codes.size and not (codes.min() >= 0 and codes.max() < 1 << bits):
        raise ValueError(f"codes: {codes.min()} to {codes.max()} do not fit into {bits} bits")
    in_order = codes.T.reshape(-1, 1).astype(np.uint32)
    bit_string = (in_order >> np.arange(bits, dtype=np.uint32) & 1).astype(np.uint8)
    return audio_pb2.CodeFrames(
        first_frame=first_frame,
        frame_count=codes.shape[1],
        codebook_count=codes.shape[0],
        bits_per_code=bits,
        data=np.packbits(bit_string, bitorder="little").tobytes(),
        scales=scales,
    )


def unpack_codes(frames: audio_pb2.CodeFrames) -> NDArray[np.int32]:
    """Returns the codes in `frames`, int32 of shape [K, T].

    Raises:
        ValueError: The counts are out of range, or the data has another length than they say.
    """
    bits, codebooks = frames.bits_per_code, frames.codebook_count
    if not 1 <= bits <= MAX_BITS or codebooks < 1:
        raise ValueError(f"codes: {codebooks} codebooks of {bits} bits")
    used = frames.frame_count * codebooks * bits
    if len(frames.data) != (used + 7) // 8:
        raise ValueError(f"codes: {len(frames.data)} bytes, {(used + 7) // 8} expected")
    bit_string = np.unpackbits(np.frombuffer(frames.data, np.uint8), count=used, bitorder="little")
    codes = bit_string.reshape(-1, bits) @ (1 << np.arange(bits, dtype=np.int32))
    return np.ascontiguousarray(codes.reshape(frames.frame_count, codebooks).T, dtype=np.int32)
