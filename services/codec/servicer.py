"""Messages to requests and results to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

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
from services.models.audio import AudioError, to_pcm16, to_pcm_f32, to_wav
from services.models.worker import WorkerFull
from services.runtime.errors import InvalidArgument, ResourceExhausted, Unimplemented
from services.runtime.messages import model_info

_PIECE_BYTES = 64 * 1024


class CodecServicer(codec_pb2_grpc.CodecServiceServicer):
    """CodecService over an engine."""

    def __init__(self, engine: CodecEngine, compression: Compression) -> None:
        self._engine = engine
        self._compression = compression

    async def ListModels(
        self, request: codec_pb2.CodecServiceListModelsRequest, context: Any
    ) -> codec_pb2.CodecServiceListModelsResponse:
        seconds = self._engine.limits.max_seconds
        models = [
            model_info(info, is_default=index == 0, max_seconds=seconds)
            for index, info in enumerate(self._engine.infos.values())
        ]
        return codec_pb2.CodecServiceListModelsResponse(models=models)

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
            format=_format(facts, audio_pb2.AUDIO_ENCODING_PCM_S16LE),
            bandwidth_kbps=facts.codebook_kbps * encoding.codebook_count,
            values=[codec_pb2.CodebookValues(values=book.tolist()) for book in values],
        )

    async def Decode(self, request: codec_pb2.DecodeRequest, context: Any) -> codec_pb2.DecodeResponse:
        decoding = requests.decoding(request, self._engine.facts)
        with _translated():
            audio = await self._engine.decode(decoding)
        facts = self._engine.facts[decoding.model]
        return codec_pb2.DecodeResponse(
            audio=_packed(audio, decoding.encoding, facts.sample_rate_hz),
            format=_format(facts, decoding.encoding),
            sample_count=audio.shape[1],
        )

    async def DecodeFile(
        self, request: codec_pb2.DecodeFileRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        decoding = requests.file_decoding(request, self._engine.facts)
        with _translated():
            audio = await self._engine.decode(decoding)
        data = to_wav(audio, self._engine.facts[decoding.model].sample_rate_hz)
        for start in range(0, len(data), _PIECE_BYTES):
            yield httpbody_pb2.HttpBody(
                content_type="" if start else "audio/wav", data=data[start : start + _PIECE_BYTES]
            )

    def StreamEncode(self, request_iterator: Any, context: Any) -> AsyncIterator[codec_pb2.StreamEncodeResponse]:
        raise Unimplemented("request", "StreamEncode is not served; use Encode")

    def StreamDecode(self, request_iterator: Any, context: Any) -> AsyncIterator[codec_pb2.StreamDecodeResponse]:
        raise Unimplemented("request", "StreamDecode is not served; use Decode")

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
        raise ResourceExhausted("too many calls wait for the codec", 1.0) from error


def _format(facts: requests.CodecFacts, encoding: audio_pb2.AudioEncoding) -> audio_pb2.AudioFormat:
    return audio_pb2.AudioFormat(
        encoding=encoding, sample_rate_hz=facts.sample_rate_hz, channel_count=facts.channel_count
    )


def _packed(audio: torch.Tensor, encoding: audio_pb2.AudioEncoding, rate: int) -> bytes:
    if encoding == audio_pb2.AUDIO_ENCODING_WAV:
        return to_wav(audio, rate)
    if encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE:
        return to_pcm_f32(audio)
    return to_pcm16(audio)
