"""Settings of the codec service."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from services.runtime.config import ServiceSettings


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name.strip() for name in value.split(",")]


class CodecSettings(ServiceSettings):
    """What `python -m services.codec` reads from the environment."""

    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=("tiny",),
        min_length=1,
        description="Codecs to load, the default first: names with commas between, or a JSON list.",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where they run.")
    threads: int = Field(default=0, ge=0, description="Threads of PyTorch; 0 for its own choice.")
    max_audio_bytes: int = Field(default=32 << 20, gt=0, description="Largest audio file.")
    max_audio_seconds: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Longest piece, to encode or to decode."
    )

    @model_validator(mode="before")
    @classmethod
    def _own_ports(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"listen": "127.0.0.1:50052", "metrics_listen": "127.0.0.1:9102", **values}

    @field_validator("models")
    @classmethod
    def _check_models(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names or len(set(names)) < len(names):
            raise ValueError("must be different names, none of them empty")
        return names
