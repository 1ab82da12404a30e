"""The thread that runs the models' calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from services.models.worker import Worker, WorkerFull


class Counted:
    """A gauge that can be read."""

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1

    def dec(self) -> None:
        self.value -= 1


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("test", 2)
    yield worker
    worker.close()


class Held:
    """A call that runs until it is released."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.release = threading.Event()
        self.stopped = False

    def __call__(self, stopped: threading.Event) -> str:
        self.running.set()
        self.release.wait()
        self.stopped = stopped.is_set()
        return "done"


async def started(worker: Worker, gauge: Counted) -> tuple[Held, asyncio.Task[str]]:
    held = Held()
    task = asyncio.create_task(worker.run(held, gauge))
    await asyncio.to_thread(held.running.wait)
    # The call's own notice that it has left the queue came before.
    await asyncio.sleep(0)
    return held, task


async def test_runs_in_order_one_at_a_time(worker: Worker) -> None:
    gauge, order = Counted(), []
    held, first = await started(worker, gauge)

    def call(number: int) -> Any:
        return lambda _: order.append(number)

    rest = [asyncio.create_task(worker.run(call(number), gauge)) for number in (1, 2)]
    await asyncio.sleep(0)
    assert (order, gauge.value) == ([], 2)
    held.release.set()
    assert await first == "done"
    await asyncio.gather(*rest)
    assert (order, gauge.value, held.stopped) == ([1, 2], 0, False)


async def test_refuses_more_than_may_wait(worker: Worker) -> None:
    gauge = Counted()
    held, first = await started(worker, gauge)
    waiting = [asyncio.create_task(worker.run(lambda _: None, gauge)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(WorkerFull):
        await worker.run(lambda _: None, gauge)
    assert gauge.value == 2
    held.release.set()
    await asyncio.gather(first, *waiting)
    assert await worker.run(lambda _: 7, gauge) == 7
    assert gauge.value == 0


async def test_a_cancelled_caller_leaves(worker: Worker) -> None:
    gauge, ran = Counted(), []
    held, first = await started(worker, gauge)
    waits = asyncio.create_task(worker.run(lambda _: ran.append(1), gauge))
    await asyncio.sleep(0)
    for task in (first, waits):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert gauge.value == 0
    held.release.set()
    assert await worker.run(lambda _: "next", gauge) == "next"
    assert (ran, held.stopped) == ([], True)


async def test_hands_on_what_a_call_raises(worker: Worker) -> None:
    gauge = Counted()

    def fails(_: threading.Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run(fails, gauge)
    assert gauge.value == 0
