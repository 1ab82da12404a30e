"""Continuous batching: a bounded queue, slots, and one thread that loops schedule → step → deliver.

A request joins at the next step after a slot is free and leaves at once when it is done, cancelled or stopped. A
stream that waits for its listener (paused, out of credit, read slowly) keeps its slot only while nobody else wants it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence as Many
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from services.generator.fairness import FairQueue
from services.generator.jobs import Engine, Job, Place
from services.generator.output import Output
from services.generator.requests import GenerationRequest
from services.generator.streams import Finished, Reason, Stream, Updated
from services.models.conditions import UnsupportedConditions
from services.runtime.errors import Internal, ResourceExhausted, ServiceError, Unavailable, Unimplemented
from services.runtime.metrics import METRICS, Metrics

_log = logging.getLogger("antiphon.scheduler")
STREAM_CAPACITY = 64
PROGRESS_STEPS = 10
"""A stream hears of its progress with every chunk of audio, and at least this often."""
RETRY_SECONDS = (0.1, 60.0)
"""The least and the most that a refused caller is asked to wait."""


class Scheduler:
    """Runs one model's requests in ``slots`` slots; at most ``queue_limit`` more wait, fairly between clients.

    At most ``slots`` streams more keep their caches while they wait for their listeners without a slot. Beyond that,
    the one that waits longest gives its caches up, and they are made again when it goes on.
    """

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
        self._waiting: FairQueue[Job] = FairQueue()
        self._active: list[Job] = []
        self._parked: list[Job] = []
        self._cached: list[Job] = []
        """Those of the parked that keep their caches, longest first."""
        self._returned = False
        self._changed = threading.Condition()
        self._pokes = 0
        self._closing = False
        self._step_seconds = 0.0
        self._step_duration = metrics.step_duration.labels(name)
        self._first_audio = metrics.first_audio.labels(name)
        self._audio_generated = metrics.audio_generated.labels(name)
        self._requests_waiting = metrics.requests_waiting.labels(name)
        self._streams_parked = metrics.streams_parked.labels(name)
        self._slots_active = metrics.slots_active.labels(name)
        metrics.slots.labels(name).set(slots)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix=f"prepare {name}")
        self._thread = threading.Thread(target=self._run, name=f"scheduler {name}", daemon=True)

    def start(self) -> None:
        """Begin to run requests, in a thread of its own."""
        self._thread.start()

    def submit(self, requests: Many[GenerationRequest], client: str = "") -> list[Stream]:
        """Queue requests of a client, all or none.

        Raises:
            ResourceExhausted: the queue is full; says when a place may be free.
            Unavailable: the scheduler is closing.
        """
        jobs = [Job(request, Stream(STREAM_CAPACITY, self.poke, request.credit), client) for request in requests]
        with self._changed:
            if self._closing:
                raise Unavailable("the service is going down", elsewhere=True)
            excess = len(self._active) + len(self._waiting) + len(jobs) - self._slots - self._queue_limit
            displaced = self._waiting.displace(client) if excess == len(jobs) == 1 else None
            if excess > 0 and displaced is None:
                raise self._full()
            for job in jobs:
                self._waiting.push(client, job)
                job.prepared = self._preparing.submit(self._engine.prepare, job.request)
                job.prepared.add_done_callback(lambda _: self.poke())
            if displaced is not None:
                displaced.stream.put(self._full())
            self._gauge()
        self.poke()
        return [job.stream for job in jobs]

    @property
    def idle(self) -> bool:
        """True when no request runs or waits."""
        with self._changed:
            return not (self._active or self._parked or self._waiting)

    def retry_seconds(self) -> float:
        """Guess when a slot will be free: when the piece nearest to its end has ended, at the pace of each so far."""
        now = time.monotonic()
        left = [self._seconds_left(job, now) for job in self._active]
        low, high = RETRY_SECONDS
        return min(high, max(low, min(left, default=low)))

    def close(self) -> None:
        """End: what still runs or waits fails with UNAVAILABLE. Blocks until the thread has ended."""
        with self._changed:
            self._closing = True
        self.poke()
        if self._thread.ident is not None:
            self._thread.join()
        self._preparing.shutdown(cancel_futures=True)
        with self._changed:
            jobs = [*self._active, *self._parked, *self._waiting]
            self._active, self._parked, self._cached, self._waiting = [], [], [], FairQueue()
            self._gauge()
        for job in jobs:
            job.stream.put(Unavailable("the service is going down"))

    def poke(self) -> None:
        """Let the thread look again at what has changed."""
        with self._changed:
            self._pokes += 1
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._closing:
            with self._changed:
                pokes = self._pokes
            if not self.turn():
                with self._changed:
                    # Closing may have poked before `pokes` was read.
                    self._changed.wait_for(lambda seen=pokes: self._closing or self._pokes != seen)  # type: ignore[misc]

    def turn(self) -> bool:
        """Let those leave who have to, seat those who can, and make a step. Returns False when none could be made."""
        self._leave()
        self._seat()
        for job in list(self._active):
            if job.sequence is None and job.prepared is not None and job.prepared.done():
                self._begin(job, job.prepared)
        batch = [job for job in list(self._active) if job.sequence and job.stream.ready and self._updated(job)]
        if batch:
            self._deliver(batch, self._step(batch))
        return bool(batch)

    def _leave(self) -> None:
        """Free the slots of the cancelled, finish the stopped."""
        for job in [*self._active, *self._parked]:
            if job.stream.cancelled:
                self._remove(job)
            elif job.stream.stopped and job.sequence is not None:
                self._stop(job, job.sequence)
        with self._changed:
            self._waiting.remove(lambda job: job.stream.cancelled)
            self._gauge()

    def _stop(self, job: Job, sequence: Place) -> None:
        try:
            output = self._engine.finish(sequence)
        except Exception:
            _log.exception("a stopped request could not be finished")
            self._fail([job])
        else:
            self._deliver([job], [output], Reason.STOPPED)

    def _seat(self) -> None:
        """Fill the slots. Streams whose listeners are ready again and new requests take turns."""
        while True:
            back = next((job for job in self._parked if job.stream.ready), None)
            with self._changed:
                if back is None and not self._waiting:
                    return
                if len(self._active) >= self._slots and not self._park():
                    return
                self._returned = back is not None and not (self._returned and self._waiting)
                if back is not None and self._returned:
                    self._parked.remove(back)
                    self._cached = [job for job in self._cached if job is not back]
                    self._active.append(back)
                    self._gauge()
                    continue
                job = self._waiting.pop(Counter(job.client for job in self._active))
                self._active.append(job)
                self._gauge()
            job.started = time.monotonic()

    def _park(self) -> bool:
        """Take the slot of a stream that waits for its listener; False when there is none."""
        job = next((job for job in self._active if not job.stream.ready), None)
        if job is None:
            return False
        self._active.remove(job)
        self._parked.append(job)
        self._cached.append(job)
        if len(self._cached) > self._slots:
            longest = self._cached.pop(0)
            if longest.sequence is not None:
                self._engine.release(longest.sequence)
        return True

    def _begin(self, job: Job, prepared: Future[Any]) -> None:
        try:
            job.sequence = self._engine.begin(job.request, prepared.result())
        except UnsupportedConditions as error:
            self._fail([job], Unimplemented("config", str(error)))
        except Exception:
            _log.exception("a request could not begin")
            self._fail([job])

    def _updated(self, job: Job) -> bool:
        """Take the changes that have come for a job; False when one of them ended it."""
        while job.sequence is not None and (change := job.stream.take_change()) is not None:
            try:
                step = self._engine.update(job.sequence, change)
            except UnsupportedConditions as error:
                self._fail([job], Unimplemented("update", str(error)))
                return False
            except Exception:
                _log.exception("a change could not be taken")
                self._fail([job])
                return False
            job.stream.put(Updated(step, change.change))
        return True

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
            if samples or output.final or output.codes.size or output.steps % PROGRESS_STEPS == 0:
                job.stream.put(output)
            if output.final:
                first = (job.first_audio or now) - job.submitted
                times = (job.started - job.submitted, first, now - job.submitted)
                job.stream.put(Finished(reason, output.first_sample + samples, *times, output.steps))
                self._remove(job)

    def _fail(self, batch: list[Job], error: ServiceError | None = None) -> None:
        for job in batch:
            job.stream.put(error or Internal("the generation failed"))
            self._remove(job)

    def _remove(self, job: Job) -> None:
        with self._changed:
            for jobs in (self._active, self._parked, self._cached):
                if job in jobs:
                    jobs.remove(job)
            self._gauge()
            self._pokes += 1  # whatever ended it, others may have its slot
        if job.sequence is not None:
            self._engine.release(job.sequence)

    def _gauge(self) -> None:
        self._requests_waiting.set(len(self._waiting))
        self._streams_parked.set(len(self._parked))
        self._slots_active.set(len(self._active))

    def _full(self) -> ResourceExhausted:
        message = f"all {self._slots} slots are taken and {len(self._waiting)} requests wait"
        return ResourceExhausted(message, self.retry_seconds(), reason="QUEUE_FULL", elsewhere=True)

    def _seconds_left(self, job: Job, now: float) -> float:
        if job.sequence is None:
            return self._step_seconds
        left = job.sequence.steps_left
        if left is None:
            return RETRY_SECONDS[1]
        pace = (now - job.started) / job.sequence.steps if job.sequence.steps else self._step_seconds
        return left * pace
