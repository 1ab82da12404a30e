"""A caller's pieces of audio as the chunks of one stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.audio import OutputEncoding
from antiphon.messages import output_format, refused
from antiphon.v1 import audio_pb2

PIECE_SAMPLES = 1 << 16


class ChunkWriter:
    """Counts the samples, and keeps to the type that came first: 16-bit integers travel as they are.

    Args:
        sample_rate_hz: of all pieces.
        channel_count: of all pieces.
    """

    def __init__(self, sample_rate_hz: int, channel_count: int) -> None:
        self._rate, self._channels = sample_rate_hz, channel_count
        self._dtype: np.dtype[Any] | None = None
        self._chunks = self._samples = 0

    @property
    def form(self) -> audio_pb2.AudioFormat:
        """What the chunks hold; it is settled by the first piece.

        Raises:
            InvalidArgumentError: The rate or the channels can't be sent.
        """
        encoding: OutputEncoding = "pcm_s16le" if self._dtype == np.dtype("<i2") else "pcm_f32le"
        return output_format(encoding, self._rate, self._channels)

    def checked(self, item: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns a piece as [samples, channels].

        Raises:
            InvalidArgumentError: Its shape or its type is another than announced, or than that of the first one.
        """
        samples = item[:, None] if item.ndim == 1 else item
        if samples.ndim != 2 or samples.shape[1] != self._channels:
            raise refused("audio", f"shape {item.shape} is not [samples, {self._channels}]")
        is_integer = samples.dtype == np.int16
        if not is_integer and samples.dtype.kind != "f":
            raise refused("audio", f"{samples.dtype} is neither float nor 16-bit integers")
        if self._dtype is None:
            self._dtype = np.dtype("<i2" if is_integer else "<f4")
        if is_integer != (self._dtype == np.dtype("<i2")):
            raise refused("audio", f"{samples.dtype} is neither float nor 16-bit integers, from first to last")
        return samples

    def chunks(self, samples: NDArray[np.generic]) -> Iterator[audio_pb2.AudioChunk]:
        """Yields what carries a checked piece."""
        assert self._dtype is not None
        for start in range(0, len(samples), PIECE_SAMPLES):
            piece = samples[start : start + PIECE_SAMPLES]
            yield self._chunk(piece.astype(self._dtype).tobytes(), len(piece))

    def last(self) -> audio_pb2.AudioChunk:
        """Returns the chunk that ends the stream."""
        return self._chunk(b"", 0, is_final=True)

    def _chunk(self, data: bytes, count: int, *, is_final: bool = False) -> audio_pb2.AudioChunk:
        chunk = audio_pb2.AudioChunk(
            sequence=self._chunks, first_sample=self._samples, sample_count=count, data=data, is_final=is_final
        )
        self._chunks += 1
        self._samples += count
        return chunk
