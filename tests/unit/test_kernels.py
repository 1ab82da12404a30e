"""How the CPU kernels are built and kept, and that the code for CPUs without AVX-512 says the same."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.models.conditions import RowConditions
from services.models.kernels import build
from services.models.native import NativeExecutor
from services.models.native_weights import PRECISIONS
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG
from tests.language_models import random_lm

ROOT = Path(__file__).parents[2]
GENERIC = {"x86_64": "x86-64-v3", "aarch64": "armv8-a"}[platform.machine()]
"""A CPU that the kernels have no instructions of their own for."""


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return random_lm(folder, LM_CONFIG.replace("num_layers: 6", "num_layers: 2"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for libraries."""
    monkeypatch.setenv("ANTIPHON_KERNELS", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Returns a function that makes the lines of a shell script the compiler; `calls` beside it lists its calls."""

    def become(lines: str) -> Path:
        script, calls = tmp_path / "c++", tmp_path / "calls"
        script.write_text(f'#!/bin/sh\ncalls={shlex.quote(str(calls))}\necho called >> "$calls"\n{lines}\n')
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        return calls

    return become


REAL = f'exec {shlex.join(build._compiler())} "$@" -O0'
"""The compiler, without the wait for its optimiser."""


def test_what_was_compiled_is_used_again(folder: Path, compiler: Callable[[str], Path]) -> None:
    calls = compiler(REAL)
    library = build.build()
    assert build.build() == library
    assert build.load().antiphon_step
    assert calls.read_text() == "called\n"
    assert list(folder.iterdir()) == [library]
    # An image is built by one user and run by another.
    assert library.stat().st_mode & 0o044 == 0o044


def test_another_compiler_or_another_cpu_gets_another_library(
    folder: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = compiler('while [ "$1" != -o ]; do shift; done; echo built > "$2"')
    first = build.build()
    monkeypatch.setenv("CXX", os.environ["CXX"] + " -DOTHER")
    second = build.build()
    monkeypatch.setattr(build, "_cpu", lambda: "flags: none")
    third = build.build()
    assert len({first, second, third}) == len(list(folder.iterdir())) == calls.read_text().count("called") == 3


def test_two_processes_that_build_at_once_both_succeed(folder: Path, compiler: Callable[[str], Path]) -> None:
    calls = compiler(f'while [ $(wc -l < "$calls") -lt 2 ]; do sleep 0.05; done\n{REAL}')
    code = "from services.models.kernels import build; print(build.load().antiphon_step)"
    command = ["timeout", "120", sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "antiphon_step" in output or "FuncPtr" in output
    assert calls.read_text().count("called") == 2, "they did not overlap"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo error: no such instruction >&2; exit 1", "error: no such instruction"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "can't be loaded"),
    ],
)
def test_a_compiler_that_fails_is_the_reason(
    folder: Path, compiler: Callable[[str], Path], lines: str, reason: str
) -> None:
    compiler(lines)
    with pytest.raises(build.NoCompiler, match=reason):
        build.load()
    if "exit 1" in lines:
        assert list(folder.iterdir()) == []


def test_no_compiler_is_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++ -O1")
    with pytest.raises(build.NoCompiler, match=r"/nowhere/c\+\+: "):
        build.build()
    assert list(folder.iterdir()) == []
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(build.NoCompiler, match=r"no C\+\+ compiler is there; hint: "):
        build.build()


def test_no_place_for_the_library_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANTIPHON_KERNELS", str(tmp_path / "file" / "kernels"))
    with pytest.raises(build.NoCompiler, match="hint: set ANTIPHON_KERNELS"):
        build.build()


def test_a_machine_takes_the_best_portable_library_that_it_runs_and_needs_no_compiler(
    folder: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image: built on one machine, run on another."""
    compiler(REAL)
    built = {path.name for path in build.build_portable()}
    levels = build._LEVELS[platform.machine()]
    sources = len(list(Path(build.__file__).parent.glob("*.cpp")))
    assert len(built) == sources * len(levels) == len(list(folder.iterdir()))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert build.load().antiphon_step
    assert build.load("codec").codec_push
    for level, (_, needed) in levels.items():
        monkeypatch.setattr(build, "_cpu", lambda needed=needed: f"flags : {' '.join(needed)}")
        assert build.build().name.startswith(f"decoder-{level}-")
    monkeypatch.setattr(build, "_cpu", lambda: "flags : fpu")
    with pytest.raises(build.NoCompiler, match="/nowhere"):
        build.build()


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as a CPU without AVX-512 gets them."""
    library = tmp_path_factory.mktemp("generic") / "decoder.so"
    flags = [f"-march={GENERIC}" if flag.startswith("-march") else flag for flag in build._FLAGS]
    source = Path(build.__file__).parent / "decoder.cpp"
    subprocess.run([*build._compiler(), *flags, "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


def source_of(length: int) -> torch.Tensor:
    return torch.randn(length, 192, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_generic_code_says_what_the_fast_says(
    lm: Any, generic: ctypes.CDLL, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To float rounding; in int8 and bf16 that of an input may tip it over to the next step of its scale."""
    conditions = [RowConditions(((source_of(21), 0.6), (source_of(5), 0.4))), RowConditions(((source_of(9), 1.0),))]
    tokens = torch.randint(lm.card, (50, 4), generator=torch.Generator().manual_seed(0))

    def follow(executor: NativeExecutor) -> torch.Tensor:
        state = executor.begin(conditions, len(tokens))
        return torch.cat([executor.step([state], [token[None]], [3.0]) for token in tokens])

    fast = NativeExecutor(lm, precision)
    monkeypatch.setattr(build, "load", lambda: generic)
    slow = NativeExecutor(lm, precision)
    found, expected = follow(slow), follow(fast)
    assert float((found - expected).abs().max()) < {"fp32": 1e-4, "bf16": 0.5, "int8": 0.5}[precision]
    assert float((found - expected).std() / expected.std()) < {"fp32": 1e-5, "bf16": 0.01, "int8": 0.01}[precision]
    # And it keeps its bits in any company.
    state, neighbour = slow.begin(conditions, len(tokens)), slow.begin(conditions[1:], 90)
    for start, end in ((0, 1), (1, 18), (18, 49), (49, 50)):
        logits = slow.step([neighbour, state], [tokens[: end - start], tokens[start:end]], [3.0, 3.0])
        assert torch.equal(logits[1], found[end - 1])
