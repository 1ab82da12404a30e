"""Messages that more than one service sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import duration_pb2

from antiphon.v1 import audio_pb2

if TYPE_CHECKING:
    from services.models.loader import ModelInfo

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
