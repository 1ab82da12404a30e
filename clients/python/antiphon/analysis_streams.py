"""The analyzer's streams, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

import numpy as np
from numpy.typing import NDArray

from antiphon import async_streams, streams
from antiphon.analysis import AnalyzeState, WindowAnalysis
from antiphon.connection import new_request_id
from antiphon.v1 import analyzer_pb2


class AnalyzeStream(
    streams.FeedStream[NDArray[np.generic], analyzer_pb2.StreamAnalyzeResponse, WindowAnalysis], AnalyzeState
):
    """The windows of audio while it comes in; `result` is the whole analysis, after the end."""

    def __init__(
        self,
        connect: streams.Connect,
        audio: Iterable[NDArray[np.generic]],
        sample_rate_hz: int,
        channel_count: int,
        model: str,
        threshold: float | None,
    ) -> None:
        AnalyzeState.__init__(self, new_request_id(), sample_rate_hz, channel_count, model, threshold)
        self._connect, self._items = connect, audio


class AsyncAnalyzeStream(
    async_streams.AsyncFeedStream[NDArray[np.generic], analyzer_pb2.StreamAnalyzeResponse, WindowAnalysis],
    AnalyzeState,
):
    """The windows of audio while it comes in; `result` is the whole analysis, after the end."""

    def __init__(
        self,
        connect: async_streams.Connect,
        audio: AsyncIterable[NDArray[np.generic]] | Iterable[NDArray[np.generic]],
        sample_rate_hz: int,
        channel_count: int,
        model: str,
        threshold: float | None,
    ) -> None:
        AnalyzeState.__init__(self, new_request_id(), sample_rate_hz, channel_count, model, threshold)
        self._connect, self._items = connect, audio

    def _is_over(self) -> bool:
        return self._finished is not None
