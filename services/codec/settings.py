"""Settings of the codec service."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from services.runtime.config import ModelSettings


class CodecSettings(ModelSettings):
    """What `python -m services.codec` reads from the environment."""

    own_ports: ClassVar[tuple[int, int]] = (50052, 9102)

    max_audio_bytes: int = Field(default=32 << 20, gt=0, description="Largest audio file.")
    max_audio_seconds: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Longest piece, to encode or to decode."
    )
    max_streams: int = Field(default=64, gt=0, description="Streams at once; more get RESOURCE_EXHAUSTED.")
    max_stream_seconds: float = Field(
        default=14_400.0, gt=0, allow_inf_nan=False, description="Longest stream, to encode or to decode."
    )
