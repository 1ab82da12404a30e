"""StreamAnalyze: checked messages in, a result a window out.

A stream reads its next message only when all that the last one made has been taken. So a slow reader stops the
writer, and neither side can fill the memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import torch

from antiphon.v1 import analyzer_pb2
from services.analyzer import requests
from services.analyzer.engine import AnalyzerEngine
from services.analyzer.findings import Conclusion, WindowFinding
from services.analyzer.windows import Window, Windows, mono
from services.models.resampling import Resampler
from services.runtime.errors import FailedPrecondition, InvalidArgument


class AnalyzeStream:
    """One StreamAnalyze. Raises InvalidArgument, NotFound, FailedPrecondition."""

    def __init__(self, config: analyzer_pb2.StreamAnalyzeConfig, engine: AnalyzerEngine, max_seconds: float) -> None:
        info = engine.info
        self._findings = engine.findings(requests.stream_threshold(config, info))
        self._reader = requests.ChunkReader(config.format, info, max_seconds)
        self._engine = engine
        self._rate = info.sample_rate_hz
        self._resampler = Resampler(self._reader.rate_hz, self._rate, self._reader.channel_count, min_block=0)
        self._windows = Windows(info.window_samples)

    async def run(
        self, messages: AsyncIterator[analyzer_pb2.StreamAnalyzeRequest]
    ) -> AsyncIterator[WindowFinding | Conclusion]:
        """Yield each window as soon as it is full, and at the end the conclusion."""
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "config":
                raise FailedPrecondition("config", "a stream takes one config; its form can't change")
            if kind is None:
                raise InvalidArgument("request", "must hold audio")
            samples = self._reader.read(message.audio)
            # A second or so: no message, however large, keeps other streams waiting.
            for block in torch.split(samples, self._reader.rate_hz, dim=1):
                async for found in self._heard(self._windows.push(mono(self._resampler.push(block)))):
                    yield found
        async for found in self._heard(self._windows.push(mono(self._resampler.finish()))):
            yield found
        async for found in self._heard(self._windows.finish()):
            yield found
        if not self._windows.received:
            raise InvalidArgument("audio", f"the stream is shorter than one sample at {self._rate} Hz")
        yield self._findings.conclude()

    async def _heard(self, windows: Iterator[Window]) -> AsyncIterator[WindowFinding]:
        full = list(windows)
        for window, hearing in zip(full, await self._engine.listen(full), strict=True):
            yield self._findings.add(window, hearing)
