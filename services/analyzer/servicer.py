"""Messages to requests and results to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, audio_pb2
from services.analyzer import pictures, requests
from services.analyzer.engine import AnalyzerEngine, Evidence
from services.analyzer.findings import Conclusion, WindowFinding
from services.analyzer.streams import AnalyzeStream
from services.models.audio import AudioError
from services.models.calibration import Finding
from services.models.discriminators import FeatureMap
from services.models.worker import WorkerFull
from services.runtime.errors import InvalidArgument, ResourceExhausted
from services.runtime.messages import config_of, duration

_FAMILIES = {
    "mpd": analyzer_pb2.DISCRIMINATOR_MPD,
    "msd": analyzer_pb2.DISCRIMINATOR_MSD,
    "msstftd": analyzer_pb2.DISCRIMINATOR_MSSTFTD,
}
_VERDICTS: dict[Finding | None, analyzer_pb2.Verdict] = {
    None: analyzer_pb2.VERDICT_UNSPECIFIED,
    "real": analyzer_pb2.VERDICT_REAL,
    "generated": analyzer_pb2.VERDICT_GENERATED,
    "inconclusive": analyzer_pb2.VERDICT_INCONCLUSIVE,
}


class AnalyzerServicer(analyzer_pb2_grpc.AnalyzerServiceServicer):
    """AnalyzerService over an engine."""

    def __init__(self, engine: AnalyzerEngine, max_streams: int, max_stream_seconds: float) -> None:
        self._engine = engine
        self._max_streams, self._max_stream_seconds = max_streams, max_stream_seconds
        self._streams = 0

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
            raise ResourceExhausted("too many calls wait for the analyzer", 1.0, elsewhere=True) from error
        response = self._concluded(evidence.conclusion)
        response.windows.extend(_window(one) for one in evidence.windows)
        response.feature_maps.extend(_feature_map(one) for one in evidence.feature_maps)
        response.images.extend(await _images(evidence))
        return response

    async def StreamAnalyze(
        self, request_iterator: AsyncIterator[analyzer_pb2.StreamAnalyzeRequest], context: Any
    ) -> AsyncIterator[analyzer_pb2.StreamAnalyzeResponse]:
        with self._stream():
            config = await config_of(request_iterator)
            stream = AnalyzeStream(config, self._engine, self._max_stream_seconds)
            async for found in stream.run(request_iterator):
                if isinstance(found, WindowFinding):
                    yield analyzer_pb2.StreamAnalyzeResponse(window=_window(found))
                else:
                    yield analyzer_pb2.StreamAnalyzeResponse(finished=self._concluded(found))

    def _concluded(self, conclusion: Conclusion) -> analyzer_pb2.AnalyzeResponse:
        thresholds = conclusion.thresholds
        return analyzer_pb2.AnalyzeResponse(
            mpd_score=conclusion.scores.mpd,
            msd_score=conclusion.scores.msd,
            msstftd_score=conclusion.scores.msstftd,
            is_real=conclusion.is_real,
            verdict=_VERDICTS[conclusion.finding],
            generated_probability=conclusion.probability,
            model=self._model(),
            training_sources=self._engine.info.training_sources,
            reason=conclusion.reason,
            generated_threshold=None if thresholds is None else thresholds.generated,
            real_threshold=None if thresholds is None else thresholds.real,
        )

    def _model(self) -> audio_pb2.ModelInfo:
        info = self._engine.info
        return audio_pb2.ModelInfo(
            name=info.name,
            kind=audio_pb2.MODEL_KIND_ANALYZER,
            is_default=True,
            sample_rate_hz=info.sample_rate_hz,
            channel_count=info.channel_count,
            max_duration=duration(self._engine.limits.max_seconds),
            parameter_count=info.parameter_count,
            digest=info.digest,
            device=self._engine.device,
            precision="fp32",
            latency=duration(info.window_seconds),
            license=info.license,
            is_trained=info.is_trained,
        )

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


async def _images(evidence: Evidence) -> list[analyzer_pb2.EvidenceImage]:
    exhibit = evidence.exhibit
    if exhibit is None:
        return []
    drawn = await asyncio.to_thread(
        pictures.draw, exhibit.overview, evidence.windows, evidence.conclusion, exhibit.window, exhibit.feature_maps
    )
    return [
        analyzer_pb2.EvidenceImage(
            name=one.name, png=one.png, start=duration(one.start), duration=duration(one.duration)
        )
        for one in drawn
    ]


def _window(window: WindowFinding) -> analyzer_pb2.WindowResult:
    return analyzer_pb2.WindowResult(
        start=duration(window.start),
        duration=duration(window.duration),
        mpd_score=window.scores.mpd,
        msd_score=window.scores.msd,
        msstftd_score=window.scores.msstftd,
        generated_probability=window.probability,
        verdict=_VERDICTS[window.finding],
    )


def _feature_map(one: FeatureMap) -> analyzer_pb2.FeatureMap:
    return analyzer_pb2.FeatureMap(
        discriminator=_FAMILIES[one.family],
        sub_discriminator=one.sub_discriminator,
        layer=one.layer,
        shape=one.values.shape,
        data=one.values.contiguous().numpy().astype("<f4").tobytes(),
    )
