"""Messages to requests and results to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch
from google.api import httpbody_pb2

from antiphon.codes import pack_codes
from antiphon.v1 import audio_pb2, codec_pb2, codec_pb2_grpc
from services.codec import requests
from services.codec.compression import Compression
from services.codec.engine import CodecEngine
from services.codec.streams import DecodeStream, EncodeStream
from services.models.audio import AudioError
from services.models.audio_output import AudioEncoder
from services.models.codecs import Codec
from services.models.worker import WorkerFull
from services.runtime.errors import InvalidArgument, ResourceExhausted
from services.runtime.messages import config_of, duration, model_info

_PIECE_BYTES = 64 * 1024
_PIECE_SAMPLES = 1 << 16


class CodecServicer(codec_pb2_grpc.CodecServiceServicer):
    """CodecService over an engine."""

    def __init__(
        self, engine: CodecEngine, compression: Compression, max_streams: int, max_stream_seconds: float
    ) -> None:
        self._engine = engine
        self._compression = compression
        self._max_streams, self._max_stream_seconds = max_streams, max_stream_seconds
        self._streams = 0

    def models(self) -> list[audio_pb2.ModelInfo]:
        """List the models, the default first."""
        seconds = self._engine.limits.max_seconds
        found = []
        for index, info in enumerate(self._engine.infos.values()):
            described = self._described(info.name)
            latency = max(_seconds(described.encode_latency), _seconds(described.decode_latency))
            found.append(model_info(info, is_default=index == 0, max_seconds=seconds, latency_seconds=latency))
        return found

    async def ListModels(
        self, request: codec_pb2.CodecServiceListModelsRequest, context: Any
    ) -> codec_pb2.CodecServiceListModelsResponse:
        codecs = [self._described(name) for name in self._engine.infos]
        return codec_pb2.CodecServiceListModelsResponse(models=self.models(), codecs=codecs)

    async def Encode(self, request: codec_pb2.EncodeRequest, context: Any) -> codec_pb2.EncodeResponse:
        encoding = requests.encoding(request, self._engine.facts)
        with _translated():
            encoded = await self._engine.encode(encoding)
        facts = self._engine.facts[encoding.model]
        values = encoded.codes if encoding.include_values else ()
        return codec_pb2.EncodeResponse(
            model=facts.name,
            codes=pack_codes(encoded.codes, facts.bits_per_code, scales=encoded.scales),
            sample_count=encoded.sample_count,
            format=audio_pb2.AudioFormat(
                encoding=audio_pb2.AUDIO_ENCODING_PCM_S16LE,
                sample_rate_hz=facts.sample_rate_hz,
                channel_count=facts.channel_count,
            ),
            bandwidth_kbps=facts.codebook_kbps * encoding.codebook_count,
            values=[codec_pb2.CodebookValues(values=book.tolist()) for book in values],
            decoder=encoding.decoder,
        )

    async def Decode(self, request: codec_pb2.DecodeRequest, context: Any) -> codec_pb2.DecodeResponse:
        decoding = requests.decoding(request, self._engine.facts)
        encoder, pieces = await self._decoded(decoding)
        data = b"".join([piece async for piece in pieces])
        return codec_pb2.DecodeResponse(
            audio=data,
            format=requests.form_of(encoder.output),
            sample_count=encoder.sample_count,
            decoder=decoding.decoder,
        )

    async def DecodeFile(
        self, request: codec_pb2.DecodeFileRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        decoding = requests.file_decoding(request, self._engine.facts)
        encoder, pieces = await self._decoded(decoding)
        content_type, waiting = encoder.output.encoding.media_type, b""
        async for piece in pieces:
            waiting += piece
            while len(waiting) >= _PIECE_BYTES:
                yield httpbody_pb2.HttpBody(content_type=content_type, data=waiting[:_PIECE_BYTES])
                content_type, waiting = "", waiting[_PIECE_BYTES:]
        if waiting or content_type:
            yield httpbody_pb2.HttpBody(content_type=content_type, data=waiting)

    async def StreamEncode(
        self, request_iterator: AsyncIterator[codec_pb2.StreamEncodeRequest], context: Any
    ) -> AsyncIterator[codec_pb2.StreamEncodeResponse]:
        with self._stream():
            config = await config_of(request_iterator)
            stream = EncodeStream(config, self._engine, self._max_stream_seconds)
            async for response in stream.run(request_iterator):
                yield response

    async def StreamDecode(
        self, request_iterator: AsyncIterator[codec_pb2.StreamDecodeRequest], context: Any
    ) -> AsyncIterator[codec_pb2.StreamDecodeResponse]:
        with self._stream():
            config = await config_of(request_iterator)
            stream = DecodeStream(config, self._engine, self._max_stream_seconds)
            async for response in stream.run(request_iterator):
                yield response

    def _described(self, name: str) -> codec_pb2.CodecInfo:
        return _described(self._engine.facts[name], self._engine.codec(name))

    async def _decoded(self, decoding: requests.Decoding) -> tuple[AudioEncoder, AsyncIterator[bytes]]:
        """Decode, and return the encoder of the file with the pieces that it makes."""
        with _translated():
            audio = await self._engine.decode(decoding)
        facts = self._engine.facts[decoding.model]
        encoder = AudioEncoder(decoding.output, facts.sample_rate_hz, facts.channel_count, audio.shape[1])

        async def pieces() -> AsyncIterator[bytes]:
            for block in torch.split(audio, _PIECE_SAMPLES, dim=1):
                yield await asyncio.to_thread(encoder.encode, block)
            yield await asyncio.to_thread(encoder.finish)

        return encoder, pieces()

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Count a stream while it is open. Raises ResourceExhausted."""
        if self._streams >= self._max_streams:
            raise ResourceExhausted(
                f"{self._streams} streams are open, as many as are served at once", 1.0, elsewhere=True
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def CompressCodes(
        self, request: codec_pb2.CompressCodesRequest, context: Any
    ) -> codec_pb2.CompressCodesResponse:
        return await self._compression.compress(request)

    async def ExpandCodes(self, request: codec_pb2.ExpandCodesRequest, context: Any) -> codec_pb2.ExpandCodesResponse:
        return await self._compression.expand(request)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise InvalidArgument("audio", error.description) from error
    except WorkerFull as error:
        raise ResourceExhausted("too many calls wait for the codec", 1.0, elsewhere=True) from error


def _described(facts: requests.CodecFacts, codec: Codec) -> codec_pb2.CodecInfo:
    decoders = [codec_pb2.DECODER_ENCODEC]
    if facts.diffusions:
        decoders.append(codec_pb2.DECODER_MULTI_BAND_DIFFUSION)
    return codec_pb2.CodecInfo(
        name=facts.name,
        samples_per_frame=codec.hop,
        usual_codebook_count=facts.usual_codebook_count,
        decoders=decoders,
        is_streamable=facts.is_streamable,
        encode_latency=duration(codec.encode_lookahead / facts.sample_rate_hz),
        decode_latency=duration(codec.decode_lookahead / facts.frame_rate_hz),
        encode_start=duration(codec.encode_start / facts.sample_rate_hz),
        decode_start=duration(codec.decode_start / facts.frame_rate_hz),
        segment_frames=facts.segment_frames,
        segment_stride=facts.segment_stride,
    )


def _seconds(length: Any) -> float:
    return float(length.ToNanoseconds()) / 1e9
