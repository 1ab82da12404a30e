"""Slots, queue and steps, over an engine without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.output import Output
from services.generator.requests import Change
from services.generator.scheduler import STREAM_CAPACITY
from services.generator.streams import Finished, Reason, Updated
from services.runtime.errors import Internal, ResourceExhausted, Unavailable
from tests.unit.scheduler_bench import RATE, Bench, collect, finished, request, until


@pytest.fixture
async def open_bench() -> AsyncIterator[Callable[[int, int], Bench]]:
    opened: list[Bench] = []

    def build(slots: int, queue_limit: int) -> Bench:
        opened.append(Bench(slots, queue_limit))
        return opened[-1]

    yield build
    for bench in opened:
        bench.engine.allow()
        await asyncio.to_thread(bench.scheduler.close)


Open = Callable[[int, int], Bench]


async def test_a_request_runs_to_its_end(open_bench: Open) -> None:
    bench = open_bench(1, 1)
    bench.engine.allow()
    events = await collect(bench.submit(request("a", 25)))
    assert [event.first_sample for event in events[:-1] if isinstance(event, Output)] == list(range(25))
    end = finished(events)
    assert (end.reason, end.samples, end.steps) == (Reason.COMPLETE, 25, 25)
    assert 0 <= end.queue_seconds <= end.first_audio_seconds <= end.total_seconds
    await until(lambda: bench.active == 0)
    assert bench.value("antiphon_audio_generated_seconds_total") == pytest.approx(25 / RATE)
    assert bench.value("antiphon_step_duration_seconds_count") == 25
    assert bench.value("antiphon_first_audio_seconds_count") == 1


async def test_first_come_first_served(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    streams = [bench.submit(request(name)) for name in "abcd"]
    bench.engine.allow()
    await asyncio.gather(*map(collect, streams))
    assert bench.engine.begun == list("abcd")
    assert bench.engine.batches == [[name] for name in "abcd" for _ in range(3)]


async def test_slots_bound_the_batch_and_a_freed_one_is_taken_at_once(open_bench: Open) -> None:
    bench = open_bench(2, 8)
    assert bench.value("antiphon_slots") == 2
    streams = [bench.submit(request("long", 4))]
    await until(lambda: bench.engine.entered == 1)
    streams += [bench.submit(request("short", 1)), bench.submit(request("next", 2))]
    assert bench.waiting == 2
    await until(lambda: bench.engine.prepared == 3)
    bench.engine.allow()
    await asyncio.gather(*map(collect, streams))
    # The first step had begun before the others came.
    assert bench.engine.batches == [["long"], ["long", "short"], ["long", "next"], ["long", "next"]]


async def test_a_full_queue_refuses_and_says_when_to_come_back(open_bench: Open) -> None:
    bench = open_bench(1, 2)
    streams = [bench.submit(request("runs"))]
    await until(lambda: bench.active == 1)
    streams += [bench.submit(request(name)) for name in ("waits", "waits too")]
    with pytest.raises(ResourceExhausted, match="all 1 slots are taken and 2 requests wait") as refusal:
        bench.submit(request("refused"))
    assert refusal.value.retry_after_seconds > 0
    bench.engine.allow()
    await asyncio.gather(*map(collect, streams))
    assert finished(await collect(bench.submit(request("welcome again")))).reason is Reason.COMPLETE
    assert "refused" not in bench.engine.begun


async def test_a_cancelled_request_has_left_by_the_next_step(open_bench: Open) -> None:
    bench = open_bench(2, 8)
    gone, stays = bench.submit(request("gone", 50)), bench.submit(request("stays", 5))
    heir = bench.submit(request("heir", 1))
    await until(lambda: bench.engine.prepared == 3)
    bench.engine.allow(2)
    await until(lambda: len(bench.engine.batches) == 2)
    gone.cancel()
    bench.engine.allow()
    await asyncio.gather(collect(stays), collect(heir))
    # The step that had already begun may still hold it.
    late = [index for index, names in enumerate(bench.engine.batches) if "gone" in names]
    assert max(late) <= 2
    assert ["stays", "heir"] in bench.engine.batches[:4]
    await until(lambda: bench.active == 0)


async def test_a_cancelled_request_leaves_the_queue(open_bench: Open) -> None:
    bench = open_bench(1, 1)
    runs = bench.submit(request("runs"))
    await until(lambda: bench.active == 1)
    waits = bench.submit(request("waits"))
    waits.cancel()
    bench.engine.allow(1)
    await until(lambda: bench.waiting == 0)
    heir = bench.submit(request("heir"))
    bench.engine.allow()
    await asyncio.gather(collect(runs), collect(heir))
    assert bench.engine.begun == ["runs", "heir"]


async def test_a_paused_request_makes_no_step_and_others_go_on(open_bench: Open) -> None:
    bench = open_bench(2, 8)
    bench.submit(request("first", 1))
    await until(lambda: bench.engine.entered == 1)
    paused, other = bench.submit(request("paused", 3)), bench.submit(request("other", 20))
    paused.pause(True)
    bench.engine.allow()
    assert finished(await collect(other)).steps == 20
    assert not any("paused" in names for names in bench.engine.batches)
    await until(lambda: bench.active == 1)
    paused.pause(False)
    assert finished(await collect(paused)).steps == 3


async def test_a_stopped_request_ends_with_what_there_is(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    stream = bench.submit(request("stopped", 50))
    bench.engine.allow(4)
    await until(lambda: len(bench.engine.batches) == 4)
    stream.stop()
    bench.engine.allow()
    end = finished(await collect(stream))
    assert end.reason is Reason.STOPPED
    assert 4 <= end.steps <= 5
    assert end.samples == end.steps


async def test_a_paused_request_can_be_stopped(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    stream = bench.submit(request("stopped", 50))
    bench.engine.allow(2)
    await until(lambda: len(bench.engine.batches) == 2)
    stream.pause(True)
    stream.stop()
    bench.engine.allow(1)
    assert finished(await collect(stream)).reason is Reason.STOPPED


async def test_a_failed_step_fails_its_batch_alone(open_bench: Open) -> None:
    bench = open_bench(2, 8)
    bench.engine.broken = {"broken"}
    # While the first is in its only step the others gather.
    bench.submit(request("first", 1))
    await until(lambda: bench.engine.entered == 1)
    streams = [bench.submit(request(name)) for name in ("broken", "unlucky", "later")]
    await until(lambda: bench.engine.prepared == 4)
    bench.engine.allow()
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    assert [type(result) for result in results[:2]] == [Internal, Internal]
    assert "no step" not in str(results[0])
    assert bench.engine.batches[:2] == [["first"], ["broken", "unlucky"]]
    assert isinstance(results[2], list)
    assert finished(results[2]).reason is Reason.COMPLETE
    await until(lambda: bench.active == 0)
    assert finished(await collect(bench.submit(request("after")))).reason is Reason.COMPLETE


async def test_a_request_that_can_not_begin_fails_alone(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    bench.engine.allow()
    streams = [bench.submit(request(name)) for name in ("no beginning", "later")]
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    assert isinstance(results[0], Internal)
    assert isinstance(results[1], list)


async def test_a_request_that_can_not_be_finished_fails_alone(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    stream = bench.submit(request("no ending", 50))
    bench.engine.allow(1)
    await until(lambda: len(bench.engine.batches) == 1)
    stream.stop()
    bench.engine.allow()
    with pytest.raises(Internal):
        await collect(stream)
    assert finished(await collect(bench.submit(request("after")))).reason is Reason.COMPLETE


async def test_a_slow_reader_stops_its_own_steps_only(open_bench: Open) -> None:
    bench = open_bench(2, 8)
    frames = STREAM_CAPACITY * 3
    bench.engine.allow()
    slow, quick = bench.submit(request("slow", frames)), bench.submit(request("quick", frames))
    assert finished(await collect(quick)).steps == frames
    await until(lambda: not slow.ready)
    assert sum("slow" in names for names in bench.engine.batches) == STREAM_CAPACITY
    end = finished(await collect(slow))
    assert (end.reason, end.samples) == (Reason.COMPLETE, frames)


async def test_closing_fails_what_runs_and_what_waits(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    streams = [bench.submit(request(name, 1_000_000)) for name in ("runs", "waits")]
    await until(lambda: bench.active == 1)
    closing = asyncio.create_task(asyncio.to_thread(bench.scheduler.close))
    bench.engine.allow()
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    await closing
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    with pytest.raises(Unavailable):
        bench.submit(request("too late"))
    assert bench.active == bench.waiting == 0


async def test_a_slot_goes_to_the_client_that_holds_fewest(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    streams = [bench.submit(request(name), client) for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a"))]
    await until(lambda: bench.engine.entered == 1)
    streams.append(bench.submit(request("b1"), "b"))
    bench.engine.allow()
    await asyncio.gather(*map(collect, streams))
    assert bench.engine.begun.index("b1") < bench.engine.begun.index("a3")


async def test_who_fills_the_queue_gives_way_to_who_has_less_in_it(open_bench: Open) -> None:
    bench = open_bench(1, 2)
    runs = bench.submit(request("runs"), "a")
    await until(lambda: bench.active == 1)
    waits, gives_way = (bench.submit(request(name), "a") for name in ("waits", "gives way"))
    newcomer = bench.submit(request("newcomer"), "b")
    bench.engine.allow()
    results = await asyncio.gather(*map(collect, (runs, waits, gives_way, newcomer)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["list", "list", "ResourceExhausted", "list"]


async def test_a_stream_without_credit_makes_no_step_and_gives_its_slot_up(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    bench.engine.allow()
    paced = [bench.submit(request(f"paced {number}", 9, credit=4)) for number in range(3)]
    heard = [aiter(stream.events()) for stream in paced]
    for events in heard:
        for _ in range(4):
            await anext(events)
    assert finished(await collect(bench.submit(request("other", 2)))).steps == 2
    counts = [sum(f"paced {number}" in names for names in bench.engine.batches) for number in range(3)]
    assert counts == [4, 4, 4]
    # One slot, so one cache more: the streams that wait longest have given theirs up.
    assert bench.engine.released[:2] == ["paced 0", "paced 1"]
    for stream in paced:
        stream.grant(100)
    for events in heard:
        last = [event async for event in events][-1]
        assert isinstance(last, Finished) and last.samples == 9


async def test_a_change_is_taken_before_the_next_step_and_told(open_bench: Open) -> None:
    bench = open_bench(1, 8)
    stream = bench.submit(request("changed", 5))
    bench.engine.allow(2)
    await until(lambda: len(bench.engine.batches) == 2)
    prepared = SimpleNamespace(change=Change())
    stream.change(cast(Any, prepared))
    bench.engine.allow()
    events = await collect(stream)
    assert bench.engine.changes == [("changed", prepared)]
    told = next(event for event in events if isinstance(event, Updated))
    assert 2 <= told.step <= 3


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_happens_everyone_who_stays_is_served_in_order_within_the_slots(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 3))
    pieces = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6), st.sampled_from([None, 1, 2])), max_size=10)
    )
    gone = data.draw(st.sets(st.integers(0, 9)))

    async def play() -> None:
        bench = Bench(slots, 10)
        bench.engine.allow()
        streams = [
            bench.submit(request(f"{client} {number}", frames, credit), client)
            for number, (client, frames, credit) in enumerate(pieces)
        ]

        async def listen(number: int) -> int:
            stream, samples = streams[number], 0
            if number in gone:
                stream.cancel()
                return -1
            async for event in stream.events():
                if isinstance(event, Output):
                    samples += event.audio.shape[-1]
                    stream.grant(event.audio.shape[-1])
            return samples

        async with asyncio.timeout(30):
            heard = await asyncio.gather(*map(listen, range(len(pieces))))
        assert heard == [-1 if number in gone else frames for number, (_, frames, _) in enumerate(pieces)]
        assert all(len(names) <= slots and len(set(names)) == len(names) for names in bench.engine.batches)
        for client in "ab":
            begun = [int(name.split()[1]) for name in bench.engine.begun if name.startswith(client)]
            assert begun == sorted(begun)
        await until(lambda: bench.active == 0)
        await asyncio.to_thread(bench.scheduler.close)

    asyncio.run(play())
