"""Holds the simulator to a real replica: the same arrivals, simulated and played to a generator behind Envoy.

A generator with the embedded model is started alone. First its curve is measured, with even loads: so many pieces at
the same time, and how long a step of them takes. Then listeners come by chance, as often as fill most of the slots,
and the simulator is given the moments at which they came. What it says of their times, on average, is compared with
what they met: to the first audio, and to the end of the piece.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from antiphon import AsyncClient
from services.stack.stack import Stack
from tests.bench.capacity.pods import FIRST_STEPS, FRAME_SECONDS, Curve, Piece, alone

SLOTS = 8
COUNTS = (1, 2, 4, 6, 8)
ROUNDS = 3
PIECE_SECONDS = 6.0
STEPS = PIECE_SECONDS / FRAME_SECONDS + 3
LOAD = 0.7
"""Of the speed of a full replica at which pieces come."""
QUEUE_LIMIT = 32


@dataclass(frozen=True)
class Heard:
    """When a piece came, in seconds after it was asked for."""

    first: float
    end: float


Play = Callable[[int], Awaitable[Heard]]
"""Asks for a piece, by its seed."""


def measure(pieces: int, seed: int = 0) -> dict[str, Any]:
    """Return what was predicted and measured: mean seconds to first audio and to the end, and the error of each."""
    begun = time.monotonic()
    with Stack(services=["generator"], environment={"ANTIPHON_SLOTS": str(SLOTS)}) as stack:
        started = time.monotonic() - begun
        return {"start_seconds": round(started, 1), **asyncio.run(_measure(stack.address, pieces, seed))}


async def _measure(target: str, pieces: int, seed: int) -> dict[str, Any]:
    async with AsyncClient(target, resume=False) as client:

        async def play(number: int) -> Heard:
            return await _play(client, number)

        await play(0)
        milliseconds, prepare = await calibrate(play)
        curve = Curve(milliseconds)
        times = arrivals(LOAD * SLOTS / (STEPS * curve(SLOTS)), pieces, random.Random(seed))
        heard = await asyncio.gather(*(_later(play, moment, number) for number, moment in enumerate(times)))
    foretold = predict(curve, times, prepare)
    facts: dict[str, Any] = {"curve_ms": milliseconds, "prepare_seconds": round(prepare, 4), "pieces": pieces}
    for name in ("first", "end"):
        said = statistics.fmean(getattr(one, name) for one in foretold)
        met = statistics.fmean(getattr(one, name) for one in heard)
        facts[name] = {"predicted": round(said, 4), "measured": round(met, 4), "error": round(said / met - 1, 4)}
    return facts


async def calibrate(play: Play) -> tuple[dict[int, float], float]:
    """Return the curve, streams → milliseconds of a step, and the seconds that a request takes beside its steps.

    Medians over rounds, each of which goes through all counts, so that a slow minute of the machine is in all of them.
    """
    found: dict[int, list[float]] = {count: [] for count in COUNTS}
    beside = []
    for _ in range(ROUNDS):
        for count in COUNTS:
            heard = await asyncio.gather(*map(play, range(count)))
            step = statistics.fmean(one.end - one.first for one in heard) / (STEPS - FIRST_STEPS)
            found[count].append(step)
            if count == 1:
                beside.append(heard[0].first - FIRST_STEPS * step)
    curve = {count: round(1000 * statistics.median(steps), 3) for count, steps in found.items()}
    return curve, max(0.0, statistics.median(beside))


def arrivals(rate: float, count: int, generator: random.Random) -> list[float]:
    """Return the moments of a Poisson process of so many in a second."""
    moments, now = [], 0.0
    for _ in range(count):
        now += generator.expovariate(rate)
        moments.append(now)
    return moments


def predict(curve: Curve, times: Sequence[float], prepare: float) -> list[Heard]:
    """Return what the simulator says of pieces that come at these times to one replica."""
    pieces = alone([Piece(moment, STEPS) for moment in times], curve, SLOTS, QUEUE_LIMIT, prepare)
    return [Heard((one.first_audio or 0.0) - one.arrival, (one.end or 0.0) - one.arrival) for one in pieces]


async def _later(play: Play, seconds: float, number: int) -> Heard:
    await asyncio.sleep(seconds)
    return await play(number)


async def _play(client: AsyncClient, number: int) -> Heard:
    begun, first = time.monotonic(), 0.0
    stream = client.stream_generate("a calm piano", duration=PIECE_SECONDS, seed=number, encoding="pcm_s16le")
    async for _ in stream:
        first = first or time.monotonic() - begun
    return Heard(first, time.monotonic() - begun)
