"""The bounded stream of events between the worker thread and one caller on the event loop."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from services.generator.engine import Output


class Reason(enum.Enum):
    """Why a generation ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Finished:
    """The last event. Times in seconds from the submission; ``samples`` of each channel."""

    reason: Reason
    samples: int
    queue_seconds: float
    first_audio_seconds: float
    total_seconds: float
    steps: int


Event = Output | Finished


class Stream:
    """Events of one request, in order: outputs, then ``Finished``.

    The worker puts, the caller iterates. A stream that holds ``capacity`` events is full: the scheduler makes no
    further step for it until the caller has taken some, so a slow reader costs no memory and delays nobody.
    """

    def __init__(self, capacity: int, changed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._capacity = capacity
        self._changed = changed
        self._lock = threading.Lock()
        self._pending = 0
        self.cancelled = False
        self.paused = False
        self.stopped = False

    @property
    def ready(self) -> bool:
        """True when another step may be made for it."""
        return not self.paused and self._pending < self._capacity

    def put(self, event: Event | BaseException) -> None:
        """Add an event, or an exception that the caller's iteration raises. From any thread."""
        with self._lock:
            self._pending += 1
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
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
        """End now with what there is."""
        self.stopped = True
        self._changed()

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until ``Finished`` has been yielded; raise what was put."""
        while True:
            event = await self._events.get()
            with self._lock:
                self._pending -= 1
                freed = self._pending == self._capacity - 1
            if freed:
                self._changed()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Finished):
                return
