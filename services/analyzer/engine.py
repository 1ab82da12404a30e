"""Runs the discriminators window by window, one file at a time, in a thread of their own."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import torch

from services.analyzer.requests import Analysis
from services.analyzer.windows import windows
from services.models import discriminators
from services.models.audio import AudioLimits, open_audio
from services.models.discriminators import AnalyzerInfo, Discriminators, FeatureMap, Scores
from services.models.worker import Worker
from services.runtime.metrics import METRICS, Metrics

_MAX_WAITING = 64


@dataclasses.dataclass(frozen=True)
class Window:
    """Scores of one window; times in seconds from the start of the file."""

    start: float
    duration: float
    scores: Scores


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What Analyze found."""

    scores: Scores
    """Means over the windows, each counting the same."""
    windows: Sequence[Window]
    feature_maps: Sequence[FeatureMap]
    """Of the first window, when asked for."""
    is_real: bool | None
    """Whether the mean score is above the threshold; None while the weights are not trained."""


class AnalyzerEngine:
    """The loaded discriminators."""

    def __init__(self, device: str, threads: int, limits: AudioLimits, metrics: Metrics = METRICS) -> None:
        self.limits = limits
        self._device = device
        self._threads = threads
        self._model: Discriminators | None = None
        self._waiting = metrics.requests_waiting
        self._worker = Worker("analyzer", _MAX_WAITING)

    @property
    def info(self) -> AnalyzerInfo:
        """What is loaded."""
        return self._loaded().info

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda"."""
        return self._loaded().device

    def load(self) -> None:
        """Build and warm the discriminators."""
        if self._threads:
            torch.set_num_threads(self._threads)
        device = self._device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = discriminators.build_untrained(device)
        model.listen(torch.zeros(1, model.info.sample_rate_hz))
        self._model = model

    async def analyze(self, request: Analysis) -> Evidence:
        """Analyze a file. Raises `AudioError`, `WorkerFull`."""
        gauge = self._waiting.labels(self.info.name)
        return await self._worker.run(lambda stopped: self._analyze(request, stopped), gauge)

    def close(self) -> None:
        """Wait for the running call and free the model."""
        self._worker.close()
        self._model = None

    def _loaded(self) -> Discriminators:
        if self._model is None:
            raise RuntimeError("the discriminators are not loaded")
        return self._model

    @torch.inference_mode()
    def _analyze(self, request: Analysis, stopped: threading.Event) -> Evidence:
        model = self._loaded()
        rate = model.info.sample_rate_hz
        found: list[Window] = []
        maps: list[FeatureMap] = []
        for start, audio in windows(open_audio(request.audio, self.limits), rate):
            scores, features = model.listen(audio, request.include_feature_maps and not found)
            maps += features
            found.append(Window(start / rate, audio.shape[1] / rate, scores))
            if stopped.is_set():
                # Nobody hears the answer.
                break
        scores = Scores(
            mpd=sum(window.scores.mpd for window in found) / len(found),
            msd=sum(window.scores.msd for window in found) / len(found),
            msstftd=sum(window.scores.msstftd for window in found) / len(found),
        )
        is_real = scores.mean > request.threshold if model.info.is_trained else None
        return Evidence(scores, found, maps, is_real)
