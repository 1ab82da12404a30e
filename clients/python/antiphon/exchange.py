"""What all streams of both clients share, and how chunks of audio are read; nothing here waits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from antiphon.errors import ProtocolError, reported
from antiphon.messages import read_encoding, read_samples
from antiphon.results import Chunk
from antiphon.v1 import audio_pb2

ResponseT = TypeVar("ResponseT")
OutT = TypeVar("OutT")


class Exchange(ABC, Generic[ResponseT, OutT]):
    """A running call with many responses.

    Attributes:
        request_id: The id under which the server logs the call.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    @abstractmethod
    def cancel(self) -> None:
        """Ends the call at once; iterating on raises CancelledError. After the end it does nothing."""

    def _read(self, response: ResponseT) -> OutT | None:
        """Takes a response in; returns what the caller gets of it, if anything.

        Raises:
            ProtocolError: The response breaks the contract.
        """
        with reported(self.request_id):
            return self._take(response)

    @abstractmethod
    def _take(self, response: ResponseT) -> OutT | None:
        """Does what `_read` says."""

    @abstractmethod
    def _end(self) -> None:
        """Checks that the stream may end here.

        Raises:
            ProtocolError: The server ended the call too early.
        """


class ChunkReader:
    """Reads the chunks of one piece, and finds gaps.

    Attributes:
        final_seen: Whether the last chunk has come.
        sample_count: Samples of each channel that have come.
    """

    def __init__(self, form: audio_pb2.AudioFormat) -> None:
        self.final_seen = False
        self.sample_count = 0
        self._form = form
        self._encoding = read_encoding(form)
        self._next_sequence = 0
        self._count = 0

    def renew(self) -> None:
        """Expect a stream that goes on with the next sample and counts its chunks anew; those returned count on."""
        self._next_sequence = 0

    def read(self, audio: audio_pb2.AudioChunk) -> Chunk:
        """Returns a chunk.

        Raises:
            ProtocolError: It is not the next one, or not what it announces.
        """
        if self.final_seen:
            raise ProtocolError(f"audio: chunk {audio.sequence} came after the last one")
        if audio.sequence != self._next_sequence:
            raise ProtocolError(f"audio: chunk {audio.sequence} came, {self._next_sequence} was due")
        if audio.first_sample != self.sample_count:
            raise ProtocolError(f"audio: sample {audio.first_sample} came, {self.sample_count} was due")
        if self._encoding in ("pcm_f32le", "pcm_s16le"):
            samples = read_samples(audio.data, self._form)
            if len(samples) != audio.sample_count:
                raise ProtocolError(f"audio: {len(samples)} samples came, the chunk announces {audio.sample_count}")
        else:
            samples = np.zeros((0, self._form.channel_count), np.float32)
        self._next_sequence += 1
        number, self._count = self._count, self._count + 1
        self.sample_count += audio.sample_count
        self.final_seen = audio.is_final
        return Chunk(
            samples=samples,
            sequence=number,
            first_sample=audio.first_sample,
            sample_rate_hz=self._form.sample_rate_hz,
            is_final=audio.is_final,
            data=audio.data,
            encoding=self._encoding,
        )
