"""The client for asyncio: the same calls as `client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from antiphon import operations
from antiphon.analysis import Analysis, analyze
from antiphon.analysis_streams import AsyncAnalyzeStream
from antiphon.async_streams import AsyncDecodeStream, AsyncEncodeStream, AsyncGenerationStream, Connect, awaited
from antiphon.audio import OutputEncoding
from antiphon.batch import GenerationRequest, generate_batch
from antiphon.codec_streams import Codes, DecodeOptions, EncodeOptions
from antiphon.connection import CHANNEL_OPTIONS, STUBS, Connection, new_request_id, time_left
from antiphon.ecdc import EcdcFile
from antiphon.errors import AntiphonError, FailedPreconditionError
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

T = TypeVar("T")


class AsyncClient:
    """Calls all three services at one address, from one event loop. Close it, or use it with `async with`.

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
        use_sampling, seed, include_codes, encoding, endless, initial_credit, continue_from, melody, extend_stride,
        two_step_cfg. `timeout` counts until the end of the
        stream. When the connection breaks, or the server goes down, another call goes on with the next sample; see
        `resume` of the client.
        """
        connect = self._connector(Service.GENERATOR, "StreamGenerate", timeout)
        return AsyncGenerationStream(connect, generation_request(prompt, **options), on_progress, self._resume)

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> GeneratedAudio:
        """Generates a piece and returns it whole; arguments as in `stream_generate`."""
        return await self._call(operations.generate(generation_request(prompt, **options)), timeout)

    async def generate_batch(
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
        return await self._collect(generate_batch(pieces, options), timeout)

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
        self, audio: AudioFile, *, timeout: float | None = None, **options: Unpack[EncodeOptions]
    ) -> EncodedAudio:
        """Turns an audio file, its bytes or its path, into codes.

        `options` are those of EncodeOptions: model, bandwidth_kbps, codebook_count, quality.
        """
        return await self._call(await asyncio.to_thread(operations.encode, audio, options), timeout)

    async def decode(
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
        return await self._call(operations.decode(codes, options), timeout)

    async def decode_file(
        self,
        codes: EncodedAudio | NDArray[np.integer],
        *,
        encoding: OutputEncoding = "wav",
        timeout: float | None = None,
        **options: Unpack[DecodeOptions],
    ) -> bytes:
        """Turns codes into an audio file of the encoding and returns its bytes; arguments as in `decode`."""
        return await self._call(operations.decode_file(codes, encoding, options), timeout)

    def stream_encode(
        self,
        audio: AsyncIterable[NDArray[np.generic]] | Iterable[NDArray[np.generic]],
        *,
        sample_rate_hz: int,
        channel_count: int = 1,
        timeout: float | None = None,
        **options: Unpack[EncodeOptions],
    ) -> AsyncEncodeStream:
        """Turns audio into codes while it comes in.

        Use it as `async for chunk in client.stream_encode(blocks, sample_rate_hz=24000)`; the stream's `result` is then
        what `encode` returns. The blocks are [samples, channels], or [samples] of one channel: floats, or 16-bit
        integers, from first to last. `options` as in `encode`.
        """
        connect = self._connector(Service.CODEC, "StreamEncode", timeout)
        return AsyncEncodeStream(connect, audio, sample_rate_hz, channel_count, options)

    def stream_decode(
        self,
        codes: EncodedAudio | AsyncIterable[Codes] | Iterable[Codes],
        *,
        encoding: OutputEncoding = "pcm_f32le",
        timeout: float | None = None,
        **options: Unpack[DecodeOptions],
    ) -> AsyncDecodeStream:
        """Turns codes into audio while they come in.

        Use it as `async for chunk in client.stream_decode(encoded)`. Codes may be all of a piece, or come piece by
        piece, [K, T] or what `stream_encode` yields. `options` as in `decode`.
        """
        connect = self._connector(Service.CODEC, "StreamDecode", timeout)
        return AsyncDecodeStream(connect, [codes] if isinstance(codes, EncodedAudio) else codes, encoding, options)

    async def compress(self, encoded: EncodedAudio, *, timeout: float | None = None) -> EcdcFile:
        """Makes an entropy-coded .ecdc file. FailedPreconditionError: The server lacks the language model for it."""
        return await self._call(operations.compress(encoded), timeout)

    async def expand(self, file: EcdcFile, *, model: str = "", timeout: float | None = None) -> EncodedAudio:
        """Returns the codes of an .ecdc file. Only entropy-coded ones need the server."""
        if not file.is_entropy_coded:
            return file.unpack(model)
        return await self._call(operations.expand(file, model), timeout)

    async def analyze(
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
        build = partial(
            analyze,
            audio,
            model=model,
            threshold=threshold,
            include_feature_maps=include_feature_maps,
            include_images=include_images,
        )
        return await self._call(await asyncio.to_thread(build), timeout)

    def stream_analyze(
        self,
        audio: AsyncIterable[NDArray[np.generic]] | Iterable[NDArray[np.generic]],
        *,
        sample_rate_hz: int,
        channel_count: int = 1,
        model: str = "",
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> AsyncAnalyzeStream:
        """Analyzes audio while it comes in, a result a window.

        Use it as `async for window in client.stream_analyze(blocks, sample_rate_hz=24000)`; the stream's `result` is
        then what `analyze` returns. The blocks are as in `stream_encode`.
        """
        connect = self._connector(Service.ANALYZER, "StreamAnalyze", timeout)
        return AsyncAnalyzeStream(connect, audio, sample_rate_hz, channel_count, model, threshold)

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

    def _connector(self, service: Service, name: str, timeout: float | None) -> Connect:
        left = time_left(timeout)

        def connect(requests: AsyncIterator[Any], request_id: str) -> Any:
            method = self._method(service, name)
            return method(requests, timeout=left(), metadata=self._connection.metadata(request_id))

        return connect

    async def _call(self, operation: Operation[T], timeout: float | None) -> T:
        request_id = new_request_id()
        method = self._method(operation.service, operation.method)
        metadata = self._connection.metadata(request_id)
        with awaited(request_id):
            response = await method(operation.request, timeout=timeout, metadata=metadata)
            return operation.read(response)

    async def _collect(self, operation: Operation[T], timeout: float | None) -> T:
        """Makes a call with many responses; its `read` takes them all."""
        request_id = new_request_id()
        method = self._method(operation.service, operation.method)
        call = method(operation.request, timeout=timeout, metadata=self._connection.metadata(request_id))
        try:
            with awaited(request_id):
                return operation.read([response async for response in call])
        finally:
            call.cancel()

    async def _check(self, service: Service, timeout: float | None) -> str:
        request_id = new_request_id()
        request = health_pb2.HealthCheckRequest(service=service.full_name)
        check = health_pb2_grpc.HealthStub(self._connected()).Check
        metadata = self._connection.metadata(request_id, service)
        with awaited(request_id):
            response = await check(request, timeout=timeout, metadata=metadata)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


async def _settle(call: Awaitable[T]) -> T | AntiphonError:
    try:
        return await call
    except AntiphonError as error:
        return error
