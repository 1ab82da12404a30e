"""Settings of the analyzer service."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from services.runtime.config import ServiceSettings


class AnalyzerSettings(ServiceSettings):
    """What `python -m services.analyzer` reads from the environment."""

    analyzer_weights: str = Field(
        default="",
        description='Folder with model.json and discriminators.safetensors; empty for the shipped one; "untrained" '
        "for weights from a fixed seed, whose verdict is refused.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where the discriminators run."
    )
    threads: int = Field(default=0, ge=0, description="Threads of PyTorch; 0 for its own choice.")
    max_audio_bytes: int = Field(default=60 << 20, gt=0, description="Largest audio file.")
    max_audio_seconds: float = Field(default=7200.0, gt=0, allow_inf_nan=False, description="Longest piece to analyze.")
    max_streams: int = Field(default=64, gt=0, description="Streams at once; more get RESOURCE_EXHAUSTED.")
    max_stream_seconds: float = Field(
        default=14_400.0, gt=0, allow_inf_nan=False, description="Longest stream to analyze."
    )

    @model_validator(mode="before")
    @classmethod
    def _own_ports(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"listen": "127.0.0.1:50053", "metrics_listen": "127.0.0.1:9103", **values}
