"""One thread that runs calls on a model, in order, away from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")


class Gauge(Protocol):
    """What counts the calls that wait."""

    def inc(self) -> None: ...

    def dec(self) -> None: ...


class WorkerFull(Exception):
    """Too many calls wait already."""


class Worker:
    """Runs one call at a time, first come, first served. `run` belongs to one event loop."""

    def __init__(self, name: str, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, call: Callable[[threading.Event], _Result], gauge: Gauge) -> _Result:
        """Return `call(stopped)` from the worker's thread; `gauge` counts the call while it waits.

        When the caller is cancelled, a call that waits never runs, and one that runs finds `stopped` set.
        Raises `WorkerFull` when too many wait, and what the call raises.
        """
        # One that runs leaves the queue at once, so an idle worker always has a place.
        if self._waiting >= self._max_waiting:
            raise WorkerFull(f"{self._waiting} calls wait")
        loop = asyncio.get_running_loop()
        stopped = threading.Event()
        waits = True
        self._waiting += 1
        gauge.inc()

        def leave_queue() -> None:
            nonlocal waits
            if waits:
                waits = False
                self._waiting -= 1
                gauge.dec()

        def job() -> _Result:
            loop.call_soon_threadsafe(leave_queue)
            return call(stopped)

        try:
            return await asyncio.wrap_future(self._pool.submit(job))
        finally:
            stopped.set()
            leave_queue()

    def close(self) -> None:
        """Drop the calls that wait, and wait for the one that runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
