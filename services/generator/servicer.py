"""Messages to requests and events to messages, and nothing else."""
# ruff: noqa: N802

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from google.api import httpbody_pb2
from numpy.typing import NDArray

from antiphon.codes import bits_per_code, pack_codes
from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator import requests
from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.generator.scheduler import Scheduler
from services.generator.streams import Finished, Reason, Stream
from services.models.audio import to_pcm16, to_pcm_f32
from services.models.loader import ModelInfo
from services.runtime.errors import FailedPrecondition, InvalidArgument, Unimplemented
from services.runtime.messages import duration, model_info

_Action = generator_pb2.GenerationControl
_REASONS = {
    Reason.COMPLETE: generator_pb2.GenerationFinished.REASON_COMPLETE,
    Reason.STOPPED: generator_pb2.GenerationFinished.REASON_STOPPED,
}


@dataclass(frozen=True)
class Model:
    """A loaded model and who runs it."""

    info: ModelInfo
    engine: GeneratorEngine
    scheduler: Scheduler


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """GeneratorService over the loaded models, the default first. They may be loaded after it is made."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    async def ListModels(
        self, request: generator_pb2.GeneratorServiceListModelsRequest, context: Any
    ) -> generator_pb2.GeneratorServiceListModelsResponse:
        models = [
            model_info(
                model.info,
                is_default=index == 0,
                max_seconds=model.info.max_duration_seconds,
                latency_seconds=model.engine.lookahead_seconds,
            )
            for index, model in enumerate(self._models.values())
        ]
        return generator_pb2.GeneratorServiceListModelsResponse(models=models)

    async def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> generator_pb2.GenerateResponse:
        response = generator_pb2.GenerateResponse()
        codes: list[NDArray[np.int32]] = []
        audio: list[bytes] = []
        generation, stream = self._submit(request.config)
        with contextlib.closing(_Cancelling(stream)):
            response.started.CopyFrom(self._started(request.config, generation))
            async for event in stream.events():
                if isinstance(event, Finished):
                    response.finished.CopyFrom(self._finished(event, generation))
                else:
                    audio.append(self._pcm(event.audio, event.first_sample, generation))
                    codes.append(event.codes)
        response.audio = b"".join(audio)
        if generation.include_codes:
            whole = np.concatenate([part for part in codes if part.size], axis=1)
            response.codes.CopyFrom(pack_codes(whole, self._bits(generation)))
        return response

    async def StreamGenerate(
        self, request_iterator: AsyncIterator[generator_pb2.StreamGenerateRequest], context: Any
    ) -> AsyncIterator[generator_pb2.StreamGenerateResponse]:
        first = await anext(aiter(request_iterator), None)
        kind = first and first.WhichOneof("request")
        if first is None or kind != "config":
            raise FailedPrecondition(str(kind or "config"), "the first message of a stream must hold a config")
        generation, stream = self._submit(first.config)
        obeying = asyncio.create_task(_obey(request_iterator, stream))
        try:
            yield generator_pb2.StreamGenerateResponse(started=self._started(first.config, generation))
            async for response in self._responses(generation, stream):
                yield response
        finally:
            obeying.cancel()
            stream.cancel()

    async def GenerateFile(
        self, request: generator_pb2.GenerateFileRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        try:
            config = requests.file_config(request, {name: model.info for name, model in self._models.items()})
            generation, stream = self._submit(config)
        except InvalidArgument as error:
            raise requests.flat_fields(error) from error
        with contextlib.closing(_Cancelling(stream)):
            content_type = "audio/wav"
            async for event in stream.events():
                if not isinstance(event, Finished) and (event.audio.numel() or event.final):
                    data = self._pcm(event.audio, event.first_sample, generation)
                    yield httpbody_pb2.HttpBody(content_type=content_type, data=data)
                    content_type = ""

    def _submit(self, config: generator_pb2.GenerationConfig) -> tuple[GenerationRequest, Stream]:
        generation = requests.generation(config, {name: model.info for name, model in self._models.items()})
        return generation, self._models[generation.model].scheduler.submit(generation)

    async def _responses(
        self, generation: GenerationRequest, stream: Stream
    ) -> AsyncIterator[generator_pb2.StreamGenerateResponse]:
        total = self._models[generation.model].engine.step_count(generation.frame_count)
        sequence = 0
        async for event in stream.events():
            if isinstance(event, Finished):
                yield generator_pb2.StreamGenerateResponse(finished=self._finished(event, generation))
                return
            progress = generator_pb2.GenerationProgress(steps=event.steps, total_steps=total)
            yield generator_pb2.StreamGenerateResponse(progress=progress)
            if generation.include_codes and event.codes.size:
                codes = pack_codes(event.codes, self._bits(generation), first_frame=event.first_frame)
                yield generator_pb2.StreamGenerateResponse(codes=codes)
            if event.audio.numel() or event.final:
                chunk = audio_pb2.AudioChunk(
                    sequence=sequence,
                    first_sample=event.first_sample,
                    sample_count=event.audio.shape[1],
                    data=self._pcm(event.audio, event.first_sample, generation),
                    is_final=event.final,
                )
                yield generator_pb2.StreamGenerateResponse(audio=chunk)
                sequence += 1

    def _started(
        self, config: generator_pb2.GenerationConfig, generation: GenerationRequest
    ) -> generator_pb2.GenerationStarted:
        model = self._models[generation.model]
        return generator_pb2.GenerationStarted(
            config=requests.effective(config, generation, model.info),
            format=requests.audio_format(generation, model.info),
            frame_rate_hz=model.info.frame_rate_hz,
            total_samples=generation.frame_count * model.engine.samples_per_frame,
            total_steps=model.engine.step_count(generation.frame_count),
        )

    def _finished(self, event: Finished, generation: GenerationRequest) -> generator_pb2.GenerationFinished:
        return generator_pb2.GenerationFinished(
            reason=_REASONS[event.reason],
            audio_duration=duration(event.samples / self._models[generation.model].info.sample_rate_hz),
            queue_time=duration(event.queue_seconds),
            first_audio_time=duration(event.first_audio_seconds),
            total_time=duration(event.total_seconds),
            steps=event.steps,
        )

    def _bits(self, generation: GenerationRequest) -> int:
        return bits_per_code(self._models[generation.model].info.codebook_size)

    def _pcm(self, audio: torch.Tensor, first_sample: int, generation: GenerationRequest) -> bytes:
        if not audio.numel():
            data = b""
        elif generation.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE:
            data = to_pcm_f32(audio)
        else:
            data = to_pcm16(audio)
        if generation.encoding == audio_pb2.AUDIO_ENCODING_WAV and first_sample == 0 and (data or not audio.numel()):
            model = self._models[generation.model]
            samples = generation.frame_count * model.engine.samples_per_frame
            return _wav_header(samples, model.info) + data
        return data


class _Cancelling:
    def __init__(self, stream: Stream) -> None:
        self.close = stream.cancel


async def _obey(messages: AsyncIterator[generator_pb2.StreamGenerateRequest], stream: Stream) -> None:
    """Obey what follows the config; a message that may not follow ends the stream with its error."""
    try:
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "config":
                raise FailedPrecondition("config", "a stream takes one config")
            if kind != "control":
                raise Unimplemented(str(kind or "request"), "is not served by this server")
            if message.control.action == _Action.ACTION_STOP:
                stream.stop()
            elif message.control.action in (_Action.ACTION_PAUSE, _Action.ACTION_RESUME):
                stream.pause(message.control.action == _Action.ACTION_PAUSE)
            else:
                raise InvalidArgument("control.action", "must be PAUSE, RESUME or STOP")
    except (FailedPrecondition, InvalidArgument, Unimplemented) as error:
        stream.put(error)


def _wav_header(samples: int, info: ModelInfo) -> bytes:
    """Return the header of a 16-bit RIFF WAVE file of so many samples (of each channel), all of them to come."""
    width, rate = 2 * info.channel_count, info.sample_rate_hz
    riff = struct.pack("<4sI4s", b"RIFF", 36 + samples * width, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, info.channel_count, rate, rate * width, width, 16)
    return riff + form + struct.pack("<4sI", b"data", samples * width)
