"""The client for threads: every call waits for its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
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


class GenerationStream(GenerationState):
    """The chunks of a piece while it is made, with its state and controls.

    The request goes out when the stream is entered (`with`) or iterated. Entering waits until the server has
    `started`. Leaving the loop or the block early cancels the call. Any thread may use the controls.
    """

    def __init__(
        self,
        connect: Callable[[Iterator[StreamGenerateRequest], str], Any],
        config: GenerationConfig,
        on_progress: OnProgress | None,
    ) -> None:
        super().__init__(new_request_id(), on_progress)
        self._connect = connect
        self._outbox: SimpleQueue[StreamGenerateRequest | None] = SimpleQueue()
        self._outbox.put(StreamGenerateRequest(config=config))
        self._call: Any = None
        self._cancelled = False

    def __iter__(self) -> Iterator[Chunk]:
        """Yields the chunks in order.

        Raises:
            ProtocolError: A gap in the chunks, or another breach of the contract.
            AntiphonError: What else ends a call.
        """
        try:
            while (response := self._receive()) is not None:
                chunk = self._read(response)
                if chunk is not None:
                    yield chunk
            self._end()
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        # Ends the thread in which grpc waits for requests.
        self._outbox.put(None)
        if self._call is not None:
            self._call.cancel()

    close = cancel

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _send(self, request: StreamGenerateRequest | None) -> None:
        self._outbox.put(request)

    def _receive(self) -> StreamGenerateResponse | None:
        if self._call is None:
            if self._cancelled:
                raise CancelledError("the stream is closed", request_id=self.request_id)
            self._call = self._connect(iter(self._outbox.get, None), self.request_id)
        with reported(self.request_id):
            response: StreamGenerateResponse | None = next(self._call, None)
        return response


class Client:
    """Calls all three services at one address. Threads may share it. Close it, or use it with `with`.

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
        options, credentials = list(CHANNEL_OPTIONS), self._connection.credentials
        self._channel = (
            grpc.insecure_channel(self.target, options)
            if credentials is None
            else grpc.secure_channel(self.target, credentials, options)
        )
        self._stubs = {service: stub(self._channel) for service, stub in STUBS.items()}
        self._health = health_pb2_grpc.HealthStub(self._channel)
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
    ) -> GenerationStream:
        """Generates a piece and streams it while it is made.

        Use it as `for chunk in client.stream_generate("slow sad piano")`.

        `options` are those of GenerationOptions: model, duration, temperature, top_k, top_p, cfg_coef,
        use_sampling, seed, include_codes, encoding. `timeout` counts until the end of the stream.
        """

        def connect(requests: Iterator[StreamGenerateRequest], request_id: str) -> Any:
            method = self._method(self._stubs[Service.GENERATOR], "StreamGenerate")
            return method(requests, timeout=timeout, metadata=self._connection.metadata(request_id))

        return GenerationStream(connect, generation_config(prompt, **options), on_progress)

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> GeneratedAudio:
        """Generates a piece and returns it whole; arguments as in `stream_generate`."""
        return self._call(operations.generate(generation_config(prompt, **options)), timeout)

    def list_models(self, *, timeout: float | None = None) -> ModelList:
        """Lists the models of the three services. A service that fails is in `errors` of the result."""
        pending = {s: self._submit(operations.list_models(s), timeout) for s in Service}
        return operations.join_models({s: _settle(wait) for s, wait in pending.items()})

    def health(self, *, timeout: float | None = None) -> dict[Service, HealthStatus]:
        """Asks the three services how they are."""
        pending = {s: self._submit_health(s, timeout) for s in Service}
        return {s: operations.read_health(_settle(wait)) for s, wait in pending.items()}

    def encode(
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
        operation = operations.encode(audio, model=model, bandwidth_kbps=bandwidth_kbps, codebook_count=codebook_count)
        return self._call(operation, timeout)

    def decode(
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
        return self._call(operation, timeout)

    def analyze(
        self,
        audio: AudioFile,
        *,
        model: str = "",
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> Analysis:
        """Looks for evidence that a neural decoder made the audio, given as a file's bytes or path."""
        return self._call(operations.analyze(audio, model=model, threshold=threshold), timeout)

    def close(self) -> None:
        """Closes the connection; calls that run are cancelled. Closing twice does nothing."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _method(self, stub: object, name: str) -> Any:
        if self._closed:
            raise FailedPreconditionError("the client is closed")
        return getattr(stub, name)

    def _call(self, operation: Operation[T], timeout: float | None) -> T:
        return self._submit(operation, timeout)()

    def _submit(self, operation: Operation[T], timeout: float | None) -> Callable[[], T]:
        method = self._method(self._stubs[operation.service], operation.method)
        return self._begin(method, operation.request, operation.read, timeout)

    def _submit_health(self, service: Service, timeout: float | None) -> Callable[[], str]:
        def read(response: Any) -> str:
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))

        request = health_pb2.HealthCheckRequest(service=service.full_name)
        return self._begin(self._method(self._health, "Check"), request, read, timeout, service)

    def _begin(
        self,
        method: Any,
        request: object,
        read: Callable[[Any], T],
        timeout: float | None,
        service: Service | None = None,
    ) -> Callable[[], T]:
        """Sends a unary request; returns what waits for its result."""
        request_id = new_request_id()
        metadata = self._connection.metadata(request_id, service)
        call = method.future(request, timeout=timeout, metadata=metadata)

        def wait() -> T:
            try:
                with reported(request_id):
                    return read(call.result())
            except grpc.FutureCancelledError as error:
                raise CancelledError("the call was cancelled", request_id=request_id) from error
            finally:
                # Of use when something else came in between, as Ctrl-C does; after the end it does nothing.
                call.cancel()

        return wait


def _settle(wait: Callable[[], T]) -> T | AntiphonError:
    try:
        return wait()
    except AntiphonError as error:
        return error
