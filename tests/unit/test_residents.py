"""Which models are in memory: fakes in place of checkpoints, real schedulers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from services.generator.residents import Model, Residents
from services.generator.scheduler import Scheduler
from services.runtime.errors import ResourceExhausted, Unavailable
from services.runtime.metrics import Metrics

SIZES = {"a": 40, "b": 40, "c": 20, "d": 60}


class Shelf:
    """Makes models, and remembers which; a load waits while `gate` is closed, and fails while `broken` names it."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.gate = threading.Event()
        self.gate.set()
        self.broken: set[str] = set()
        self.loads: list[str] = []
        self.made: list[Model] = []
        self.at_once = 0
        self.most_at_once = 0

    def load(self, name: str) -> Model:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.loads.append(name)
        try:
            assert self.gate.wait(10)
            if name in self.broken:
                raise OSError(f"{name}: the disk is gone")
        finally:
            self.at_once -= 1
        engine: Any = SimpleNamespace(lookahead_seconds=0.1, samples_per_frame=640, weight_bytes=SIZES[name])
        scheduler = Scheduler(engine, name, 32000, 1, 1, self.metrics)
        scheduler.start()
        self.made.append(Model(cast(Any, SimpleNamespace(name=name)), engine, scheduler))
        return self.made[-1]

    def residents(self, names: str, budget_bytes: int = 0) -> Residents:
        models = Residents(self.load, budget_bytes, self.metrics)
        models.open(list(names))
        return models

    @property
    def present(self) -> str:
        """The models whose metric says that they are in memory."""
        value = self.metrics.registry.get_sample_value
        return "".join(n for n in SIZES if value("antiphon_model_resident", {"model": n}) == 1)

    @property
    def running(self) -> str:
        """The models whose schedulers run: what really takes memory."""
        return "".join(sorted(model.info.name for model in self.made if model.scheduler._thread.is_alive()))


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.gate.set()
    for model in shelf.made:
        model.scheduler.close()


async def use(models: Residents, name: str) -> Model:
    async with models.lease(name) as model:
        await asyncio.sleep(0)
        return model


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what it waits for happens in threads
        await asyncio.sleep(0.001)


async def refused(call: Awaitable[Any]) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        await call
    return caught.value


async def test_without_a_budget_all_stay(shelf: Shelf) -> None:
    models = shelf.residents("abcd")
    for name in "abcdabcd":
        assert (await use(models, name)).info.name == name
    assert shelf.loads == list("abcd")
    assert shelf.present == shelf.running == "abcd"
    assert list(models.infos) == list("abcd")


async def test_opening_keeps_what_the_budget_allows_and_knows_the_rest(shelf: Shelf) -> None:
    models = shelf.residents("abc", 60)
    assert shelf.present == shelf.running == "ac"
    assert shelf.metrics.registry.get_sample_value("antiphon_model_resident", {"model": "b"}) == 0
    assert list(models.infos) == list("abc")
    assert models.lookahead_seconds("b") == 0.1
    assert models.samples_per_frame("b") == 640


async def test_a_name_given_twice_is_one_model(shelf: Shelf) -> None:
    shelf.residents("aa", 40)
    assert shelf.loads == ["a"]


async def test_who_was_used_longest_ago_leaves(shelf: Shelf) -> None:
    models = shelf.residents("abcd", 80)
    assert shelf.present == "ab"
    await use(models, "b")
    await use(models, "a")
    assert (await use(models, "c")).info.name == "c"
    assert shelf.present == shelf.running == "ac"
    await use(models, "a")
    await use(models, "b")
    assert shelf.present == shelf.running == "ab"
    # As many leave as must.
    await use(models, "d")
    assert shelf.present == shelf.running == "d"
    await use(models, "c")
    assert shelf.present == shelf.running == "cd"


async def test_a_model_in_use_stays(shelf: Shelf) -> None:
    models = shelf.residents("ab", 40)
    async with models.lease("a") as model:
        error = await refused(use(models, "b"))
        assert "b is not in memory" in error.message
        assert error.retry_after_seconds > 0
        assert model.scheduler._thread.is_alive()
        async with models.lease("a") as again:
            assert again is model
        await refused(use(models, "b"))
    assert (await use(models, "b")).info.name == "b"
    assert shelf.present == shelf.running == "b"


async def test_the_idle_leave_before_the_longest_in_use(shelf: Shelf) -> None:
    models = shelf.residents("abc", 80)
    async with models.lease("a"):
        await use(models, "b")
        await use(models, "c")
        assert shelf.present == "ac"


async def test_all_wait_for_one_load(shelf: Shelf) -> None:
    models = shelf.residents("ab", 40)
    shelf.gate.clear()
    uses = [asyncio.create_task(use(models, "b")) for _ in range(5)]
    await until(lambda: shelf.at_once == 1)
    uses += [asyncio.create_task(use(models, "b")) for _ in range(5)]
    assert shelf.present == ""
    shelf.gate.set()
    first, *others = await asyncio.gather(*uses)
    assert all(other is first for other in others)
    assert shelf.loads == list("abb")
    assert shelf.present == "b"


async def test_models_load_one_after_another(shelf: Shelf) -> None:
    models = shelf.residents("dab", 80)
    assert shelf.present == "d"
    shelf.gate.clear()
    both = [asyncio.create_task(use(models, name)) for name in "ab"]
    await until(lambda: shelf.at_once == 1)
    shelf.gate.set()
    assert [model.info.name for model in await asyncio.gather(*both)] == list("ab")
    assert shelf.most_at_once == 1
    assert shelf.present == shelf.running == "ab"


async def test_a_model_that_is_on_its_way_is_not_unloaded(shelf: Shelf) -> None:
    models = shelf.residents("ab", 40)
    shelf.gate.clear()
    leave = asyncio.Event()

    async def hold() -> Model:
        async with models.lease("b") as model:
            await leave.wait()
            return model

    coming = asyncio.create_task(hold())
    await until(lambda: shelf.at_once == 1)
    other = asyncio.create_task(refused(use(models, "a")))
    shelf.gate.set()
    assert "a is not in memory" in (await other).message
    leave.set()
    assert (await coming).info.name == "b"
    assert shelf.loads == list("abb")


async def test_a_model_larger_than_the_budget_ends_the_start(shelf: Shelf) -> None:
    with pytest.raises(ValueError, match=r"d: its weights take 60 bytes; hint: ANTIPHON_MEMORY_BUDGET_BYTES is 50"):
        shelf.residents("ad", 50)
    assert shelf.running == "a"


async def test_a_load_that_fails_fails_those_who_wait_and_is_tried_again(shelf: Shelf) -> None:
    models = shelf.residents("ab", 40)
    shelf.broken.add("b")
    results = await asyncio.gather(*(use(models, "b") for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["b: the disk is gone"] * 3
    assert shelf.loads == list("abb")
    assert shelf.present == shelf.running == ""
    assert (await use(models, "a")).info.name == "a"
    shelf.broken.clear()
    assert (await use(models, "b")).info.name == "b"
    assert shelf.present == shelf.running == "b"


async def test_a_caller_that_leaves_does_not_lose_the_model(shelf: Shelf) -> None:
    models = shelf.residents("ab", 40)
    shelf.gate.clear()
    leaving = asyncio.create_task(use(models, "b"))
    await until(lambda: shelf.at_once == 1)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    staying = asyncio.create_task(use(models, "b"))
    shelf.gate.set()
    assert (await staying).info.name == "b"
    assert shelf.loads == list("abb")
    assert shelf.most_at_once == 1
    assert shelf.present == shelf.running == "b"
    assert (await use(models, "a")).info.name == "a"


async def test_nobody_is_unloaded_for_those_who_have_left(shelf: Shelf) -> None:
    models = shelf.residents("dab", 80)
    shelf.gate.clear()
    coming = asyncio.create_task(use(models, "a"))
    await until(lambda: shelf.at_once == 1)
    leaving = asyncio.create_task(use(models, "d"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    shelf.gate.set()
    await coming
    await use(models, "b")
    assert shelf.loads == list("dabab")
    assert shelf.present == shelf.running == "ab"


async def test_closing_ends_what_is_there_and_what_is_on_its_way(shelf: Shelf) -> None:
    models = shelf.residents("acb", 60)
    shelf.gate.clear()
    coming = asyncio.create_task(use(models, "b"))
    await until(lambda: shelf.at_once == 1)
    await asyncio.to_thread(models.close)
    shelf.gate.set()
    with pytest.raises(Unavailable, match="going down"):
        await coming
    assert shelf.running == ""
