"""The codec as the runtime sees it."""

from __future__ import annotations

import grpc

from antiphon.v1 import audio_pb2, codec_pb2, codec_pb2_grpc
from services.codec.compression import Compression
from services.codec.engine import CodecEngine
from services.codec.servicer import CodecServicer
from services.codec.settings import CodecSettings
from services.models.audio import AudioLimits


class CodecService:
    """Loads the codecs of the settings and serves them."""

    name: str = codec_pb2.DESCRIPTOR.services_by_name["CodecService"].full_name

    def __init__(self, settings: CodecSettings) -> None:
        limits = AudioLimits(max_bytes=settings.max_audio_bytes, max_seconds=settings.max_audio_seconds)
        self._engine = CodecEngine(settings.models, settings.device, settings.threads, limits)
        self._compression = Compression()
        limits_of_streams = settings.max_streams, settings.max_stream_seconds
        self._servicer = CodecServicer(self._engine, self._compression, *limits_of_streams)

    def load(self) -> None:
        self._engine.load()
        self._compression.load(self._engine.facts)

    def register(self, server: grpc.aio.Server) -> None:
        codec_pb2_grpc.add_CodecServiceServicer_to_server(self._servicer, server)

    def models(self) -> list[audio_pb2.ModelInfo]:
        return self._servicer.models()

    def close(self) -> None:
        self._engine.close()
        self._compression.close()
