"""Messages that more than one service sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from google.protobuf import duration_pb2

from antiphon.v1 import audio_pb2
from services.runtime.errors import DeadlineExceeded, FailedPrecondition

if TYPE_CHECKING:
    from services.models.loader import ModelInfo

FIRST_MESSAGE_SECONDS = 30.0
"""How long a stream may be open and say nothing: a client that was cut off holds its place no longer."""

_KINDS = {
    "music": audio_pb2.MODEL_KIND_MUSIC,
    "sound": audio_pb2.MODEL_KIND_SOUND,
    "codec": audio_pb2.MODEL_KIND_CODEC,
}
_MODES = {
    "continuation": audio_pb2.GENERATION_MODE_CONTINUATION,
    "melody": audio_pb2.GENERATION_MODE_MELODY,
    "extension": audio_pb2.GENERATION_MODE_EXTENSION,
    "mixing": audio_pb2.GENERATION_MODE_MIXING,
    "stepwise": audio_pb2.GENERATION_MODE_STEPWISE,
}


async def config_of(messages: AsyncIterator[Any]) -> Any:
    """Return the config that the first message of a stream holds.

    Raises:
        FailedPrecondition: it holds something else, or the stream ends without it.
        DeadlineExceeded: none comes within FIRST_MESSAGE_SECONDS.
    """
    try:
        first = await asyncio.wait_for(anext(aiter(messages), None), FIRST_MESSAGE_SECONDS)
    except TimeoutError as error:
        raise DeadlineExceeded(f"no message came within {FIRST_MESSAGE_SECONDS:g} s of the stream's start") from error
    kind = first and first.WhichOneof("request")
    if first is None or kind != "config":
        raise FailedPrecondition(str(kind or "config"), "the first message of a stream must hold a config")
    return first.config


def duration(seconds: float) -> duration_pb2.Duration:
    """Return a length of time, to the nanosecond."""
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def model_info(
    info: ModelInfo, *, is_default: bool, max_seconds: float, latency_seconds: float = 0.0
) -> audio_pb2.ModelInfo:
    """Return what a service says of a loaded checkpoint."""
    return audio_pb2.ModelInfo(
        name=info.name,
        kind=_KINDS[info.kind],
        is_default=is_default,
        sample_rate_hz=info.sample_rate_hz,
        channel_count=info.channel_count,
        frame_rate_hz=info.frame_rate_hz,
        codebook_count=info.codebook_count,
        codebook_size=info.codebook_size,
        max_duration=duration(max_seconds),
        parameter_count=info.parameter_count,
        digest=info.digest,
        device=info.device,
        precision=info.precision,
        latency=duration(latency_seconds),
        license=info.license,
        is_trained=True,
        window=duration(info.max_duration_seconds) if info.kind in ("music", "sound") else None,
        modes=sorted(_MODES[mode] for mode in info.modes),
    )
