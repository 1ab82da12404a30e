"""Scale on paper, from measurement: a day of listeners, simulated with a measured step and the autoscaler's own rules.

Of each number of listeners: the replicas that the autoscaler has at most and on average, time to first audio, requests
refused, the part of the time in which streams fall behind playback, and replica-hours (GPU-hours, where a replica is a
GPU) beside those of a fleet that is fixed at what the day's peak needs.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.capacity import check
from tests.bench.capacity.autoscaler import MANIFEST, Autoscaler
from tests.bench.capacity.fleet import DAY_SECONDS, Day, Fleet, Settings, Traffic
from tests.bench.capacity.pods import FRAME_SECONDS, Curve

SUMMARY = "Simulate a day of a fleet from a measured step-time curve."
LISTENERS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
BUDGET = 0.85
"""Of a frame's time that a step of a full pod may take, as in the autoscaler's manifest."""
HEADROOM = 0.75
"""Of the slots that a fixed fleet fills at the peak, as the autoscaler's target."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="file", type=Path, help="JSON that `tests.bench generator` printed")
    source.add_argument("--check", action="store_true", help="hold the simulator to a real replica of the tiny model")
    source.add_argument("--curve", type=_curve, help="streams and milliseconds of a step, as 1:15.3,8:40")
    parser.add_argument("--loop", default="ours_int8", help="of the JSON (default: ours_int8)")
    parser.add_argument("--slots", type=int, help="of a pod (default: the most whose step is within the budget)")
    parser.add_argument("--warm-up", type=float, default=25.0, help="seconds until a new pod serves (default: 25)")
    parser.add_argument("--listeners", type=_numbers, default=LISTENERS, help="default: 10 to 1,000,000")
    parser.add_argument("--pieces", type=float, default=4.0, help="that each asks for in a day (default: 4)")
    parser.add_argument("--piece-seconds", type=float, default=30.0, help="of each piece (default: 30)")
    parser.add_argument("--hours", type=float, default=24.0, help="of the day, from midnight (default: 24)")
    parser.add_argument("--checked", type=int, default=80, help="pieces of --check (default: 80)")
    parser.add_argument("--seed", type=int, default=0)


@dataclass(frozen=True)
class Row:
    """One number of listeners, autoscaled and fixed."""

    listeners: int
    scaled: Day
    fixed: Day
    fixed_replicas: int


def run(arguments: argparse.Namespace) -> None:
    """Simulate, print a table and, as the last line, one JSON object."""
    if arguments.check:
        _check(arguments)
        return
    milliseconds = arguments.curve or read(arguments.file, arguments.loop)
    curve = Curve(milliseconds)
    slots = arguments.slots or most_slots(curve)
    settings = Settings(curve, slots, warm_up_seconds=arguments.warm_up)
    rows = []
    for listeners in arguments.listeners:
        traffic = Traffic(listeners, arguments.pieces, arguments.piece_seconds)
        rows.append(simulate(settings, traffic, arguments.hours * 3600, arguments.seed))
    Console(width=120).print(_table(rows, slots, arguments))
    facts = {
        "curve_ms": milliseconds,
        "slots": slots,
        "warm_up_seconds": arguments.warm_up,
        "rows": [_facts(row, arguments.hours) for row in rows],
    }
    print(json.dumps(facts))


def simulate(settings: Settings, traffic: Traffic, seconds: float = DAY_SECONDS, seed: int = 0) -> Row:
    """Run a day with the autoscaler of our manifest, and the same day with a fixed fleet."""
    replicas = enough_replicas(settings, traffic, traffic.peak_hour * 3600)
    # The manifest's maximum is a matter of budget: here it must not be what is measured.
    autoscaler = Autoscaler.from_manifest(MANIFEST, maximum=max(64, 4 * replicas))
    # The day before has left as many as its last minute needed.
    start = max(autoscaler.minimum, enough_replicas(settings, traffic, 0.0))
    scaled = Fleet(settings, traffic, autoscaler, start).run(seconds, seed)
    fixed = Fleet(settings, traffic, None, replicas).run(seconds, seed)
    return Row(traffic.listeners, scaled, fixed, replicas)


def enough_replicas(settings: Settings, traffic: Traffic, seconds: float) -> int:
    """Return the replicas whose slots are filled to the headroom at a time of the day."""
    rate = traffic.rate(seconds)
    full = traffic.piece_seconds / FRAME_SECONDS * settings.curve(settings.slots)  # of a piece in a full pod
    return max(1, math.ceil(rate * full / settings.slots / HEADROOM))


def most_slots(curve: Curve) -> int:
    """Return the most streams whose step stays within the budget; 1 where not even one does."""
    slots = 1
    while slots < 256 and curve(slots + 1) <= BUDGET * FRAME_SECONDS:
        slots += 1
    return slots


def read(path: Path, loop: str) -> dict[int, float]:
    """Return streams → milliseconds from the last line of what `tests.bench generator` printed."""
    facts = json.loads(path.read_text().strip().splitlines()[-1])
    return {int(count): figures["ms_per_step"] for count, figures in facts[loop].items()}


def _check(arguments: argparse.Namespace) -> None:
    facts = check.measure(arguments.checked, arguments.seed)
    table = Table("mean seconds to", "predicted", "measured", "error")
    for name, told in (("first", "the first audio"), ("end", "the end of the piece")):
        each = facts[name]
        table.add_row(told, f"{each['predicted']:.3f}", f"{each['measured']:.3f}", f"{each['error']:+.1%}")
    Console().print(table)
    print(json.dumps(facts))


def _facts(row: Row, hours: float) -> dict[str, Any]:
    def of(day: Day) -> dict[str, Any]:
        return {
            "pieces": day.pieces,
            "rejected": day.rejected,
            "most_replicas": day.most_replicas,
            "mean_replicas": round(day.replica_seconds / hours / 3600, 2),
            "replica_hours": round(day.replica_seconds / 3600, 1),
            "first_audio_p50": round(day.first_audio_at(0.5), 3) if day.first_audio else None,
            "first_audio_p99": round(day.first_audio_at(0.99), 3) if day.first_audio else None,
            "behind": round(day.behind, 4),
        }

    return {"listeners": row.listeners, "scaled": of(row.scaled), "fixed": of(row.fixed)}


def _table(rows: list[Row], slots: int, arguments: argparse.Namespace) -> Table:
    table = Table(
        title=f"{slots} slots a replica, {arguments.warm_up:g} s to warm up, {arguments.pieces:g} pieces of "
        f"{arguments.piece_seconds:g} s a listener a day"
    )
    for heading in ("listeners", "fleet", "replicas, mean", "most", "hours", "first audio p50", "p99", "refused"):
        table.add_column(heading, justify="left" if heading == "fleet" else "right")
    for row in rows:
        for name, day in (("autoscaled", row.scaled), ("fixed", row.fixed)):
            heard = [f"{day.first_audio_at(q):.2f}" if day.first_audio else "" for q in (0.5, 0.99)]
            mean = day.replica_seconds / arguments.hours / 3600
            cells = [f"{row.listeners:,}", name, f"{mean:.1f}", str(day.most_replicas)]
            refused = f"{day.rejected / max(1, day.pieces):.2%}"
            table.add_row(*cells, f"{day.replica_seconds / 3600:,.0f}", *heard, refused)
    return table


def _curve(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(count): float(value) for count, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be as 1:15.3,8:40, is {text!r}") from None


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("_", "").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers and commas, is {text!r}") from None
