"""Samples to bytes and back, and WAV files that are valid while they are being written."""

from __future__ import annotations

import os
import struct
from io import UnsupportedOperation
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from antiphon.results import Chunk

__all__ = ["Encoding", "OutputEncoding", "Samples", "WavWriter", "from_pcm", "to_pcm16"]

Encoding = Literal["pcm_f32le", "pcm_s16le"]
"""How the bytes of audio are laid out: interleaved little-endian 32-bit floats or 16-bit integers."""

OutputEncoding = Literal["pcm_f32le", "pcm_s16le", "wav", "flac", "ogg_opus", "mp3"]
"""The same, or the file that the bytes are."""

Samples = NDArray[np.float32]
"""Audio of shape [samples, channels]; full scale is 1.0, peaks may pass it."""

FULL_SCALE = 32767
KNEE = 0.9
# Of a WAV whose length nobody knows yet and whose header can't be written again (a pipe).
UNKNOWN_LENGTH = 0xFFFFFFFF
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def from_pcm(data: bytes, encoding: Encoding, channel_count: int) -> Samples:
    """Returns the samples in `data`, shape [samples, channels].

    Raises:
        ValueError: The data does not hold whole samples of every channel.
    """
    width = 4 if encoding == "pcm_f32le" else 2
    if channel_count < 1 or len(data) % (width * channel_count):
        raise ValueError(f"audio: {len(data)} bytes are not whole {encoding} samples of {channel_count} channels")
    if encoding == "pcm_f32le":
        flat = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    else:
        flat = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(FULL_SCALE)
    return flat.reshape(-1, channel_count)


def to_pcm16(samples: NDArray[np.floating]) -> bytes:
    """Returns the samples as interleaved 16-bit little-endian integers.

    Up to 0.9 of full scale nothing changes. Above, a smooth curve bends peaks below full scale, because
    neural codecs overshoot and cut-off peaks are audible. The curve looks at one sample only, so joined
    chunks are the same as the whole. NaN becomes silence.
    """
    level = np.abs(np.nan_to_num(samples, posinf=2.0, neginf=-2.0))
    bent = np.where(level > KNEE, KNEE + (1 - KNEE) * np.tanh((level - KNEE) / (1 - KNEE)), level)
    pcm: NDArray[np.int16] = np.rint(np.copysign(bent, samples) * FULL_SCALE).astype("<i2")
    return pcm.tobytes()


class WavWriter:
    """Writes a 16-bit WAV file while the audio comes in.

    After every `write` the header tells the length that the file has, so the file is valid even when the
    process dies. A destination that can't seek (a pipe) gets one header, with `total_samples` if given.

    Args:
        destination: A path, or a binary file, which stays open on `close`. A path is opened, and an old file
            there replaced, when the rate and the channels are known.
        sample_rate_hz: Samples a second of each channel; default: the first chunk's.
        channel_count: Default: the first chunk's.
        total_samples: Samples of each channel that the piece will have, where it is known.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str] | BinaryIO,
        *,
        sample_rate_hz: int | None = None,
        channel_count: int | None = None,
        total_samples: int | None = None,
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.channel_count = channel_count
        self._total_samples = total_samples
        self._destination = destination
        self._file: BinaryIO | None = None
        self._start: int | None = None
        self._written_bytes = 0
        self._closed = False

    @property
    def sample_count(self) -> int:
        """Samples of each channel written so far."""
        return self._written_bytes // (2 * (self.channel_count or 1))

    @property
    def duration_seconds(self) -> float:
        """Length of the audio written so far."""
        return self.sample_count / (self.sample_rate_hz or 1)

    def write(self, audio: Chunk | Samples) -> None:
        """Appends a chunk, or samples of shape [samples, channels], and brings the header up to date.

        Raises:
            ValueError: The writer is closed, or rate or channels are unknown or not those of the file.
            OSError: The destination can't be written.
        """
        if self._closed:
            raise ValueError("the WAV file is closed")
        if isinstance(audio, np.ndarray):
            self._settle(self.sample_rate_hz, audio.shape[1])
            data = to_pcm16(audio)
        else:
            self._settle(audio.sample_rate_hz, audio.samples.shape[1])
            data = audio.data if audio.encoding == "pcm_s16le" else to_pcm16(audio.samples)
        file = self._opened()
        file.write(data)
        # The data reaches the file before the header that counts it.
        file.flush()
        self._written_bytes += len(data)
        self.flush()

    def flush(self) -> None:
        """Makes the file valid as it stands: header up to date, nothing held back.

        Raises:
            OSError: The destination can't be written.
        """
        if self.sample_rate_hz is None or self.channel_count is None:
            return
        file = self._opened()
        if self._start is not None:
            file.seek(self._start)
            file.write(self._header(self._written_bytes))
            file.seek(self._start + _HEADER.size + self._written_bytes)
        file.flush()

    def close(self) -> None:
        """Finishes the file. Closing twice does nothing."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            if self._file is not None and self._file is not self._destination:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, rate: int | None, channels: int) -> None:
        if rate is None:
            raise ValueError("sample_rate_hz: needed to write bare samples")
        known = (self.sample_rate_hz or rate, self.channel_count or channels)
        if known != (rate, channels):
            raise ValueError(f"audio: {rate} Hz and {channels} channels, the file has {known[0]} Hz and {known[1]}")
        self.sample_rate_hz, self.channel_count = known

    def _opened(self) -> BinaryIO:
        if self._file is None:
            if isinstance(self._destination, (str, os.PathLike)):
                self._file = Path(self._destination).open("wb")  # noqa: SIM115 - closed in close()
            else:
                self._file = self._destination
            self._start = _position(self._file)
            planned = None if self._total_samples is None else self._total_samples * 2 * (self.channel_count or 1)
            self._file.write(self._header(planned if self._start is None else 0))
        return self._file

    def _header(self, data_bytes: int | None) -> bytes:
        rate, channels = self.sample_rate_hz or 0, self.channel_count or 0
        length = UNKNOWN_LENGTH if data_bytes is None else min(data_bytes, UNKNOWN_LENGTH)
        riff = min(length + _HEADER.size - 8, UNKNOWN_LENGTH)
        # fmt: 16 bytes, integer PCM, channels, rate, bytes a second, bytes a sample of all channels, bits.
        form = (16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
        return _HEADER.pack(b"RIFF", riff, b"WAVE", b"fmt ", *form, b"data", length)


def _position(file: BinaryIO) -> int | None:
    """Where the header starts, or None where it can't be written again."""
    try:
        return file.tell() if file.seekable() else None
    except (OSError, UnsupportedOperation):
        return None
