"""The streams of the client for threads."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
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
Connect = Callable[[Iterator[Any], str], Any]
"""Begins a call, from its requests and the request id."""


class CallStream(Exchange[ResponseT, OutT]):
    """A call that waits. The request goes out when the stream is iterated; leaving early cancels the call."""

    _connect: Connect
    _call: Any = None
    _cancelled = False
    _failure: Exception | None = None
    """Why there are no more requests, where the caller's own pieces failed."""

    def __iter__(self) -> Iterator[OutT]:
        """Yields what comes, in order.

        Raises:
            ProtocolError: A gap in what comes, or another breach of the contract.
            AntiphonError: What else ends a call.
        """
        try:
            while (response := self._receive()) is not None:
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

    def close(self) -> None:
        """Same as `cancel`, for `contextlib.closing`."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @abstractmethod
    def _requests(self) -> Iterator[Any]:
        """Yields the requests; runs in a thread of grpc."""

    def _receive(self) -> ResponseT | None:
        if self._call is None:
            if self._cancelled:
                raise CancelledError("the stream is closed", request_id=self.request_id)
            self._call = self._connect(self._requests(), self.request_id)
        try:
            with reported(self.request_id):
                response: ResponseT | None = next(self._call, None)
        except AntiphonError:
            if self._failure is not None:
                raise self._failure from None
            raise
        return response


class GenerationStream(CallStream[StreamGenerateResponse, Chunk], GenerationState):
    """The chunks of a piece while it is made, with its state and controls.

    The request goes out when the stream is entered (`with`) or iterated. Entering waits until the server has
    `started`. Leaving the loop or the block early cancels the call. Any thread may use the controls.
    """

    def __init__(
        self, connect: Connect, wanted: GenerateRequest, on_progress: OnProgress | None, resume: bool = True
    ) -> None:
        GenerationState.__init__(self, new_request_id(), wanted, on_progress, resume)
        self._connect = connect
        self._outbox: SimpleQueue[StreamGenerateRequest | None] = SimpleQueue()
        self._given_up = threading.Event()
        self._sending = threading.Lock()
        for request in self._recovery.opening():
            self._outbox.put(request)

    def cancel(self) -> None:
        # Ends the thread in which grpc waits for requests.
        self._outbox.put(None)
        self._given_up.set()
        super().cancel()

    def __enter__(self) -> Self:
        try:
            response = self._receive()
            if response is None:
                self._end()
            else:
                self._read(response)
        except BaseException:
            self.cancel()
            raise
        return self

    def _say(self, request: StreamGenerateRequest) -> None:
        # Together: what is kept for the next attempt must not be sent in it once more.
        with self._sending:
            super()._say(request)

    def _send(self, request: StreamGenerateRequest | None) -> None:
        self._outbox.put(request)

    def _requests(self) -> Iterator[StreamGenerateRequest]:
        return iter(self._outbox.get, None)

    def _receive(self) -> StreamGenerateResponse | None:
        while True:
            try:
                return super()._receive()
            except AntiphonError as error:
                delay = None if self._cancelled or self._finished else self._recovery.delay_seconds(error)
                if delay is None or self._given_up.wait(delay):
                    raise
            self._reopen()

    def _reopen(self) -> None:
        """Let the next response be that of a new call, which goes on where this one ended."""
        with self._sending:
            self._outbox.put(None)
            self._outbox = SimpleQueue()
            for request in self._recovery.opening():
                self._outbox.put(request)
            self._reopened, self._call = True, None


class FeedStream(CallStream[ResponseT, OutT], Feed[ItemT, ResponseT, OutT], Generic[ItemT, ResponseT, OutT]):
    """A call that sends the caller's pieces while it reads. They are drawn in a thread of grpc."""

    _items: Iterable[ItemT]

    def _requests(self) -> Iterator[Any]:
        try:
            for item in self._items:
                yield from self._messages(item)
            yield from self._last()
        except Exception as error:
            self._failure = error
            raise


class EncodeStream(FeedStream[NDArray[np.generic], codec_pb2.StreamEncodeResponse, EncodedChunk], EncodeState):
    """The codes of audio while it comes in; `result` is all of them, after the end."""

    def __init__(
        self,
        connect: Connect,
        audio: Iterable[NDArray[np.generic]],
        sample_rate_hz: int,
        channel_count: int,
        options: EncodeOptions,
    ) -> None:
        EncodeState.__init__(self, new_request_id(), sample_rate_hz, channel_count, options)
        self._connect, self._items = connect, audio


class DecodeStream(FeedStream[Codes, codec_pb2.StreamDecodeResponse, Chunk], DecodeState):
    """The audio of codes while they come in."""

    def __init__(
        self, connect: Connect, codes: Iterable[Codes], encoding: OutputEncoding, options: DecodeOptions
    ) -> None:
        DecodeState.__init__(self, new_request_id(), encoding, options)
        self._connect, self._items = connect, codes
