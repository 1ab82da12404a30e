"""One thread for many streams: batches, order, errors, cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from services.models.batching import MAX_BATCH, Batcher


class Recorder:
    """Doubles numbers; holds the first call until it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, list[Any]]] = []
        self.entered, self.released = threading.Event(), threading.Event()

    def run(self, kind: Any, pieces: Sequence[Any]) -> list[Any]:
        self.calls.append((kind, list(pieces)))
        self.entered.set()
        self.released.wait(5)
        if kind == "broken":
            raise ValueError("broken")
        return [KeyError(piece) if piece < 0 else 2 * piece for piece in pieces]


async def held(batcher: Batcher, recorder: Recorder) -> asyncio.Task[Any]:
    first = asyncio.ensure_future(batcher.submit("a", 1))
    await asyncio.to_thread(recorder.entered.wait, 5)
    return first


async def test_what_waits_runs_together() -> None:
    recorder = Recorder()
    batcher = Batcher("test", recorder.run)
    first = await held(batcher, recorder)
    waiting = [asyncio.ensure_future(batcher.submit(kind, n)) for kind, n in (("a", 2), ("b", 3), ("a", 4), ("b", 5))]
    await asyncio.sleep(0)
    recorder.released.set()
    assert await asyncio.gather(first, *waiting) == [2, 4, 6, 8, 10]
    assert recorder.calls == [("a", [1]), ("a", [2, 4]), ("b", [3, 5])]
    batcher.close()


async def test_a_batch_has_a_limit() -> None:
    recorder = Recorder()
    batcher = Batcher("test", recorder.run)
    first = await held(batcher, recorder)
    waiting = [asyncio.ensure_future(batcher.submit("a", n)) for n in range(MAX_BATCH + 3)]
    await asyncio.sleep(0)
    recorder.released.set()
    await asyncio.gather(first, *waiting)
    assert [len(pieces) for _, pieces in recorder.calls] == [1, MAX_BATCH, 3]
    batcher.close()


async def test_who_has_gone_is_not_run() -> None:
    recorder = Recorder()
    batcher = Batcher("test", recorder.run)
    first = await held(batcher, recorder)
    gone, stays = (asyncio.ensure_future(batcher.submit("a", n)) for n in (2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    first.cancel()
    await asyncio.sleep(0)
    recorder.released.set()
    assert await stays == 6
    assert recorder.calls == [("a", [1]), ("a", [3])]
    batcher.close()


async def test_errors_reach_whom_they_concern() -> None:
    recorder = Recorder()
    recorder.released.set()
    batcher = Batcher("test", recorder.run)
    with pytest.raises(ValueError, match="broken"):
        await batcher.submit("broken", 1)
    with pytest.raises(KeyError):
        await batcher.submit("a", -1)
    assert await batcher.submit("a", 7) == 14
    batcher.close()
