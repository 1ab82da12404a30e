"""Messages to requests and events to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
from google.api import httpbody_pb2
from numpy.typing import NDArray

from antiphon.codes import bits_per_code, pack_codes
from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator import files, requests
from services.generator.controls import Controls, OpenGenerations
from services.generator.output import Output
from services.generator.prompts import PromptLimits, attach, gather
from services.generator.replies import Replies, empty
from services.generator.requests import GenerationRequest
from services.generator.residents import Model, Residents
from services.generator.streams import Event, Finished, Stream
from services.models.audio_output import AudioEncoder
from services.runtime.context import client_of
from services.runtime.errors import FieldError, InvalidArgument
from services.runtime.messages import config_of, model_info


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """GeneratorService over the models, which may be loaded after it is made."""

    def __init__(self, models: Residents, limits: PromptLimits) -> None:
        self._models = models
        self._limits = limits
        self._open = OpenGenerations()

    def models(self) -> list[audio_pb2.ModelInfo]:
        """List the models, the default first."""
        return [
            model_info(
                info,
                is_default=index == 0,
                max_seconds=info.longest_seconds,
                latency_seconds=self._models.lookahead_seconds(name),
            )
            for index, (name, info) in enumerate(self._models.infos.items())
        ]

    async def ListModels(
        self, request: generator_pb2.GeneratorServiceListModelsRequest, context: Any
    ) -> generator_pb2.GeneratorServiceListModelsResponse:
        return generator_pb2.GeneratorServiceListModelsResponse(models=self.models())

    async def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> generator_pb2.GenerateResponse:
        generation = requests.generation(request.config, self._models.infos, audio=True)
        generation = await self._heard_at_once(generation, request)
        response = generator_pb2.GenerateResponse()
        codes: list[NDArray[np.int32]] = []
        audio: list[bytes] = []
        async with self._run(generation, context) as (model, stream):
            replies = Replies(generation, model)
            response.started.CopyFrom(replies.started(request.config))
            async for event in stream.events():
                if isinstance(event, Finished):
                    response.finished.CopyFrom(replies.finished(event))
                elif isinstance(event, Output):
                    audio.append(replies.pcm(event))
                    codes.append(event.codes)
        response.audio = b"".join(audio)
        if generation.include_codes:
            whole = np.concatenate([part for part in codes if part.size], axis=1)
            response.codes.CopyFrom(pack_codes(whole, bits_per_code(model.info.codebook_size)))
        return response

    async def StreamGenerate(
        self, request_iterator: AsyncIterator[generator_pb2.StreamGenerateRequest], context: Any
    ) -> AsyncIterator[generator_pb2.StreamGenerateResponse]:
        config = await config_of(request_iterator)
        generation = requests.generation(config, self._models.infos, streams=True)
        if config.HasField("prompt_audio"):
            generation = await self._heard(generation, config, await gather(request_iterator, self._limits))
        async with self._run(generation, context) as (model, stream):
            with _in_background(Controls(stream, model, generation).follow(request_iterator)):
                replies = Replies(generation, model)
                yield generator_pb2.StreamGenerateResponse(started=replies.started(config))
                async for event in stream.events():
                    for response in replies.responses(event):
                        yield response

    async def OpenGeneration(
        self, request: generator_pb2.OpenGenerationRequest, context: Any
    ) -> AsyncIterator[generator_pb2.OpenGenerationResponse]:
        generation = requests.generation(request.config, self._models.infos, streams=True)
        generation = await self._heard_at_once(generation, request)
        async with self._run(generation, context) as (model, stream):
            with self._open.hold(Controls(stream, model, generation)) as stream_id:
                replies = Replies(generation, model)
                started = generator_pb2.StreamGenerateResponse(started=replies.started(request.config))
                yield generator_pb2.OpenGenerationResponse(stream_id=stream_id, response=started)
                async for event in stream.events():
                    for response in replies.responses(event):
                        yield generator_pb2.OpenGenerationResponse(response=response)

    async def ControlGeneration(
        self, request: generator_pb2.ControlGenerationRequest, context: Any
    ) -> generator_pb2.ControlGenerationResponse:
        await self._open.find(request.stream_id).obey(request)
        return generator_pb2.ControlGenerationResponse()

    async def GenerateBatch(
        self, request: generator_pb2.GenerateBatchRequest, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateBatchResponse]:
        generations = requests.batch(request, self._models.infos)
        async with self._run_all(generations, context) as (model, streams):
            for index, (generation, config) in enumerate(zip(generations, request.configs, strict=True)):
                started = Replies(generation, model).started(config)
                response = generator_pb2.StreamGenerateResponse(started=started)
                yield generator_pb2.GenerateBatchResponse(index=index, response=response)
            replies = [Replies(generation, model) for generation in generations]
            async for index, event in _together(streams):
                for response in replies[index].responses(event):
                    yield generator_pb2.GenerateBatchResponse(index=index, response=response)

    async def GenerateFile(
        self, request: generator_pb2.GenerateFileRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        try:
            config = files.config(request, self._models.infos)
            generation = requests.generation(config, self._models.infos)
        except FieldError as error:
            raise files.flat_fields(error) from error
        async with self._run(generation, context) as (model, stream):
            encoder = files.encoder(request, generation, model.info, model.engine.samples_per_frame)
            content_type = encoder.output.encoding.media_type
            async for event in stream.events():
                if isinstance(event, Output) and not empty(event):
                    data = await asyncio.to_thread(_encoded, encoder, event)
                    if data:
                        yield httpbody_pb2.HttpBody(content_type=content_type, data=data)
                        content_type = ""

    async def _heard_at_once(
        self,
        generation: GenerationRequest,
        request: generator_pb2.GenerateRequest | generator_pb2.OpenGenerationRequest,
    ) -> GenerationRequest:
        """Return the request with its audio prompt, which came with it."""
        if request.config.HasField("prompt_audio") != bool(request.prompt_audio):
            raise InvalidArgument("prompt_audio", "must come with config.prompt_audio, and that with it")
        return await self._heard(generation, request.config, request.prompt_audio)

    async def _heard(
        self, generation: GenerationRequest, config: generator_pb2.GenerationConfig, prompt: bytes
    ) -> GenerationRequest:
        """Return the request with its audio prompt, if it has one."""
        if not config.HasField("prompt_audio"):
            return generation
        info, hop = self._models.infos[generation.model], self._models.samples_per_frame(generation.model)
        return await asyncio.to_thread(attach, generation, config.prompt_audio, prompt, info, hop, self._limits)

    @asynccontextmanager
    async def _run(self, generation: GenerationRequest, context: Any) -> AsyncIterator[tuple[Model, Stream]]:
        async with self._run_all([generation], context) as (model, streams):
            yield model, streams[0]

    @asynccontextmanager
    async def _run_all(
        self, generations: Sequence[GenerationRequest], context: Any
    ) -> AsyncIterator[tuple[Model, list[Stream]]]:
        """Queue requests for one model; whoever leaves cancels what still runs."""
        async with self._models.lease(generations[0].model) as model:
            streams = model.scheduler.submit(generations, client_of(context))
            try:
                yield model, streams
            finally:
                for stream in streams:
                    stream.cancel()


def _encoded(encoder: AudioEncoder, output: Output) -> bytes:
    """Return what an output adds to a file."""
    data = encoder.encode(output.audio)
    return data + encoder.finish() if output.final else data


@contextmanager
def _in_background(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


async def _together(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Event]]:
    """Yield the events of several streams as they come, each with its stream's index."""
    iterators = [aiter(stream.events()) for stream in streams]
    waiting: dict[asyncio.Task[Event | None], int] = {}

    def wait(index: int) -> None:
        waiting[asyncio.ensure_future(anext(iterators[index], None))] = index

    try:
        for index in range(len(streams)):
            wait(index)
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index, event = waiting.pop(task), task.result()
                if event is not None:
                    yield index, event
                    wait(index)
    finally:
        for task in waiting:
            task.cancel()
