"""Continuous batching: a bounded queue, slots, and one thread that loops schedule → step → deliver.

A request joins at the next step after a slot is free and leaves at once when it is done, cancelled or stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from services.generator.engine import Output, Sequence
from services.generator.requests import GenerationRequest
from services.generator.streams import Finished, Reason, Stream
from services.runtime.errors import Internal, ResourceExhausted, Unavailable
from services.runtime.metrics import METRICS, Metrics

_log = logging.getLogger("antiphon.scheduler")
STREAM_CAPACITY = 64
PROGRESS_STEPS = 10
"""A stream hears of its progress with every chunk of audio, and at least this often."""


class Engine(Protocol):
    """What the scheduler asks of an engine."""

    def begin(self, request: GenerationRequest) -> Sequence: ...
    def step(self, sequences: list[Sequence]) -> list[Output]: ...
    def finish(self, sequence: Sequence) -> Output: ...


@dataclass
class Job:
    """One request on its way. Times by ``time.monotonic``."""

    request: GenerationRequest
    stream: Stream
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_audio: float = 0.0
    sequence: Sequence | None = None


class Scheduler:
    """Runs one model's requests in ``slots`` slots; at most ``queue_limit`` more wait, first come, first served."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        sample_rate_hz: int,
        slots: int,
        queue_limit: int,
        metrics: Metrics = METRICS,
    ) -> None:
        self._engine = engine
        self._sample_rate_hz = sample_rate_hz
        self._slots = slots
        self._queue_limit = queue_limit
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._changed = threading.Condition()
        self._pokes = 0
        self._closing = False
        self._step_seconds = 0.0
        self._step_duration = metrics.step_duration.labels(name)
        self._first_audio = metrics.first_audio.labels(name)
        self._audio_generated = metrics.audio_generated.labels(name)
        self._requests_waiting = metrics.requests_waiting.labels(name)
        self._slots_active = metrics.slots_active.labels(name)
        metrics.slots.labels(name).set(slots)
        self._thread = threading.Thread(target=self._run, name=f"scheduler {name}", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request.

        Raises:
            ResourceExhausted: the queue is full; says when a place may be free.
            Unavailable: the scheduler is closing.
        """
        stream = Stream(STREAM_CAPACITY, self._poke)
        with self._changed:
            if self._closing:
                raise Unavailable("the service is going down")
            if len(self._active) + len(self._waiting) >= self._slots + self._queue_limit:
                message = f"all {self._slots} slots are taken and {len(self._waiting)} requests wait"
                raise ResourceExhausted(message, self._retry_seconds())
            self._waiting.append(Job(request, stream))
            self._gauge()
        self._poke()
        return stream

    def close(self) -> None:
        """End: what still runs or waits fails with UNAVAILABLE. Blocks until the thread has ended."""
        with self._changed:
            self._closing = True
        self._poke()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            with self._changed:
                pokes = self._pokes
            self._leave()
            self._admit()
            batch = [job for job in self._active if job.stream.ready]
            if batch:
                self._deliver(batch, self._step(batch))
                continue
            with self._changed:
                self._changed.wait_for(lambda seen=pokes: self._pokes != seen)  # type: ignore[misc]
        self._end()

    def _leave(self) -> None:
        """Free the slots of the cancelled, finish the stopped."""
        for job in list(self._active):
            if job.stream.cancelled:
                self._remove(job)
            elif job.stream.stopped and job.sequence is not None:
                self._stop(job, job.sequence)
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.stream.cancelled)
            self._gauge()

    def _stop(self, job: Job, sequence: Sequence) -> None:
        try:
            output = self._engine.finish(sequence)
        except Exception:
            _log.exception("a stopped request could not be finished")
            self._fail([job])
        else:
            self._deliver([job], [output], Reason.STOPPED)

    def _admit(self) -> None:
        while len(self._active) < self._slots:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self._active.append(job)
                self._gauge()
            job.started = time.monotonic()
            try:
                job.sequence = self._engine.begin(job.request)
            except Exception:
                _log.exception("a request could not begin")
                self._fail([job])

    def _step(self, batch: list[Job]) -> list[Output]:
        begin = time.perf_counter()
        try:
            outputs = self._engine.step([job.sequence for job in batch if job.sequence is not None])
        except Exception:
            _log.exception("a step failed")
            self._fail(batch)
            return []
        seconds = time.perf_counter() - begin
        self._step_duration.observe(seconds)
        self._step_seconds += 0.1 * (seconds - self._step_seconds)
        return outputs

    def _deliver(self, batch: list[Job], outputs: list[Output], reason: Reason = Reason.COMPLETE) -> None:
        now = time.monotonic()
        for job, output in zip(batch, outputs, strict=False):
            samples = output.audio.shape[-1]
            if samples and not job.first_audio:
                job.first_audio = now
                self._first_audio.observe(now - job.submitted)
            self._audio_generated.inc(samples / self._sample_rate_hz)
            if samples or output.final or output.steps % PROGRESS_STEPS == 0:
                job.stream.put(output)
            if output.final:
                first = (job.first_audio or now) - job.submitted
                times = (job.started - job.submitted, first, now - job.submitted)
                job.stream.put(Finished(reason, output.first_sample + samples, *times, output.steps))
                self._remove(job)

    def _fail(self, batch: list[Job]) -> None:
        for job in batch:
            job.stream.put(Internal("the generation failed"))
            self._remove(job)

    def _remove(self, job: Job) -> None:
        with self._changed:
            self._active.remove(job)
            self._gauge()

    def _end(self) -> None:
        with self._changed:
            jobs = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
            self._gauge()
        for job in jobs:
            job.stream.put(Unavailable("the service is going down"))

    def _poke(self) -> None:
        with self._changed:
            self._pokes += 1
            self._changed.notify_all()

    def _gauge(self) -> None:
        self._requests_waiting.set(len(self._waiting))
        self._slots_active.set(len(self._active))

    def _retry_seconds(self) -> float:
        """Guess when a place in the queue is free: when the running piece nearest to its end has ended."""
        left = [job.sequence.schedule.step_count - job.sequence.steps for job in self._active if job.sequence]
        return max(0.1, min(left, default=1) * self._step_seconds)
