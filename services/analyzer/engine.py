"""Runs the discriminators: the windows of all calls together on one thread, the files' decoding on others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from services.analyzer.findings import Conclusion, Findings, WindowFinding
from services.analyzer.overview import Overview
from services.analyzer.requests import Analysis
from services.analyzer.windows import Window, windows_of
from services.models import discriminators
from services.models.audio import AudioLimits, open_audio
from services.models.batching import Batcher
from services.models.calibration import ModelCard
from services.models.discriminators import AnalyzerInfo, Discriminators, FeatureMap, Hearing
from services.models.worker import WorkerFull
from services.runtime.metrics import METRICS, Metrics

SHIPPED = Path(__file__).parent / "weights"
UNTRAINED = "untrained"
_MAX_RUNNING, _MAX_WAITING = 16, 64
_AHEAD = 4
"""Windows of one call that wait at the same time; together the calls fill a batch."""
_FILE_THREADS = 2
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """What pictures are drawn of: the whole piece from afar, and one window from near."""

    overview: Overview
    window: WindowFinding
    """The most suspicious one, the first among equals."""
    feature_maps: Sequence[FeatureMap]
    """Of that window."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What Analyze found."""

    conclusion: Conclusion
    windows: Sequence[WindowFinding]
    feature_maps: Sequence[FeatureMap]
    """Of the first window, when asked for."""
    exhibit: Exhibit | None
    """When pictures are asked for."""


class AnalyzerEngine:
    """The loaded discriminators. Nothing that a call does changes them, so no call can disturb another.

    Args:
        weights: a folder, `UNTRAINED`, or empty for what is shipped.
    """

    def __init__(
        self, weights: str, device: str, threads: int, limits: AudioLimits, metrics: Metrics = METRICS
    ) -> None:
        self.limits = limits
        self._weights = weights
        self._device = device
        self._threads = threads
        self._model: Discriminators | None = None
        self._metrics = metrics
        self._waiting = 0
        self._turns = asyncio.Semaphore(_MAX_RUNNING)
        self._batcher = Batcher("analyzer", self._run)
        self._files = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="analyzer-files")

    @property
    def info(self) -> AnalyzerInfo:
        """What is loaded."""
        return self._loaded().info

    @property
    def card(self) -> ModelCard | None:
        """How its logits are read; None while the weights are not trained."""
        return self._loaded().card

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda"."""
        return self._loaded().device

    def load(self) -> None:
        """Load and warm the discriminators. Raises `CheckpointError`."""
        if self._threads:
            torch.set_num_threads(self._threads)
        device = self._device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = _load(self._weights, device)
        model.listen(torch.zeros(1, model.info.window_samples))
        self._model = model

    async def analyze(self, request: Analysis) -> Evidence:
        """Analyze a file. Raises `AudioError`, `WorkerFull`."""
        async with self._turn():
            return await self._analyze(request)

    async def listen(self, windows: Sequence[Window]) -> list[Hearing]:
        """Score windows, in one batch with those of other calls."""
        calls = (self._batcher.submit(("listen", len(window.audio)), window.audio) for window in windows)
        return list(await asyncio.gather(*calls))

    def findings(self, threshold: float) -> Findings:
        """Return what collects the windows of a piece."""
        return Findings(self.info, self.card, threshold)

    def close(self) -> None:
        """Wait for the running calls and free the model."""
        self._batcher.close()
        self._files.shutdown(wait=True, cancel_futures=True)
        self._model = None

    def _loaded(self) -> Discriminators:
        if self._model is None:
            raise RuntimeError("the discriminators are not loaded")
        return self._model

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until few enough calls run. Raises `WorkerFull`."""
        if self._waiting >= _MAX_WAITING:
            raise WorkerFull(f"{self._waiting} calls wait")
        gauge = self._metrics.requests_waiting.labels(self.info.name)
        self._waiting += 1
        gauge.inc()
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            gauge.dec()
        try:
            yield
        finally:
            self._turns.release()

    async def _analyze(self, request: Analysis) -> Evidence:
        rate, size = self.info.sample_rate_hz, self.info.window_samples
        findings = self.findings(request.threshold)
        windows: list[WindowFinding] = []
        maps: Sequence[FeatureMap] = ()
        overview = Overview(rate) if request.include_images else None
        suspect: tuple[WindowFinding, Window] | None = None
        reader = _grouped(lambda: windows_of(open_audio(request.audio, self.limits), rate, size), overview)
        while group := await self._in_thread(lambda: next(reader, None)):
            for window, hearing in zip(group, await self.listen(group), strict=True):
                found = findings.add(window, hearing)
                if not windows and request.include_feature_maps:
                    maps = await self._maps(window)
                if suspect is None or (found.probability or 0) > (suspect[0].probability or 0):
                    suspect = found, window
                windows.append(found)
        exhibit = None
        if overview is not None and suspect is not None:
            exhibit = Exhibit(overview, suspect[0], await self._maps(suspect[1]))
        return Evidence(findings.conclude(), windows, maps, exhibit)

    async def _maps(self, window: Window) -> Sequence[FeatureMap]:
        maps: Sequence[FeatureMap] = await self._batcher.submit(("maps", len(window.audio)), window.audio)
        return maps

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._files, call)

    def _run(self, kind: tuple[str, int], pieces: Sequence[torch.Tensor]) -> Sequence[Any]:
        model = self._loaded()
        if kind[0] == "maps":
            return [model.maps(piece[None]) for piece in pieces]
        begin = time.perf_counter()
        hearings = model.listen(torch.stack(list(pieces)))
        self._metrics.step_duration.labels(model.info.name).observe(time.perf_counter() - begin)
        return hearings


def _load(weights: str, device: str) -> Discriminators:
    """Load what the setting names, or what is shipped."""
    if weights == UNTRAINED:
        return discriminators.build_untrained(device)
    return discriminators.load(Path(weights) if weights else SHIPPED, device)


def _grouped(begin: Callable[[], Iterator[Window]], overview: Overview | None) -> Iterator[list[Window]]:
    """Yield the windows of a file a few at a time; the file is opened with the first."""
    windows = begin()
    while group := list(itertools.islice(windows, _AHEAD)):
        for window in group:
            if overview is not None:
                overview.add(window.audio[len(window.audio) - window.fresh :])
        yield group
