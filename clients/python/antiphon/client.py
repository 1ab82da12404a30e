"""The client for threads: every call waits for its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from antiphon import operations
from antiphon.analysis import Analysis, analyze
from antiphon.analysis_streams import AnalyzeStream
from antiphon.audio import OutputEncoding
from antiphon.batch import GenerationRequest, generate_batch
from antiphon.codec_streams import Codes, DecodeOptions, EncodeOptions
from antiphon.connection import CHANNEL_OPTIONS, STUBS, Connection, new_request_id, time_left
from antiphon.ecdc import EcdcFile
from antiphon.errors import AntiphonError, CancelledError, FailedPreconditionError, reported
from antiphon.generation import OnProgress
from antiphon.messages import AudioFile, GenerationOptions, Prompt, generation_request
from antiphon.operations import Operation
from antiphon.results import (
    Audio,
    EncodedAudio,
    GeneratedAudio,
    HealthStatus,
    ModelList,
    Service,
)
from antiphon.streams import Connect, DecodeStream, EncodeStream, GenerationStream

T = TypeVar("T")


class Client:
    """Calls all three services at one address. Threads may share it. Close it, or use it with `with`.

    Args:
        target: "host:port"; default: ANTIPHON_TARGET, else localhost:8080.
        api_key: Sent as a bearer token; default: ANTIPHON_API_KEY, else none.
        tls: True to use TLS with the system's root certificates.
        root_certificates: PEM; turns TLS on and trusts these instead.
        resume: False to raise the error when a stream's connection breaks, instead of going on in another call.

    Every method takes `timeout` in seconds (none by default) and raises AntiphonError; see `errors`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: bytes | None = None,
        resume: bool = True,
    ) -> None:
        self._resume = resume
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
        use_sampling, seed, include_codes, encoding, endless, initial_credit, continue_from, melody, extend_stride,
        two_step_cfg. `timeout` counts until the end of the
        stream. When the connection breaks, or the server goes down, another call goes on with the next sample; see
        `resume` of the client.
        """
        connect = self._connector(Service.GENERATOR, "StreamGenerate", timeout)
        return GenerationStream(connect, generation_request(prompt, **options), on_progress, self._resume)

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> GeneratedAudio:
        """Generates a piece and returns it whole; arguments as in `stream_generate`."""
        return self._call(operations.generate(generation_request(prompt, **options)), timeout)

    def generate_batch(
        self,
        pieces: Iterable[Prompt | GenerationRequest],
        *,
        timeout: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[GeneratedAudio]:
        """Generates several pieces in one call and returns them in the order asked, each as `generate` makes it.

        A piece is a prompt, or a GenerationRequest: `{"prompt": "a piano", "seed": 3}` has options of its own, which go
        before `options`. The pieces are of one model and run together; the seed of each is in its `started`. All are
        made, or none. `endless`, `initial_credit`, `continue_from` and `melody` are for single pieces.
        """
        return self._collect(generate_batch(pieces, options), timeout)

    def list_models(self, *, timeout: float | None = None) -> ModelList:
        """Lists the models of the three services. A service that fails is in `errors` of the result."""
        pending = {s: self._submit(operations.list_models(s), timeout) for s in Service}
        return operations.join_models({s: _settle(wait) for s, wait in pending.items()})

    def health(self, *, timeout: float | None = None) -> dict[Service, HealthStatus]:
        """Asks the three services how they are."""
        pending = {s: self._submit_health(s, timeout) for s in Service}
        return {s: operations.read_health(_settle(wait)) for s, wait in pending.items()}

    def encode(
        self, audio: AudioFile, *, timeout: float | None = None, **options: Unpack[EncodeOptions]
    ) -> EncodedAudio:
        """Turns an audio file, its bytes or its path, into codes.

        `options` are those of EncodeOptions: model, bandwidth_kbps, codebook_count, quality.
        """
        return self._call(operations.encode(audio, options), timeout)

    def decode(
        self,
        codes: EncodedAudio | NDArray[np.integer],
        *,
        timeout: float | None = None,
        **options: Unpack[DecodeOptions],
    ) -> Audio:
        """Turns codes into audio: what `encode` returned, or [K, T] and the model's codebook size.

        `options` are those of DecodeOptions: model, codebook_size, sample_count, decoder, quality, sample_rate_hz,
        channel_count.
        """
        return self._call(operations.decode(codes, options), timeout)

    def decode_file(
        self,
        codes: EncodedAudio | NDArray[np.integer],
        *,
        encoding: OutputEncoding = "wav",
        timeout: float | None = None,
        **options: Unpack[DecodeOptions],
    ) -> bytes:
        """Turns codes into an audio file of the encoding and returns its bytes; arguments as in `decode`."""
        return self._call(operations.decode_file(codes, encoding, options), timeout)

    def stream_encode(
        self,
        audio: Iterable[NDArray[np.generic]],
        *,
        sample_rate_hz: int,
        channel_count: int = 1,
        timeout: float | None = None,
        **options: Unpack[EncodeOptions],
    ) -> EncodeStream:
        """Turns audio into codes while it comes in.

        Use it as `for chunk in client.stream_encode(blocks, sample_rate_hz=24000)`; the stream's `result` is then
        what `encode` returns. The blocks are [samples, channels], or [samples] of one channel: floats, or 16-bit
        integers, from first to last. They are drawn in another thread. `options` as in `encode`.
        """
        connect = self._connector(Service.CODEC, "StreamEncode", timeout)
        return EncodeStream(connect, audio, sample_rate_hz, channel_count, options)

    def stream_decode(
        self,
        codes: EncodedAudio | Iterable[Codes],
        *,
        encoding: OutputEncoding = "pcm_f32le",
        timeout: float | None = None,
        **options: Unpack[DecodeOptions],
    ) -> DecodeStream:
        """Turns codes into audio while they come in.

        Use it as `for chunk in client.stream_decode(encoded)`. Codes may be all of a piece, or come piece by piece,
        [K, T] or what `stream_encode` yields; they are then drawn in another thread. `options` as in `decode`.
        """
        connect = self._connector(Service.CODEC, "StreamDecode", timeout)
        return DecodeStream(connect, [codes] if isinstance(codes, EncodedAudio) else codes, encoding, options)

    def compress(self, encoded: EncodedAudio, *, timeout: float | None = None) -> EcdcFile:
        """Makes an entropy-coded .ecdc file. FailedPreconditionError: The server lacks the language model for it."""
        return self._call(operations.compress(encoded), timeout)

    def expand(self, file: EcdcFile, *, model: str = "", timeout: float | None = None) -> EncodedAudio:
        """Returns the codes of an .ecdc file. Only entropy-coded ones need the server."""
        return self._call(operations.expand(file, model), timeout) if file.is_entropy_coded else file.unpack(model)

    def analyze(
        self,
        audio: AudioFile,
        *,
        model: str = "",
        threshold: float | None = None,
        include_feature_maps: bool = False,
        include_images: bool = False,
        timeout: float | None = None,
    ) -> Analysis:
        """Looks for evidence that a neural decoder made the audio, given as a file's bytes or path.

        `threshold` decides `is_real` alone, 0 to 1, default 0.5. `include_feature_maps` and `include_images` add what
        the discriminators made of it, as numbers and as PNG.
        """
        operation = analyze(
            audio,
            model=model,
            threshold=threshold,
            include_feature_maps=include_feature_maps,
            include_images=include_images,
        )
        return self._call(operation, timeout)

    def stream_analyze(
        self,
        audio: Iterable[NDArray[np.generic]],
        *,
        sample_rate_hz: int,
        channel_count: int = 1,
        model: str = "",
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> AnalyzeStream:
        """Analyzes audio while it comes in, a result a window.

        Use it as `for window in client.stream_analyze(blocks, sample_rate_hz=24000)`; the stream's `result` is then
        what `analyze` returns. The blocks are as in `stream_encode`.
        """
        connect = self._connector(Service.ANALYZER, "StreamAnalyze", timeout)
        return AnalyzeStream(connect, audio, sample_rate_hz, channel_count, model, threshold)

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

    def _connector(self, service: Service, name: str, timeout: float | None) -> Connect:
        left = time_left(timeout)

        def connect(requests: Iterator[Any], request_id: str) -> Any:
            method = self._method(self._stubs[service], name)
            return method(requests, timeout=left(), metadata=self._connection.metadata(request_id))

        return connect

    def _call(self, operation: Operation[T], timeout: float | None) -> T:
        return self._submit(operation, timeout)()

    def _collect(self, operation: Operation[T], timeout: float | None) -> T:
        """Makes a call with many responses; its `read` takes them all."""
        request_id = new_request_id()
        method = self._method(self._stubs[operation.service], operation.method)
        call = method(operation.request, timeout=timeout, metadata=self._connection.metadata(request_id))
        try:
            with reported(request_id):
                return operation.read(list(call))
        finally:
            call.cancel()

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
