"""`python -m tests.chaos`: faults under load, and what the listeners noticed; the last line is one JSON object.

It ends with status 1 when a sample was lost, a stream broke, or a process died that was not asked to.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from services.stack.ports import SERVICES
from services.stack.stack import CHANNEL_OPTIONS
from tests.chaos.fleet import Fleet, Replica
from tests.chaos.load import Listeners, Tally, pieces

SEEDS = 4
ROLLING_STREAMS = 20
GROWTH_MEGABYTES = 400.0
"""Of a process that has lived through it all: caches of as many pieces as there are slots come to stay."""


def kill_a_generator(fleet: Fleet, listeners: Listeners) -> None:
    """SIGKILL in the middle of its streams; it comes back."""
    listeners.begin(8)
    listeners.wait_playing(4)
    victim = fleet.busiest()
    victim.kill()
    _return(victim)


def restart_envoy(fleet: Fleet, listeners: Listeners) -> None:
    """A new Envoy beside the old one, which drains."""
    listeners.begin(8)
    listeners.wait_playing(4)
    fleet.envoy.drain()


def kill_envoy(fleet: Fleet, listeners: Listeners) -> None:
    """SIGKILL of the only edge."""
    listeners.begin(8)
    listeners.wait_playing(4)
    fleet.envoy.kill()


def fill_the_queue(fleet: Fleet, listeners: Listeners) -> None:
    """More streams than all slots and places together."""
    listeners.begin(72)


def pause_clients(fleet: Fleet, listeners: Listeners) -> None:
    """Some stop reading for a while; the others must not wait for them."""
    listeners.begin(4, pause_seconds=5.0)
    listeners.begin(4)


def exhaust_memory(fleet: Fleet, listeners: Listeners) -> None:
    """Uploads as large as a message may be, many at a time, beside the streams; every one is refused."""
    listeners.begin(4)
    listeners.wait_playing(2)
    codes: Counter[str] = Counter()

    def upload() -> None:
        options = (*CHANNEL_OPTIONS, ("grpc.max_send_message_length", -1))
        with grpc.insecure_channel(fleet.envoy.address, options) as channel:
            call: Any = channel.unary_unary("/antiphon.v1.CodecService/Encode")
            # audio.data: larger than a file may be, smaller than a message may be.
            size = 40 << 20
            try:
                call(b"\x12" + _varint(size + 5) + b"\x12" + _varint(size) + bytes(size), timeout=120)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1

    threads = [threading.Thread(target=upload) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not codes.keys() <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}:
        listeners.tally.broken.append(f"uploads: {dict(codes)}")


def rolling_restart(fleet: Fleet, listeners: Listeners) -> None:
    """SIGTERM to each process of each service in turn while 20 streams run, each back before the next one goes."""
    listeners.begin(ROLLING_STREAMS)
    listeners.wait_playing(ROLLING_STREAMS // 2)
    stop = threading.Event()

    def keep_busy() -> None:
        # As long as it takes: whoever ends makes room for the next, and whoever waits is not joined by more.
        while not stop.wait(0.2):
            listeners.begin(ROLLING_STREAMS - listeners.present)

    filler = threading.Thread(target=keep_busy)
    filler.start()
    try:
        for replica in fleet.replicas:
            replica.terminate()
            _return(replica)
        fleet.envoy.drain()
    finally:
        stop.set()
        filler.join()


FAULTS: dict[str, Callable[[Fleet, Listeners], None]] = {
    "kill -9 of a generator": kill_a_generator,
    "restart of Envoy": restart_envoy,
    "kill -9 of Envoy": kill_envoy,
    "a full queue": fill_the_queue,
    "clients that stop reading": pause_clients,
    "uploads against memory": exhaust_memory,
    "rolling restart of everything": rolling_restart,
}


def main() -> int:
    # Whoever ends this early must not leave a fleet behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Inject faults under load.")
    parser.add_argument("--only", type=lambda text: text.split(","), help="parts of the faults' names, with commas")
    parser.add_argument(
        "--services", type=lambda text: text.split(","), default=[*SERVICES], help="that have replicas (default: all)"
    )
    arguments = parser.parse_args()
    chosen = {
        name: fault
        for name, fault in FAULTS.items()
        if not arguments.only or any(part in name for part in arguments.only)
    }
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder), arguments.services) as fleet:
        facts = run(fleet, chosen)
    print(json.dumps(facts))
    return 0 if facts["passed"] else 1


def run(fleet: Fleet, faults: dict[str, Callable[[Fleet, Listeners], None]]) -> dict[str, Any]:
    """Injects the faults one after the other; returns and prints what came of it."""
    expected = pieces(fleet.envoy.address, SEEDS)
    memory: dict[tuple[str, int], list[float]] = {}
    _weigh(fleet, memory)
    table = Table(
        "fault", "streams", "at once", "refused, came again", "samples lost", "broken", "deaths", "grew, MB", "s"
    )
    tallies: dict[str, Tally] = {}
    for name, fault in faults.items():
        begun, deaths = time.monotonic(), fleet.deaths
        listeners = Listeners(fleet.envoy.address, expected)
        fault(fleet, listeners)
        tally = tallies[name] = listeners.end()
        fleet.wait_well()
        cells = (tally.streams, tally.most_running, tally.refused, tally.samples_lost, len(tally.broken))
        seconds = time.monotonic() - begun
        _weigh(fleet, memory)
        grew = max((sizes[-1] - sizes[-2] for sizes in _alive(fleet, memory) if len(sizes) > 1), default=None)
        told = "all are new" if grew is None else f"{grew:.1f}"
        table.add_row(name, *map(str, cells), str(fleet.deaths - deaths), told, f"{seconds:.1f}")
        print(name, *cells, fleet.deaths, f"{seconds:.1f}", tally.broken[:3], file=sys.stderr, flush=True)
    growth: dict[str, float] = {}
    for (name, _), sizes in memory.items():
        if len(sizes) > 1:  # it has lived through a fault at least
            growth[name] = max(growth.get(name, -math.inf), round(sizes[-1] - sizes[0], 1))
    Console(width=140).print(table)
    retries = [seconds for tally in tallies.values() for seconds in tally.retry_seconds]
    facts: dict[str, Any] = {
        "faults": len(faults),
        "streams": sum(tally.streams for tally in tallies.values()),
        "most_streams_at_once": max(tally.most_running for tally in tallies.values()),
        "refused": sum(tally.refused for tally in tallies.values()),
        "retry_seconds": [round(min(retries), 2), round(max(retries), 2)] if retries else [],
        "samples_lost": sum(tally.samples_lost for tally in tallies.values()),
        "streams_broken": sum(len(tally.broken) for tally in tallies.values()),
        "deaths_not_asked_for": fleet.deaths,
        "memory_growth_megabytes": growth,
        "broken": [text for tally in tallies.values() for text in tally.broken][:10],
    }
    unharmed = not (facts["samples_lost"] or facts["streams_broken"] or facts["deaths_not_asked_for"])
    facts["passed"] = unharmed and all(megabytes < GROWTH_MEGABYTES for megabytes in growth.values())
    return facts


def _weigh(fleet: Fleet, memory: dict[tuple[str, int], list[float]]) -> None:
    """Adds what each process has grown to, to the list of its name and pid."""
    megabytes = fleet.megabytes
    for name, pid in _pids(fleet).items():
        memory.setdefault((name, pid), []).append(megabytes[name])


def _alive(fleet: Fleet, memory: dict[tuple[str, int], list[float]]) -> list[list[float]]:
    return [memory[one] for one in _pids(fleet).items()]


def _pids(fleet: Fleet) -> dict[str, int]:
    found = {f"{one.service} {one.port}": one.process.pid for one in fleet.replicas if one.process is not None}
    return {**found, "envoy": fleet.envoy.processes[-1].pid}


def _return(replica: Replica) -> None:
    replica.start()
    replica.wait_ready()
    # Envoy asks once a second.
    time.sleep(2.0)


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


if __name__ == "__main__":
    sys.exit(main())
