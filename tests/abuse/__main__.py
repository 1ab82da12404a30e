"""`python -m tests.abuse`: the whole hostile suite against a stack of its own; the last line is one JSON object.

5,000 malformed requests, half of them gRPC's and half of them HTTP's, and everything else that a stranger may try. It
ends with status 1 when a code came that is our fault, when something died, is held or grew, or when the piece that a
good caller gets in between is not the one that it was before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from services.stack.stack import Stack
from tests.abuse import calls, wire
from tests.abuse.calls import FINE, Codes
from tests.abuse.watch import Watch

GROWTH_MEGABYTES = 300.0
HTTP_FAULTS = wire.SERVER_ERRORS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description="Attack a stack on this machine.")
    parser.add_argument("--requests", type=int, default=5000, help="malformed requests (default: 5000)")
    parser.add_argument("--connections", type=int, default=500, help="connections at one time (default: 500)")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long idle streams idle (default: 60)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(folder=Path(folder) / "stack") as stack:
        facts = attack(stack, Path(folder), arguments)
    print(json.dumps(facts))
    return 0 if facts["passed"] else 1


def attack(stack: Stack, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs every attack, and looks after each whether all is well."""
    half = arguments.requests // 2
    corpus = folder / "corpus"
    corpus.mkdir()
    attacks: dict[str, Callable[[], Codes]] = {
        "malformed gRPC": lambda: calls.malformed(stack, half),
        "malformed HTTP/1": lambda: wire.http1(stack, half - half // 2),
        "malformed HTTP/2": lambda: wire.http2(stack, half // 2),
        "fuzzed (atheris)": lambda: _fuzzed(stack, corpus),
        "model names": lambda: calls.model_names(stack),
        "prompts": lambda: calls.prompts(stack),
        "files and pickles": lambda: calls.files(stack, folder),
        "bombs": lambda: calls.bombs(stack),
        "giant headers": lambda: calls.headers(stack),
        "giant bodies": lambda: wire.large_bodies(stack),
        "slow readers": lambda: calls.slow_readers(stack, 12, 5.0),
        "half-open": lambda: wire.half_open(stack, 200),
        "letter by letter": lambda: wire.slow_headers(stack),
        "connections": lambda: wire.connections(stack, arguments.connections),
        "idle streams": lambda: calls.idle(stack, 40, arguments.idle_seconds),
    }
    watch = Watch(stack)
    table = Table("attack", "sent", "codes", "seconds", "after it")
    counts: dict[str, dict[str, int]] = {}
    failures = []
    for name, run in attacks.items():
        begun = time.monotonic()
        verdict = "well"
        try:
            counts[name] = dict(run())
            ours = {code for code in counts[name] if code not in FINE and not code.isdigit() and code.isupper()}
            assert not (ours | HTTP_FAULTS & counts[name].keys()), counts[name]
            watch.assert_well()
        except (AssertionError, grpc.RpcError) as error:
            # Also when a good caller was not served: the others still have their turn.
            verdict = str(error).strip().splitlines()[0][:200]
            failures.append(f"{name}: {verdict}")
        found = counts.get(name, {})
        told = " ".join(f"{code}:{count}" for code, count in sorted(found.items(), key=lambda item: -item[1]))
        table.add_row(name, str(sum(found.values())), told, f"{time.monotonic() - begun:.1f}", verdict)
        print(name, found, verdict, file=sys.stderr, flush=True)
    growth = watch.growth()
    if max(growth.values()) > GROWTH_MEGABYTES:
        failures.append(f"memory: {growth}")
    Console(width=140).print(table)
    return {
        "requests": sum(sum(found.values()) for found in counts.values()),
        "malformed": sum(sum(counts.get(name, {}).values()) for name in attacks if name.startswith("malformed")),
        "codes": counts,
        "memory_growth_megabytes": growth,
        "failures": failures,
        "passed": not failures,
    }


def _fuzzed(stack: Stack, corpus: Path) -> Codes:
    command = [sys.executable, "-m", "tests.abuse.fuzz", "50000", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return calls.fuzzed(stack, corpus)


if __name__ == "__main__":
    sys.exit(main())
