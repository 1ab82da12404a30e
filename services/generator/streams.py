"""The bounded stream of events between the worker thread and one caller on the event loop."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import numpy as np

from services.generator.output import Output
from services.generator.requests import Change
from services.generator.sequence import PreparedChange


class Reason(enum.Enum):
    """Why a generation ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Updated:
    """A change was taken, after so many steps."""

    step: int
    change: Change


@dataclass(frozen=True)
class Finished:
    """The last event. Times in seconds from the submission; ``samples`` of each channel."""

    reason: Reason
    samples: int
    queue_seconds: float
    first_audio_seconds: float
    total_seconds: float
    steps: int


Event = Output | Updated | Finished


class Stream:
    """Events of one request, in order: outputs and updates, then ``Finished``.

    The worker puts, the caller iterates. A stream that holds ``capacity`` events is full, and one that has made as
    much audio as its caller allows is paced: the scheduler makes no further step for it until the caller has taken
    some, or allowed more. So a slow reader costs no memory and delays nobody.

    Args:
        changed: called, from any thread, when ``ready`` may have changed.
        credit: samples that may be yielded before more are granted; None for no limit.
    """

    def __init__(self, capacity: int, changed: Callable[[], None], credit: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event | BaseException] = deque()
        self._wake = asyncio.Event()
        self._capacity = capacity
        self._changed = changed
        self._lock = threading.Lock()
        self._pending = 0
        self._changes: deque[PreparedChange] = deque()
        self._credit = credit
        self._made = 0
        self._sent = 0
        self.cancelled = False
        self.paused = False
        self.stopped = False

    @property
    def ready(self) -> bool:
        """True when another step may be made for it."""
        return (
            not self.paused and self._pending < self._capacity and (self._credit is None or self._made < self._credit)
        )

    def put(self, event: Event | BaseException) -> None:
        """Add an event, or an exception that the caller's iteration raises. From any thread."""
        with self._lock:
            self._pending += 1
            self._made += event.audio.shape[-1] if isinstance(event, Output) else 0
        try:
            self._loop.call_soon_threadsafe(self._receive, event)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.cancelled = True

    def cancel(self) -> None:
        """The caller has gone: free the slot at the next step."""
        self.cancelled = True
        self._changed()

    def pause(self, paused: bool) -> None:
        """Make no further step, or go on."""
        self.paused = paused
        self._changed()

    def stop(self) -> None:
        """End now with what there is, whatever the credit."""
        self._credit = None
        self._wake.set()
        self.stopped = True
        self._changed()

    def grant(self, samples: int) -> None:
        """Let the caller have so many samples more; nothing where there is no limit."""
        if self._credit is not None:
            self._credit += samples
            self._wake.set()
            self._changed()

    def change(self, change: PreparedChange) -> None:
        """Take a change at the next step."""
        self._changes.append(change)
        self._changed()

    def take_change(self) -> PreparedChange | None:
        """Remove and return the oldest change that is not taken yet. For the worker."""
        return self._changes.popleft() if self._changes else None

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until ``Finished`` has been yielded; raise what was put."""
        while True:
            event = await self._next()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    async def _next(self) -> Event | BaseException:
        """Return the next event that the credit allows, cut to it. A failure passes what has no credit."""
        while True:
            failure = self._events[-1] if self._events and isinstance(self._events[-1], BaseException) else None
            if self._events:
                event, rest = self._affordable(self._events[0])
                if event is not None:
                    self._take(event, rest)
                    return event
            if failure is not None:
                return failure
            self._wake.clear()
            await self._wake.wait()

    def _affordable(self, event: Event | BaseException) -> tuple[Event | BaseException | None, Event | None]:
        """Return what of an event may be sent now, and what is left of it."""
        if not isinstance(event, Output) or self._credit is None:
            return event, None
        samples, left = event.audio.shape[-1], max(0, self._credit - self._sent)
        if samples <= left:
            return event, None
        if not left:
            return None, None
        part = replace(event, audio=event.audio[:, :left], final=False)
        rest = replace(
            event,
            audio=event.audio[:, left:],
            first_sample=event.first_sample + left,
            codes=np.zeros((0, 0), np.int32),
        )
        return part, rest

    def _take(self, event: Event | BaseException, rest: Event | None) -> None:
        if isinstance(event, Output):
            self._sent += event.audio.shape[-1]
        if rest is not None:
            self._events[0] = rest
            return
        self._events.popleft()
        with self._lock:
            self._pending -= 1
            freed = self._pending == self._capacity - 1
        if freed:
            self._changed()

    def _receive(self, event: Event | BaseException) -> None:
        self._events.append(event)
        self._wake.set()
