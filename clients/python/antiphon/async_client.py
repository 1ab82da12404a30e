"""The client for asyncio: the same calls as `client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from antiphon import operations
from antiphon.connection import CHANNEL_OPTIONS, STUBS, Connection, new_request_id
from antiphon.errors import AntiphonError, CancelledError, FailedPreconditionError, reported
from antiphon.generation import GenerationState, OnProgress
from antiphon.messages import GenerationOptions, Prompt, generation_config
from antiphon.operations import AudioFile, Operation
from antiphon.results import (
    Analysis,
    Audio,
    Chunk,
    EncodedAudio,
    GeneratedAudio,
    HealthStatus,
    ModelList,
    Service,
)
from antiphon.v1.generator_pb2 import GenerationConfig, StreamGenerateRequest, StreamGenerateResponse

T = TypeVar("T")


class AsyncGenerationStream(GenerationState):
    """The chunks of a piece while it is made, with its state and controls.

    The request goes out when the stream is entered (`async with`) or iterated. Entering waits until the
    server has `started`. Leaving the loop or the block early, or cancelling the task, cancels the call. The
    controls do not wait, so they are not awaited.
    """

    def __init__(
        self,
        connect: Callable[[AsyncIterator[StreamGenerateRequest], str], Any],
        config: GenerationConfig,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(new_request_id(), on_progress)
        self._connect = connect
        self._outbox: asyncio.Queue[StreamGenerateRequest | None] = asyncio.Queue()
        self._outbox.put_nowait(StreamGenerateRequest(config=config))
        self._call: Any = None
        self._responses: AsyncIterator[StreamGenerateResponse] | None = None
        self._cancelled = False

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Yields the chunks in order.

        Raises:
            ProtocolError: A gap in the chunks, or another breach of the contract.
            AntiphonError: What else ends a call.
        """
        try:
            while (response := await self._receive()) is not None:
                chunk = self._read(response)
                if chunk is not None:
                    yield chunk
            self._end()
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        self._outbox.put_nowait(None)
        if self._call is not None:
            self._call.cancel()

    async def aclose(self) -> None:
        """Same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()

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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _send(self, request: StreamGenerateRequest | None) -> None:
        self._outbox.put_nowait(request)

    async def _receive(self) -> StreamGenerateResponse | None:
        if self._responses is None:
            if self._cancelled:
                raise CancelledError("the stream is closed", request_id=self.request_id)
            self._call = self._connect(_drain(self._outbox), self.request_id)
            self._responses = aiter(self._call)
        with _awaited(self.request_id):
            response = await anext(self._responses, None)
            if response is None and self._finished is None and self._cancelled:
                # An iterator that has raised once is empty; the reason stays the same.
                raise CancelledError("the stream is closed")
        return response


async def _drain(outbox: asyncio.Queue[T | None]) -> AsyncIterator[T]:
    while (request := await outbox.get()) is not None:
        yield request


@contextmanager
def _awaited(request_id: str) -> Iterator[None]:
    """`reported`, and tells a cancelled call from a cancelled task: grpc raises the same for both."""
    try:
        with reported(request_id):
            yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise CancelledError("the call was cancelled", request_id=request_id) from error


class AsyncClient:
    """Calls all three services at one address, from one event loop. Close it, or use it with `async with`.

    Args:
        target: "host:port"; default: ANTIPHON_TARGET, else localhost:8080.
        api_key: Sent as a bearer token; default: ANTIPHON_API_KEY, else none.
        tls: True to use TLS with the system's root certificates.
        root_certificates: PEM; turns TLS on and trusts these instead.

    Every method takes `timeout` in seconds (none by default) and raises AntiphonError; see `errors`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: bytes | None = None,
    ) -> None:
        self._connection = Connection.resolve(target, api_key=api_key, tls=tls, root_certificates=root_certificates)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    @property
    def target(self) -> str:
        """The address."""
        return self._connection.target

    def stream_generate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncGenerationStream:
        """Generates a piece and streams it while it is made.

        Use it as `async for chunk in client.stream_generate("slow sad piano")`.

        `options` are those of GenerationOptions: model, duration, temperature, top_k, top_p, cfg_coef,
        use_sampling, seed, include_codes, encoding. `timeout` counts until the end of the stream.
        """

        def connect(requests: AsyncIterator[StreamGenerateRequest], request_id: str) -> Any:
            method = self._method(Service.GENERATOR, "StreamGenerate")
            return method(requests, timeout=timeout, metadata=self._connection.metadata(request_id))

        return AsyncGenerationStream(connect, generation_config(prompt, **options), on_progress)

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> GeneratedAudio:
        """Generates a piece and returns it whole; arguments as in `stream_generate`."""
        return await self._call(operations.generate(generation_config(prompt, **options)), timeout)

    async def list_models(self, *, timeout: float | None = None) -> ModelList:
        """Lists the models of the three services. A service that fails is in `errors` of the result."""
        calls = [self._call(operations.list_models(s), timeout) for s in Service]
        replies = await asyncio.gather(*map(_settle, calls))
        return operations.join_models(dict(zip(Service, replies, strict=True)))

    async def health(self, *, timeout: float | None = None) -> dict[Service, HealthStatus]:
        """Asks the three services how they are."""
        replies = await asyncio.gather(*(_settle(self._check(s, timeout)) for s in Service))
        return {s: operations.read_health(reply) for s, reply in zip(Service, replies, strict=True)}

    async def encode(
        self,
        audio: AudioFile,
        *,
        model: str = "",
        bandwidth_kbps: float = 0.0,
        codebook_count: int = 0,
        timeout: float | None = None,
    ) -> EncodedAudio:
        """Turns an audio file, its bytes or its path, into codes.

        `bandwidth_kbps` or `codebook_count` limit the codebooks; 0 for all.
        """
        build = partial(
            operations.encode,
            audio,
            model=model,
            bandwidth_kbps=bandwidth_kbps,
            codebook_count=codebook_count,
        )
        return await self._call(await asyncio.to_thread(build), timeout)

    async def decode(
        self,
        codes: EncodedAudio | NDArray[np.integer],
        *,
        model: str = "",
        codebook_size: int = 1024,
        sample_count: int = 0,
        timeout: float | None = None,
    ) -> Audio:
        """Turns codes into audio: what `encode` returned, or [K, T] and the model's codebook size."""
        operation = operations.decode(codes, model=model, codebook_size=codebook_size, sample_count=sample_count)
        return await self._call(operation, timeout)

    async def analyze(
        self,
        audio: AudioFile,
        *,
        model: str = "",
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> Analysis:
        """Looks for evidence that a neural decoder made the audio, given as a file's bytes or path."""
        build = partial(operations.analyze, audio, model=model, threshold=threshold)
        return await self._call(await asyncio.to_thread(build), timeout)

    async def close(self) -> None:
        """Closes the connection; calls that run are cancelled. Closing twice does nothing."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> grpc.aio.Channel:
        if self._closed:
            raise FailedPreconditionError("the client is closed")
        # A channel belongs to the loop that runs when it is made, so none is made before the first call.
        if self._channel is None:
            options, credentials = list(CHANNEL_OPTIONS), self._connection.credentials
            self._channel = (
                grpc.aio.insecure_channel(self.target, options)
                if credentials is None
                else grpc.aio.secure_channel(self.target, credentials, options)
            )
        return self._channel

    def _method(self, service: Service, name: str) -> Any:
        return getattr(STUBS[service](self._connected()), name)

    async def _call(self, operation: Operation[T], timeout: float | None) -> T:
        request_id = new_request_id()
        method = self._method(operation.service, operation.method)
        metadata = self._connection.metadata(request_id)
        with _awaited(request_id):
            response = await method(operation.request, timeout=timeout, metadata=metadata)
            return operation.read(response)

    async def _check(self, service: Service, timeout: float | None) -> str:
        request_id = new_request_id()
        request = health_pb2.HealthCheckRequest(service=service.full_name)
        check = health_pb2_grpc.HealthStub(self._connected()).Check
        metadata = self._connection.metadata(request_id, service)
        with _awaited(request_id):
            response = await check(request, timeout=timeout, metadata=metadata)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


async def _settle(call: Awaitable[T]) -> T | AntiphonError:
    try:
        return await call
    except AntiphonError as error:
        return error
