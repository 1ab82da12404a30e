"""Messages to requests and results to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import duration_pb2

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, audio_pb2
from services.analyzer import requests
from services.analyzer.engine import AnalyzerEngine, Window
from services.models.audio import AudioError
from services.models.discriminators import FeatureMap
from services.models.worker import WorkerFull
from services.runtime.errors import InvalidArgument, ResourceExhausted, Unimplemented

_FAMILIES = {
    "mpd": analyzer_pb2.DISCRIMINATOR_MPD,
    "msd": analyzer_pb2.DISCRIMINATOR_MSD,
    "msstftd": analyzer_pb2.DISCRIMINATOR_MSSTFTD,
}


class AnalyzerServicer(analyzer_pb2_grpc.AnalyzerServiceServicer):
    """AnalyzerService over an engine."""

    def __init__(self, engine: AnalyzerEngine) -> None:
        self._engine = engine

    def models(self) -> list[audio_pb2.ModelInfo]:
        """List the models, the default first."""
        return [self._model()]

    async def ListModels(
        self, request: analyzer_pb2.AnalyzerServiceListModelsRequest, context: Any
    ) -> analyzer_pb2.AnalyzerServiceListModelsResponse:
        return analyzer_pb2.AnalyzerServiceListModelsResponse(models=self.models())

    async def Analyze(self, request: analyzer_pb2.AnalyzeRequest, context: Any) -> analyzer_pb2.AnalyzeResponse:
        analysis = requests.analysis(request, self._engine.info)
        try:
            evidence = await self._engine.analyze(analysis)
        except AudioError as error:
            raise InvalidArgument("audio", error.description) from error
        except WorkerFull as error:
            raise ResourceExhausted("too many calls wait for the analyzer", 1.0) from error
        return analyzer_pb2.AnalyzeResponse(
            mpd_score=evidence.scores.mpd,
            msd_score=evidence.scores.msd,
            msstftd_score=evidence.scores.msstftd,
            feature_maps=[_feature_map(one) for one in evidence.feature_maps],
            is_real=evidence.is_real,
            windows=[_window(one) for one in evidence.windows],
            model=self._model(),
            training_sources=self._engine.info.training_sources,
        )

    def StreamAnalyze(self, request_iterator: Any, context: Any) -> AsyncIterator[analyzer_pb2.StreamAnalyzeResponse]:
        raise Unimplemented("request", "StreamAnalyze is not served; use Analyze")

    def _model(self) -> audio_pb2.ModelInfo:
        info = self._engine.info
        return audio_pb2.ModelInfo(
            name=info.name,
            kind=audio_pb2.MODEL_KIND_ANALYZER,
            is_default=True,
            sample_rate_hz=info.sample_rate_hz,
            channel_count=info.channel_count,
            max_duration=_duration(self._engine.limits.max_seconds),
            parameter_count=info.parameter_count,
            digest=info.digest,
            device=self._engine.device,
            precision="fp32",
            license=info.license,
            is_trained=info.is_trained,
        )


def _window(window: Window) -> analyzer_pb2.WindowResult:
    return analyzer_pb2.WindowResult(
        start=_duration(window.start),
        duration=_duration(window.duration),
        mpd_score=window.scores.mpd,
        msd_score=window.scores.msd,
        msstftd_score=window.scores.msstftd,
    )


def _feature_map(one: FeatureMap) -> analyzer_pb2.FeatureMap:
    return analyzer_pb2.FeatureMap(
        discriminator=_FAMILIES[one.family],
        sub_discriminator=one.sub_discriminator,
        layer=one.layer,
        shape=one.values.shape,
        data=one.values.contiguous().numpy().astype("<f4").tobytes(),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
