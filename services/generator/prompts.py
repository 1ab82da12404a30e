"""Audio prompts: from the bytes of a request to samples at the model's rate, limits first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from antiphon.v1 import audio_pb2, generator_pb2
from services.generator.requests import GenerationRequest
from services.models.audio import AudioError, AudioLimits, convert, read_audio
from services.models.loader import ModelInfo
from services.runtime.errors import FailedPrecondition, InvalidArgument

_PCM = {audio_pb2.AUDIO_ENCODING_PCM_S16LE: "<i2", audio_pb2.AUDIO_ENCODING_PCM_F32LE: "<f4"}
_PEAK = 65_536.0


@dataclass(frozen=True)
class PromptLimits:
    """What an audio prompt may be."""

    max_bytes: int
    max_seconds: float


async def gather(messages: AsyncIterator[generator_pb2.StreamGenerateRequest], limits: PromptLimits) -> bytes:
    """Return the joined bytes of the prompt's messages, up to the last of them.

    Raises:
        FailedPrecondition: something else comes, or nothing more, before the last piece.
        InvalidArgument: they are too many.
    """
    data = bytearray()
    while (message := await anext(aiter(messages), None)) is not None:
        kind = message.WhichOneof("request")
        if kind != "prompt_audio":
            raise FailedPrecondition(str(kind or "prompt_audio"), "must come after the last piece of the audio prompt")
        data += message.prompt_audio.data
        if len(data) > limits.max_bytes:
            raise InvalidArgument("prompt_audio", f"is too large, at most {limits.max_bytes} bytes")
        if message.prompt_audio.is_final:
            return bytes(data)
    raise FailedPrecondition("prompt_audio.is_final", "the stream ended before the last piece of the audio prompt")


def attach(
    request: GenerationRequest,
    config: generator_pb2.PromptAudioConfig,
    data: bytes,
    info: ModelInfo,
    samples_per_frame: int,
    limits: PromptLimits,
) -> GenerationRequest:
    """Return the request with its audio prompt.

    Raises:
        InvalidArgument: the bytes are not audio of that form, or too much of it.
    """
    samples = _samples(data, config.format, info, limits)
    if config.use == generator_pb2.PROMPT_AUDIO_USE_MELODY:
        return replace(request, melody=samples)
    frames = -(-samples.shape[1] // samples_per_frame)
    most = info.window_frames
    if request.frame_count is not None:
        most = min(most, request.frame_count - 1)
    if frames > most:
        seconds = samples.shape[1] / info.sample_rate_hz
        raise InvalidArgument(
            "prompt_audio",
            f"is {seconds:g} s long; it must be shorter than the piece and at most the model's window, "
            f"which leaves {most / info.frame_rate_hz:g} s",
        )
    return replace(request, continuation=samples)


def _samples(data: bytes, form: audio_pb2.AudioFormat, info: ModelInfo, limits: PromptLimits) -> torch.Tensor:
    """Return ``[C, T]`` at the model's rate and channels."""
    encoding = form.encoding or audio_pb2.AUDIO_ENCODING_PCM_S16LE
    if len(data) > limits.max_bytes:
        raise InvalidArgument("prompt_audio", f"is too large, at most {limits.max_bytes} bytes")
    if encoding in _PCM:
        rate = form.sample_rate_hz or info.sample_rate_hz
        audio = _pcm(data, _PCM[encoding], form.channel_count or info.channel_count)
        if audio.shape[1] > limits.max_seconds * rate:
            raise InvalidArgument("prompt_audio", f"is too long, at most {limits.max_seconds:g} s")
    else:
        try:
            audio, rate = read_audio(data, AudioLimits(max_bytes=limits.max_bytes, max_seconds=limits.max_seconds))
        except AudioError as error:
            raise InvalidArgument("prompt_audio", error.description) from error
    samples = convert(audio, rate, info.sample_rate_hz, info.channel_count)
    if not samples.shape[1]:
        raise InvalidArgument("prompt_audio", "holds no samples")
    return samples


def _pcm(data: bytes, kind: str, channels: int) -> torch.Tensor:
    width = np.dtype(kind).itemsize * channels
    if len(data) % width:
        raise InvalidArgument("prompt_audio", f"must be whole samples of {channels} channels, {width} bytes each")
    values = np.frombuffer(data, kind).reshape(-1, channels).T.astype(np.float32)
    if kind == "<i2":
        values = values / 32768.0
    elif values.size and not np.abs(values).max() <= _PEAK:
        raise InvalidArgument("prompt_audio", f"holds samples that are not finite or pass {_PEAK:g}")
    return torch.from_numpy(np.ascontiguousarray(values))
