"""Many streams, one thread: what waits when the thread is free runs in one call.

A stream hands in one piece at a time and waits for its result, so it can't run ahead of its reader, memory is bounded
by the number of streams, and those that wait at the same moment make a batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MAX_BATCH = 16


@dataclass(eq=False)
class _Waiting:
    kind: Hashable
    piece: Any
    result: asyncio.Future[Any]


class Batcher:
    """Runs pieces on a thread of its own, those of one kind together, first come, first served.

    Args:
        run: takes a kind and its pieces, returns a result or an exception for each; on the thread.
    """

    def __init__(self, name: str, run: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        self._is_running = False

    async def submit(self, kind: Hashable, piece: Any) -> Any:
        """Return the result of a piece. Raises what `run` returned or raised. One event loop calls it."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(kind, piece, loop.create_future())
        with self._lock:
            self._queue.append(waiting)
            starts, self._is_running = not self._is_running, True
        if starts:
            self._pool.submit(self._work, loop)
        return await waiting.result

    def close(self) -> None:
        """Wait for the running call; what waits is dropped."""
        with self._lock:
            self._queue.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                batch = self._take()
                if not batch:
                    self._is_running = False
                    return
            try:
                results = self._run(batch[0].kind, [each.piece for each in batch])
            except Exception as error:
                results = [error] * len(batch)
            try:
                loop.call_soon_threadsafe(_settle, batch, results)
            except RuntimeError:  # the loop is closed: nobody listens any more
                return

    def _take(self) -> list[_Waiting]:
        """Take the first that is still wanted and others of its kind; those that were cancelled leave."""
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        for each in self._queue:
            if each.result.cancelled():
                continue
            fits = len(batch) < MAX_BATCH and (not batch or each.kind == batch[0].kind)
            (batch if fits else rest).append(each)
        self._queue = rest
        return batch


def _settle(batch: list[_Waiting], results: Sequence[Any]) -> None:
    for each, result in zip(batch, results, strict=True):
        if each.result.done():
            continue
        if isinstance(result, BaseException):
            each.result.set_exception(result)
        else:
            each.result.set_result(result)
