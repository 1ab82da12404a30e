"""A scheduler over an engine without a model, which makes a step when it is allowed to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from services.generator.output import Output
from services.generator.requests import GenerationRequest
from services.generator.scheduler import Scheduler
from services.generator.sequence import Sequence
from services.generator.streams import Event, Finished, Stream
from services.models.conditions import Prompt
from services.models.sampling import Sampling
from services.runtime.metrics import Metrics

RATE = 100


@dataclass
class Counted:
    """A sequence that only counts its steps; each makes one sample."""

    request: GenerationRequest
    steps: int = 0

    @property
    def steps_left(self) -> int | None:
        return None if self.request.frame_count is None else self.request.frame_count - self.steps


def output(sequence: Counted, samples: int, final: bool) -> Output:
    first = sequence.steps - samples
    return Output(sequence.steps, torch.zeros(1, samples), first, np.zeros((1, 0), np.int32), first, final)


@dataclass
class FakeEngine:
    """Makes no step without a permit, and writes down which requests each step had."""

    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    free: bool = False
    entered: int = 0
    prepared: int = 0
    begun: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    changes: list[tuple[str, Any]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)

    def prepare(self, request: GenerationRequest) -> Any:
        self.prepared += 1

    def begin(self, request: GenerationRequest, prepared: Any) -> Sequence:
        self.begun.append(name_of(request))
        if name_of(request) == "no beginning":
            raise ValueError("no beginning")
        return cast(Sequence, Counted(request))

    def step(self, sequences: list[Sequence]) -> list[Output]:
        self.entered += 1
        if not self.free:
            self.permits.acquire()
        counted = [cast(Counted, sequence) for sequence in sequences]
        names = [name_of(sequence.request) for sequence in counted]
        self.batches.append(names)
        if self.broken & set(names):
            raise ValueError("no step")
        for sequence in counted:
            sequence.steps += 1
        return [output(sequence, 1, sequence.steps == sequence.request.frame_count) for sequence in counted]

    def finish(self, sequence: Sequence) -> Output:
        if name_of(cast(Counted, sequence).request) == "no ending":
            raise ValueError("no ending")
        return output(cast(Counted, sequence), 0, True)

    def update(self, sequence: Sequence, prepared: Any) -> int:
        self.changes.append((name_of(sequence.request), prepared))
        return sequence.steps

    def release(self, sequence: Sequence) -> None:
        self.released.append(name_of(sequence.request))

    def allow(self, steps: int | None = None) -> None:
        """Permit so many steps, or from now on all."""
        self.free = self.free or steps is None
        self.permits.release(steps or 1)


def request(name: str, frames: int | None = 3, credit: int | None = None) -> GenerationRequest:
    return GenerationRequest("fake", (Prompt(name),), frames, Sampling(seed=1), credit=credit)


def name_of(request: GenerationRequest) -> str:
    return request.prompts[0].text


async def collect(stream: Stream) -> list[Event]:
    return [event async for event in stream.events()]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread will bring about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


class Bench:
    """A scheduler with its engine and its metrics."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        self.engine = FakeEngine()
        self.metrics = Metrics(CollectorRegistry())
        self.scheduler = Scheduler(self.engine, "fake", RATE, slots, queue_limit, self.metrics)
        self.scheduler.start()

    def submit(self, request: GenerationRequest, client: str = "") -> Stream:
        return self.scheduler.submit([request], client)[0]

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"model": "fake"}) or 0.0

    @property
    def active(self) -> float:
        return self.value("antiphon_slots_active")

    @property
    def waiting(self) -> float:
        return self.value("antiphon_requests_waiting")
