"""The analyzer as the runtime sees it."""

from __future__ import annotations

import grpc

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, audio_pb2
from services.analyzer.engine import AnalyzerEngine
from services.analyzer.servicer import AnalyzerServicer
from services.analyzer.settings import AnalyzerSettings
from services.models.audio import AudioLimits


class AnalyzerService:
    """Loads the discriminators and serves them."""

    name: str = analyzer_pb2.DESCRIPTOR.services_by_name["AnalyzerService"].full_name

    def __init__(self, settings: AnalyzerSettings) -> None:
        # The analyzer keeps a few windows at a time, so only the seconds count.
        limits = AudioLimits(
            max_bytes=settings.max_audio_bytes, max_seconds=settings.max_audio_seconds, max_values=1 << 62
        )
        self._engine = AnalyzerEngine(settings.analyzer_weights, settings.device, settings.threads, limits)
        self._servicer = AnalyzerServicer(self._engine, settings.max_streams, settings.max_stream_seconds)

    def load(self) -> None:
        self._engine.load()

    def register(self, server: grpc.aio.Server) -> None:
        analyzer_pb2_grpc.add_AnalyzerServiceServicer_to_server(self._servicer, server)

    def models(self) -> list[audio_pb2.ModelInfo]:
        return self._servicer.models()

    def close(self) -> None:
        self._engine.close()
