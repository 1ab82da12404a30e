"""A request on its way through a scheduler, and what the scheduler asks of an engine."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.generator.output import Output
from services.generator.requests import GenerationRequest
from services.generator.streams import Stream


class Place(Protocol):
    """What the scheduler asks of an engine's sequence."""

    steps: int

    @property
    def steps_left(self) -> int | None: ...


class Engine(Protocol):
    """What the scheduler asks of an engine. What it prepares, and its sequences, are its own."""

    def prepare(self, request: GenerationRequest) -> Any: ...
    def begin(self, request: GenerationRequest, prepared: Any) -> Any: ...
    def step(self, sequences: list[Any]) -> list[Output]: ...
    def finish(self, sequence: Any) -> Output: ...
    def update(self, sequence: Any, prepared: Any) -> int: ...
    def release(self, sequence: Any) -> None: ...


@dataclass(eq=False)
class Job:
    """One request on its way. Times by ``time.monotonic``."""

    request: GenerationRequest
    stream: Stream
    client: str
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_audio: float = 0.0
    prepared: Future[Any] | None = None
    sequence: Place | None = None
