"""What the analyzer says of audio: evidence of a neural decoder, or of none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from antiphon.chunk_writer import ChunkWriter
from antiphon.codec_streams import Feed
from antiphon.errors import FailedPreconditionError, ProtocolError
from antiphon.messages import AudioFile, put, seconds
from antiphon.operations import Operation, body_of, read_model
from antiphon.results import Model, Service
from antiphon.v1 import analyzer_pb2

Family = Literal["mpd", "msd", "msstftd"]
"""The discriminators: multi-period, multi-scale, multi-scale STFT."""


class Verdict(StrEnum):
    """What an analysis amounts to; UNSPECIFIED where the weights are not trained."""

    UNSPECIFIED = "unspecified"
    REAL = "real"
    GENERATED = "generated"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Scores:
    """Mean sigmoids of the discriminators' logits, 0 to 1; high means real."""

    mpd: float
    msd: float
    msstftd: float

    @property
    def mean(self) -> float:
        """What is held against the threshold."""
        return (self.mpd + self.msd + self.msstftd) / 3


@dataclass(frozen=True)
class Thresholds:
    """Probabilities at which the server gives a verdict: at or above `generated`, at or below `real`."""

    generated: float
    real: float


@dataclass(frozen=True)
class WindowAnalysis:
    """One window by itself. The probability is None where the server can't say; errors are likelier than for a file."""

    start_seconds: float
    duration_seconds: float
    scores: Scores
    generated_probability: float | None
    verdict: Verdict

    @property
    def end_seconds(self) -> float:
        """Where it ends."""
        return self.start_seconds + self.duration_seconds


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """What one layer made of the first window, averaged over its channels.

    Attributes:
        sub_discriminator: Number of the period, scale or window in its family, from 0.
        values: float32, [T / period, period] (mpd), [T] (msd) or [frames, frequencies] (msstftd).
    """

    family: Family
    sub_discriminator: int
    layer: int
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A PNG: "spectrogram" of the whole piece, or a family's heat maps of its most suspicious window."""

    name: str
    png: bytes
    start_seconds: float
    duration_seconds: float


@dataclass(frozen=True)
class Analysis:
    """Evidence of a neural decoder, or of none.

    Attributes:
        scores: Means over the windows.
        is_real: Whether the mean score is above the caller's threshold; None while the weights are not trained.
        generated_probability: That a neural decoder made the audio; None where the server can't say.
        training_sources: On what the weights were trained.
        reason: Why there is no verdict, or none but "inconclusive"; else empty.
        thresholds: Where the verdict falls; None while the weights are not trained.
        feature_maps: When asked for.
        pictures: When asked for.
    """

    scores: Scores
    is_real: bool | None
    verdict: Verdict
    generated_probability: float | None
    windows: tuple[WindowAnalysis, ...]
    model: Model
    training_sources: tuple[str, ...]
    reason: str = ""
    thresholds: Thresholds | None = None
    feature_maps: tuple[FeatureMap, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def suspects(self) -> tuple[tuple[float, float], ...]:
        """The stretches, from and to in seconds, whose windows are by themselves GENERATED."""
        found: list[tuple[float, float]] = []
        for window in self.windows:
            if window.verdict is not Verdict.GENERATED:
                continue
            if found and window.start_seconds <= found[-1][1] + 1e-6:
                found[-1] = (found[-1][0], window.end_seconds)
            else:
                found.append((window.start_seconds, window.end_seconds))
        return tuple(found)


def analyze(
    audio: AudioFile,
    *,
    model: str = "",
    threshold: float | None = None,
    include_feature_maps: bool = False,
    include_images: bool = False,
) -> Operation[Analysis]:
    """Looks for evidence of a neural decoder. Reads the file, so it may wait for the disk."""
    request = analyzer_pb2.AnalyzeRequest(audio=body_of(audio))
    put(request, "model", model)
    put(request, "threshold", threshold)
    put(request, "include_feature_maps", include_feature_maps)
    put(request, "include_images", include_images)
    return Operation(Service.ANALYZER, "Analyze", request, _analysis)


class AnalyzeState(Feed[NDArray[np.generic], analyzer_pb2.StreamAnalyzeResponse, WindowAnalysis]):
    """Audio in, a result a window out."""

    def __init__(
        self, request_id: str, sample_rate_hz: int, channel_count: int, model: str, threshold: float | None
    ) -> None:
        super().__init__(request_id)
        self._config = analyzer_pb2.StreamAnalyzeConfig()
        put(self._config, "model", model)
        put(self._config, "threshold", threshold)
        self._writer = ChunkWriter(sample_rate_hz, channel_count)
        self._is_configured = False
        self._windows: list[WindowAnalysis] = []
        self._finished: Analysis | None = None

    @property
    def result(self) -> Analysis:
        """All that came, as `analyze` returns it.

        Raises:
            FailedPreconditionError: The stream has not come to its end.
        """
        if self._finished is None:
            raise FailedPreconditionError("the stream has not come to its end")
        return replace(self._finished, windows=tuple(self._windows))

    def _messages(self, item: NDArray[np.generic]) -> Iterator[Any]:
        samples = self._writer.checked(item)
        yield from self._configured()
        for chunk in self._writer.chunks(samples):
            yield analyzer_pb2.StreamAnalyzeRequest(audio=chunk)

    def _last(self) -> Iterator[Any]:
        yield from self._configured()
        yield analyzer_pb2.StreamAnalyzeRequest(audio=self._writer.last())

    def _configured(self) -> Iterator[Any]:
        # The first piece says what the samples are.
        if not self._is_configured:
            self._is_configured = True
            self._config.format.CopyFrom(self._writer.form)
            yield analyzer_pb2.StreamAnalyzeRequest(config=self._config)

    def _take(self, response: analyzer_pb2.StreamAnalyzeResponse) -> WindowAnalysis | None:
        kind = response.WhichOneof("response")
        if self._finished is not None or kind is None:
            raise ProtocolError(f"stream: {kind or 'an empty response'} came, or something after the end")
        if kind == "finished":
            self._finished = _analysis(response.finished)
            return None
        window = _window(response.window)
        self._windows.append(window)
        return window

    def _end(self) -> None:
        if self._finished is None:
            raise ProtocolError("stream: it ended before it was finished", request_id=self.request_id)


_VERDICTS = {
    analyzer_pb2.VERDICT_REAL: Verdict.REAL,
    analyzer_pb2.VERDICT_GENERATED: Verdict.GENERATED,
    analyzer_pb2.VERDICT_INCONCLUSIVE: Verdict.INCONCLUSIVE,
}
_FAMILIES: dict[int, Family] = {
    analyzer_pb2.DISCRIMINATOR_MPD: "mpd",
    analyzer_pb2.DISCRIMINATOR_MSD: "msd",
    analyzer_pb2.DISCRIMINATOR_MSSTFTD: "msstftd",
}


def _analysis(response: analyzer_pb2.AnalyzeResponse) -> Analysis:
    thresholds = None
    if response.HasField("generated_threshold") and response.HasField("real_threshold"):
        thresholds = Thresholds(response.generated_threshold, response.real_threshold)
    return Analysis(
        scores=_scores(response),
        is_real=response.is_real if response.HasField("is_real") else None,
        verdict=_VERDICTS.get(response.verdict, Verdict.UNSPECIFIED),
        generated_probability=_probability(response),
        windows=tuple(map(_window, response.windows)),
        model=read_model(response.model, Service.ANALYZER),
        training_sources=tuple(response.training_sources),
        reason=response.reason,
        thresholds=thresholds,
        feature_maps=tuple(map(_feature_map, response.feature_maps)),
        pictures=tuple(
            Picture(image.name, image.png, seconds(image.start), seconds(image.duration)) for image in response.images
        ),
    )


def _window(window: analyzer_pb2.WindowResult) -> WindowAnalysis:
    verdict = _VERDICTS.get(window.verdict, Verdict.UNSPECIFIED)
    return WindowAnalysis(
        seconds(window.start), seconds(window.duration), _scores(window), _probability(window), verdict
    )


def _scores(response: analyzer_pb2.AnalyzeResponse | analyzer_pb2.WindowResult) -> Scores:
    return Scores(mpd=response.mpd_score, msd=response.msd_score, msstftd=response.msstftd_score)


def _probability(response: analyzer_pb2.AnalyzeResponse | analyzer_pb2.WindowResult) -> float | None:
    return response.generated_probability if response.HasField("generated_probability") else None


def _feature_map(message: analyzer_pb2.FeatureMap) -> FeatureMap:
    if message.discriminator not in _FAMILIES:
        raise ProtocolError(f"feature map: {message.discriminator} is no family of discriminators")
    try:
        values = np.frombuffer(message.data, "<f4").reshape(tuple(message.shape))
    except ValueError:
        shape = tuple(message.shape)
        raise ProtocolError(f"feature map: {len(message.data)} bytes are not floats of shape {shape}") from None
    return FeatureMap(_FAMILIES[message.discriminator], message.sub_discriminator, message.layer, values)
