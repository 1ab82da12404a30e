"""The analyzer as the runtime sees it."""

from __future__ import annotations

import grpc

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc
from services.analyzer.engine import AnalyzerEngine
from services.analyzer.servicer import AnalyzerServicer
from services.analyzer.settings import AnalyzerSettings
from services.models.audio import AudioLimits


class AnalyzerService:
    """Builds the discriminators and serves them."""

    name: str = analyzer_pb2.DESCRIPTOR.services_by_name["AnalyzerService"].full_name

    def __init__(self, settings: AnalyzerSettings) -> None:
        # The analyzer keeps a window at a time, so only the seconds count.
        limits = AudioLimits(
            max_bytes=settings.max_audio_bytes, max_seconds=settings.max_audio_seconds, max_values=1 << 62
        )
        self._engine = AnalyzerEngine(settings.device, settings.threads, limits)

    def load(self) -> None:
        self._engine.load()

    def register(self, server: grpc.aio.Server) -> None:
        analyzer_pb2_grpc.add_AnalyzerServiceServicer_to_server(AnalyzerServicer(self._engine), server)

    def close(self) -> None:
        self._engine.close()
