"""The streams of the client for asyncio."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from antiphon.audio import OutputEncoding
from antiphon.codec_streams import Codes, DecodeOptions, DecodeState, EncodeOptions, EncodeState, Feed
from antiphon.connection import new_request_id
from antiphon.errors import AntiphonError, CancelledError, reported
from antiphon.exchange import Exchange, OutT, ResponseT
from antiphon.generation import GenerationState, OnProgress
from antiphon.results import Chunk, EncodedChunk
from antiphon.v1 import codec_pb2
from antiphon.v1.generator_pb2 import GenerateRequest, StreamGenerateRequest, StreamGenerateResponse

ItemT = TypeVar("ItemT")
Connect = Callable[[AsyncIterator[Any], str], Any]
"""Begins a call, from its requests and the request id."""


class AsyncCallStream(Exchange[ResponseT, OutT]):
    """A call that is awaited. The request goes out when the stream is iterated; leaving early cancels the call."""

    _connect: Connect
    _call: Any = None
    _responses: AsyncIterator[ResponseT] | None = None
    _cancelled = False
    _failure: Exception | None = None
    """Why there are no more requests, where the caller's own pieces failed."""

    async def __aiter__(self) -> AsyncIterator[OutT]:
        """Yields what comes, in order.

        Raises:
            ProtocolError: A gap in what comes, or another breach of the contract.
            AntiphonError: What else ends a call.
        """
        try:
            while (response := await self._receive()) is not None:
                out = self._read(response)
                if out is not None:
                    yield out
            self._end()
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def aclose(self) -> None:
        """Same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @abstractmethod
    def _requests(self) -> AsyncIterator[Any]:
        """Yields the requests."""

    def _is_over(self) -> bool:
        """Whether the server has said all."""
        return False

    async def _receive(self) -> ResponseT | None:
        if self._responses is None:
            if self._cancelled:
                raise CancelledError("the stream is closed", request_id=self.request_id)
            self._call = self._connect(self._requests(), self.request_id)
            self._responses = aiter(self._call)
        try:
            with awaited(self.request_id):
                response = await anext(self._responses, None)
                if response is None and self._cancelled and not self._is_over():
                    # An iterator that has raised once is empty; the reason stays the same.
                    raise CancelledError("the stream is closed")
        except AntiphonError:
            if self._failure is not None:
                raise self._failure from None
            raise
        return response


class AsyncGenerationStream(AsyncCallStream[StreamGenerateResponse, Chunk], GenerationState):
    """The chunks of a piece while it is made, with its state and controls.

    The request goes out when the stream is entered (`async with`) or iterated. Entering waits until the
    server has `started`. Leaving the loop or the block early, or cancelling the task, cancels the call. The
    controls do not wait, so they are not awaited.
    """

    def __init__(
        self, connect: Connect, wanted: GenerateRequest, on_progress: OnProgress | None, resume: bool = True
    ) -> None:
        GenerationState.__init__(self, new_request_id(), wanted, on_progress, resume)
        self._connect = connect
        self._outbox: asyncio.Queue[StreamGenerateRequest | None] = asyncio.Queue()
        self._given_up = asyncio.Event()
        for request in self._recovery.opening():
            self._outbox.put_nowait(request)

    def cancel(self) -> None:
        self._outbox.put_nowait(None)
        self._given_up.set()
        super().cancel()

    async def __aenter__(self) -> Self:
        try:
            response = await self._receive()
            if response is None:
                self._end()
            else:
                self._read(response)
        except BaseException:
            self.cancel()
            raise
        return self

    def _send(self, request: StreamGenerateRequest | None) -> None:
        self._outbox.put_nowait(request)

    async def _requests(self) -> AsyncIterator[StreamGenerateRequest]:
        outbox = self._outbox
        while (request := await outbox.get()) is not None:
            yield request

    async def _receive(self) -> StreamGenerateResponse | None:
        while True:
            try:
                return await super()._receive()
            except AntiphonError as error:
                delay = None if self._cancelled or self._finished else self._recovery.delay_seconds(error)
                if delay is None:
                    raise
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._given_up.wait(), delay)
                if self._given_up.is_set():
                    raise
            self._reopen()

    def _reopen(self) -> None:
        """Let the next response be that of a new call, which goes on where this one ended."""
        self._outbox.put_nowait(None)
        self._outbox = asyncio.Queue()
        for request in self._recovery.opening():
            self._outbox.put_nowait(request)
        self._reopened, self._call, self._responses = True, None, None

    def _is_over(self) -> bool:
        return self._finished is not None


class AsyncFeedStream(AsyncCallStream[ResponseT, OutT], Feed[ItemT, ResponseT, OutT], Generic[ItemT, ResponseT, OutT]):
    """A call that sends the caller's pieces while it reads."""

    _items: AsyncIterable[ItemT] | Iterable[ItemT]

    async def _requests(self) -> AsyncIterator[Any]:
        try:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    for request in self._messages(item):
                        yield request
            else:
                for item in self._items:
                    for request in self._messages(item):
                        yield request
            for request in self._last():
                yield request
        except Exception as error:
            self._failure = error
            raise


class AsyncEncodeStream(
    AsyncFeedStream[NDArray[np.generic], codec_pb2.StreamEncodeResponse, EncodedChunk], EncodeState
):
    """The codes of audio while it comes in; `result` is all of them, after the end."""

    def __init__(
        self,
        connect: Connect,
        audio: AsyncIterable[NDArray[np.generic]] | Iterable[NDArray[np.generic]],
        sample_rate_hz: int,
        channel_count: int,
        options: EncodeOptions,
    ) -> None:
        EncodeState.__init__(self, new_request_id(), sample_rate_hz, channel_count, options)
        self._connect, self._items = connect, audio

    def _is_over(self) -> bool:
        return self._finished is not None


class AsyncDecodeStream(AsyncFeedStream[Codes, codec_pb2.StreamDecodeResponse, Chunk], DecodeState):
    """The audio of codes while they come in."""

    def __init__(
        self,
        connect: Connect,
        codes: AsyncIterable[Codes] | Iterable[Codes],
        encoding: OutputEncoding,
        options: DecodeOptions,
    ) -> None:
        DecodeState.__init__(self, new_request_id(), encoding, options)
        self._connect, self._items = connect, codes

    def _is_over(self) -> bool:
        return self._reader is not None and self._reader.final_seen


@contextmanager
def awaited(request_id: str) -> Iterator[None]:
    """`reported`, and tells a cancelled call from a cancelled task: grpc raises the same for both."""
    try:
        with reported(request_id):
            yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise CancelledError("the call was cancelled", request_id=request_id) from error
