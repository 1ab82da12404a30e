"""Hostile callers in short; `python -m tests.abuse` does the same at length (make abuse)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.stack.stack import ROOT, Stack
from tests.abuse import calls, wire
from tests.abuse.calls import FINE, Codes
from tests.abuse.watch import Watch

GROWTH_MEGABYTES = 150.0
"""More than one decoded file may take for a while, less than a leak of what these tests send."""


@pytest.fixture(scope="module")
def watch(stack: Stack) -> Iterator[Watch]:
    watching = Watch(stack)
    yield watching
    assert max(watching.growth().values()) < GROWTH_MEGABYTES, watching.growth()


@pytest.mark.parametrize(
    "attack",
    [
        lambda stack: calls.malformed(stack, 150),
        calls.model_names,
        calls.prompts,
        calls.bombs,
        lambda stack: calls.slow_readers(stack, 6, 0.5),
        lambda stack: calls.idle(stack, 10, 1.0),
    ],
    ids=["malformed", "model_names", "prompts", "bombs", "slow_readers", "idle"],
)
def test_hostile_calls_get_the_codes_that_they_deserve(
    stack: Stack, watch: Watch, attack: Callable[[Stack], Codes]
) -> None:
    codes = attack(stack)
    assert codes and codes.keys() <= FINE, codes
    watch.assert_well()


def test_hostile_files_are_refused_and_no_pickle_is_loaded(stack: Stack, watch: Watch, tmp_path: Path) -> None:
    codes = calls.files(stack, tmp_path)
    assert codes.keys() <= FINE, codes
    watch.assert_well()


@pytest.mark.parametrize(
    "attack",
    [
        lambda stack: wire.http1(stack, 150),
        lambda stack: wire.http2(stack, 150),
        wire.large_bodies,
        calls.headers,
        lambda stack: wire.half_open(stack, 50),
        lambda stack: wire.connections(stack, 100),
    ],
    ids=["http1", "http2", "large_bodies", "headers", "half_open", "connections"],
)
def test_hostile_bytes_harm_nobody_else(stack: Stack, watch: Watch, attack: Callable[[Stack], Codes]) -> None:
    assert attack(stack)
    watch.assert_well()


def test_what_reads_requests_raises_what_callers_are_told_and_nothing_else(
    stack: Stack, watch: Watch, tmp_path: Path
) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.abuse.fuzz", "3000", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = calls.fuzzed(stack, tmp_path)
    assert codes and codes.keys() <= FINE, codes
    watch.assert_well()
