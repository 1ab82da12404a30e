"""WAV files read a second at a time, for what is too long for one call."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def long_wav(file: BinaryIO, seconds: float) -> wave.Wave_read | None:
    """Opens a WAV file that is longer than so many seconds, where Python can read its layout."""
    try:
        wav = wave.open(file)  # noqa: SIM115 - the caller closes it
        # What claims to hold more than there is, is left to the server, which says what is wrong with it.
        frame_bytes, position = wav.getsampwidth() * wav.getnchannels(), file.tell()
        there = (file.seek(0, io.SEEK_END) - position) // frame_bytes
        file.seek(position)
    except (wave.Error, EOFError, OSError, ZeroDivisionError):
        return None
    is_whole = wav.getnframes() <= there and 1 <= wav.getsampwidth() <= 4 and wav.getframerate() > 0
    return wav if is_whole and wav.getnframes() > seconds * wav.getframerate() else None


def wav_blocks(wav: wave.Wave_read, reached: Callable[[float], None]) -> Iterator[NDArray[np.generic]]:
    """Yields [samples, channels], a second at a time, and tells how far it is, in seconds."""
    rate, channels, width = wav.getframerate(), wav.getnchannels(), wav.getsampwidth()
    done = 0
    while data := wav.readframes(rate):
        samples = _samples(data, width).reshape(-1, channels)
        yield samples
        done += len(samples)
        reached(done / rate)


def _samples(data: bytes, width: int) -> NDArray[np.generic]:
    if width == 2:
        return np.frombuffer(data, "<i2")
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if width == 4:
        return (np.frombuffer(data, "<i4") / 2**31).astype(np.float32)
    # Three bytes become the upper three of four, so that the sign is in its place.
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
