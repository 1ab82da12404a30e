"""Settings of the generator service."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from services.runtime.config import ModelSettings


class GeneratorSettings(ModelSettings):
    """What `python -m services.generator` reads from the environment."""

    own_ports: ClassVar[tuple[int, int]] = (50051, 9101)
    own_models: ClassVar[tuple[str, ...]] = ("tiny", "tiny-sound")

    slots: int = Field(default=8, ge=1, le=256, description="Streams that are made at the same time, a model.")
    queue_limit: int = Field(default=32, ge=0, description="Requests that may wait for a slot, a model.")
    precision: Literal["auto", "fp32", "bf16", "int8", "fp16"] = Field(
        default="auto",
        description="Of weights and caches: fp32, bf16, int8 (CPU), fp16 (GPU); auto chooses by device and size.",
    )
    memory_budget_bytes: int = Field(
        default=0, ge=0, description="What the weights of the models in memory may take together; 0 for no limit."
    )
    max_duration_seconds: float = Field(
        default=600.0, gt=0, allow_inf_nan=False, description="Longest piece, where the model can pass its window."
    )
    max_prompt_audio_bytes: int = Field(default=32 << 20, gt=0, description="Largest audio prompt.")
    max_prompt_audio_seconds: float = Field(
        default=120.0, gt=0, allow_inf_nan=False, description="Longest audio prompt."
    )
