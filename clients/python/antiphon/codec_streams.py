"""The codec's two streams, as far as neither waits: what is sent for each piece, and how the responses are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Literal, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from antiphon.audio import OutputEncoding
from antiphon.chunk_writer import ChunkWriter
from antiphon.codes import bits_per_code, pack_codes
from antiphon.errors import FailedPreconditionError, ProtocolError
from antiphon.exchange import ChunkReader, Exchange, OutT, ResponseT
from antiphon.messages import output_format, put, read_codes, refused
from antiphon.results import Chunk, EncodedAudio, EncodedChunk
from antiphon.v1 import audio_pb2, codec_pb2

Quality = Literal["draft", "standard", "high"]
"""A target in place of a bandwidth and a decoder."""
Decoder = Literal["encodec", "multi_band_diffusion"]
"""Which network turns codes into a waveform."""

ItemT = TypeVar("ItemT")
PIECE_FRAMES = 1 << 12


class EncodeOptions(TypedDict, total=False):
    """What may be said of an encoding. `bandwidth_kbps`, `codebook_count` and `quality` exclude each other."""

    model: str
    """Name of the model as in `list_models`; default: the server's."""
    bandwidth_kbps: float
    """Kilobits a second, rounded down to whole codebooks; default: all codebooks."""
    codebook_count: int
    """Codebooks, in place of the bandwidth."""
    quality: Quality | None
    """A target in place of both."""


class DecodeOptions(TypedDict, total=False):
    """What may be said of a decoding."""

    model: str
    """Name of the model as in `list_models`; default: the one that encoded, else the server's."""
    codebook_size: int
    """Entries of each codebook; default 1024. Only for codes that come without what `encode` says of them."""
    sample_count: int
    """Samples of each channel to return, at the model's rate; default: what the codes stand for."""
    decoder: Decoder | None
    """The network; default: the model's own."""
    quality: Quality | None
    """A target in place of a decoder."""
    sample_rate_hz: int
    """Rate of the result; default: the model's own."""
    channel_count: int
    """Channels of the result, 1 or 2; default: the model's own."""


def put_choice(message: Any, name: str, prefix: str, value: str | None) -> None:
    """Sets an enum's field by the short name of its value.

    Raises:
        InvalidArgumentError: There is no such value.
    """
    if value is None:
        return
    values = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_name
    if f"{prefix}_{value.upper()}" not in values:
        choices = ", ".join(known.removeprefix(f"{prefix}_").lower() for known in list(values)[1:])
        raise refused(name, f"{value!r} is not one of {choices}")
    setattr(message, name, values[f"{prefix}_{value.upper()}"].number)


def put_encoding(request: Any, options: EncodeOptions) -> None:
    """Sets the fields that EncodeRequest and StreamEncodeConfig share."""
    for name in ("model", "bandwidth_kbps", "codebook_count"):
        put(request, name, options.get(name))
    put_choice(request, "quality", "QUALITY", options.get("quality"))


def put_decoding(request: Any, options: DecodeOptions, encoding: OutputEncoding) -> None:
    """Sets the fields that DecodeRequest and StreamDecodeConfig share."""
    put(request, "model", options.get("model"))
    put(request, "sample_count", options.get("sample_count"))
    put_choice(request, "decoder", "DECODER", options.get("decoder"))
    put_choice(request, "quality", "QUALITY", options.get("quality"))
    form = output_format(encoding, options.get("sample_rate_hz", 0), options.get("channel_count", 0))
    request.output_format.CopyFrom(form)


class Feed(Exchange[ResponseT, OutT], Generic[ItemT, ResponseT, OutT]):
    """A stream that sends something for each piece that the caller gives."""

    @abstractmethod
    def _messages(self, item: ItemT) -> Iterator[Any]:
        """Yields what is sent for a piece, and before the first one.

        Raises:
            InvalidArgumentError: The piece can't be sent.
        """

    @abstractmethod
    def _last(self) -> Iterator[Any]:
        """Yields what goes after the pieces."""


class EncodeState(Feed[NDArray[np.generic], codec_pb2.StreamEncodeResponse, EncodedChunk]):
    """Audio in, codes out."""

    def __init__(self, request_id: str, sample_rate_hz: int, channel_count: int, options: EncodeOptions) -> None:
        super().__init__(request_id)
        self._config = codec_pb2.StreamEncodeConfig()
        put_encoding(self._config, options)
        self._writer = ChunkWriter(sample_rate_hz, channel_count)
        self._is_configured = False
        self._started: codec_pb2.EncodeResponse | None = None
        self._finished: codec_pb2.EncodeResponse | None = None
        self._chunks: list[EncodedChunk] = []
        self._next_frame = 0

    @property
    def result(self) -> EncodedAudio:
        """All that came, as `encode` returns it.

        Raises:
            FailedPreconditionError: The stream has not come to its end.
        """
        if self._finished is None or self._started is None:
            raise FailedPreconditionError("the stream has not come to its end")
        form = self._started.codes
        empty = np.zeros((form.codebook_count, 0), np.int32)
        return EncodedAudio(
            codes=np.concatenate([empty, *(chunk.codes for chunk in self._chunks)], axis=1),
            bits_per_code=form.bits_per_code,
            model=self._started.model,
            sample_count=self._finished.sample_count,
            sample_rate_hz=self._started.format.sample_rate_hz,
            channel_count=self._started.format.channel_count,
            bandwidth_kbps=self._started.bandwidth_kbps,
            scales=tuple(scale for chunk in self._chunks for scale in chunk.scales),
        )

    def _messages(self, item: NDArray[np.generic]) -> Iterator[Any]:
        samples = self._writer.checked(item)
        yield from self._configured()
        for chunk in self._writer.chunks(samples):
            yield codec_pb2.StreamEncodeRequest(audio=chunk)

    def _last(self) -> Iterator[Any]:
        yield from self._configured()
        yield codec_pb2.StreamEncodeRequest(audio=self._writer.last())

    def _configured(self) -> Iterator[Any]:
        # The first piece says what the samples are.
        if not self._is_configured:
            self._is_configured = True
            self._config.format.CopyFrom(self._writer.form)
            yield codec_pb2.StreamEncodeRequest(config=self._config)

    def _take(self, response: codec_pb2.StreamEncodeResponse) -> EncodedChunk | None:
        kind = response.WhichOneof("response")
        if (self._started is None) != (kind == "started"):
            raise ProtocolError(f"stream: {kind or 'an empty response'} came before started, or started twice")
        if self._finished is not None:
            raise ProtocolError(f"stream: {kind} came after the end")
        if kind == "started":
            self._started = response.started
        elif kind == "finished":
            self._finished = response.finished
        else:
            return self._take_codes(response.codes)
        return None

    def _take_codes(self, frames: audio_pb2.CodeFrames) -> EncodedChunk:
        assert self._started is not None
        if frames.first_frame != self._next_frame:
            raise ProtocolError(f"codes: frame {frames.first_frame} came, {self._next_frame} was due")
        if frames.codebook_count != self._started.codes.codebook_count:
            raise ProtocolError(f"codes: {frames.codebook_count} codebooks came, others were announced")
        self._next_frame += frames.frame_count
        chunk = EncodedChunk(read_codes(frames), frames.first_frame, tuple(frames.scales))
        self._chunks.append(chunk)
        return chunk

    def _end(self) -> None:
        if self._finished is None:
            raise ProtocolError("stream: it ended before it was finished", request_id=self.request_id)


Codes = EncodedAudio | EncodedChunk | NDArray[np.integer]
"""All codes of a piece, a piece of a stream, or [K, T]."""


class DecodeState(Feed[Codes, codec_pb2.StreamDecodeResponse, Chunk]):
    """Codes in, audio out."""

    def __init__(self, request_id: str, encoding: OutputEncoding, options: DecodeOptions) -> None:
        super().__init__(request_id)
        self._config = codec_pb2.StreamDecodeConfig()
        put_decoding(self._config, options, encoding)
        try:
            self._bits = bits_per_code(options.get("codebook_size", 1024))
        except ValueError as error:
            raise refused("codebook_size", str(error).removeprefix("codebook_size: ")) from None
        self._is_configured = False
        self._next_frame = 0
        self._reader: ChunkReader | None = None

    @property
    def sample_count(self) -> int:
        """Samples of each channel that have come."""
        return self._reader.sample_count if self._reader else 0

    def _messages(self, item: Codes) -> Iterator[Any]:
        if isinstance(item, EncodedAudio) and not self._is_configured:
            self._bits = item.bits_per_code
            self._config.model = self._config.model or item.model
            self._config.sample_count = self._config.sample_count or item.sample_count
        yield from self._last()
        codes, scales = (item, ()) if isinstance(item, np.ndarray) else (item.codes, item.scales)
        if codes.ndim != 2:
            raise refused("codes", f"shape {codes.shape} is not [K, T]")
        for start in range(0, codes.shape[1], PIECE_FRAMES):
            piece = slice(start, start + PIECE_FRAMES)
            try:
                frames = pack_codes(codes[:, piece], self._bits, first_frame=self._next_frame, scales=scales[piece])
            except ValueError as error:
                raise refused("codes", str(error).removeprefix("codes: ")) from None
            self._next_frame += frames.frame_count
            yield codec_pb2.StreamDecodeRequest(codes=frames)

    def _last(self) -> Iterator[Any]:
        # The first piece of codes may still say what they are.
        if not self._is_configured:
            self._is_configured = True
            yield codec_pb2.StreamDecodeRequest(config=self._config)

    def _take(self, response: codec_pb2.StreamDecodeResponse) -> Chunk | None:
        if response.HasField("format"):
            if self._reader is not None:
                raise ProtocolError("stream: the format came twice")
            self._reader = ChunkReader(response.format)
        if self._reader is None:
            raise ProtocolError("stream: audio came before its format")
        return self._reader.read(response.audio) if response.HasField("audio") else None

    def _end(self) -> None:
        if self._reader is None or not self._reader.final_seen:
            raise ProtocolError("stream: it ended without a last chunk", request_id=self.request_id)
