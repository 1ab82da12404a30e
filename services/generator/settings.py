"""Settings of the generator service."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from services.runtime.config import ModelSettings


class GeneratorSettings(ModelSettings):
    """What `python -m services.generator` reads from the environment."""

    own_ports: ClassVar[tuple[int, int]] = (50051, 9101)

    slots: int = Field(default=8, ge=1, le=256, description="Streams that are made at the same time, a model.")
    queue_limit: int = Field(default=32, ge=0, description="Requests that may wait for a slot, a model.")
    memory_budget_bytes: int = Field(
        default=0, ge=0, description="What the weights of the models in memory may take together; 0 for no limit."
    )
