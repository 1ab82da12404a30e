"""The command line, as a process of its own, against a real server."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import antiphon
from tests.integration.client_server import Served, piece_codes, served, tone

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


def antiphon_cli(*arguments: str, target: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "antiphon.cli", *arguments]
    environment = {"ANTIPHON_TARGET": target, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, timeout=30, check=False, env=environment)


def frames(content: bytes) -> bytes:
    with wave.open(io.BytesIO(content)) as wav:
        content_frames: bytes = wav.readframes(wav.getnframes())
    return content_frames


def test_generate_writes_what_was_streamed(server: Served, tmp_path: Path) -> None:
    out, codes = tmp_path / "out.wav", tmp_path / "codes.npy"
    options = ["--duration", "2", "--temperature", "0.5", "--top-k", "9", "--top-p", "0", "--cfg-coef", "2"]
    more = ["--model", "tiny", "--seed", "5", "--greedy", "--codes", str(codes), "--target", server.target]
    done = antiphon_cli("generate", "slow sad piano", "-o", str(out), *options, *more, target="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert frames(out.read_bytes()) == tone(0, 16000).tobytes()
    np.testing.assert_array_equal(np.load(codes), piece_codes(0, 100))
    config = server.generator.configs[-1]
    assert (config.model, config.seed, config.sampling.use_sampling) == ("tiny", 5, False)
    assert (config.sampling.temperature, config.sampling.top_k, config.sampling.cfg_coef) == (0.5, 9, 2)
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("1.0 of 2.0 s, ")
    assert lines[-1].startswith(f"{out}: 2.0 s, 8000 Hz, seed 5, ")
    assert "x real time, first audio after " in lines[-1]


def test_prompts_are_mixed(server: Served, tmp_path: Path) -> None:
    mix = ["--weight", "2", "--mix", "fast drums=0.5", "--mix", "a=b=1e-1", "--duration", "0.1"]
    done = antiphon_cli("generate", "slow piano", "-o", str(tmp_path / "out.wav"), *mix, target=server.target)
    assert done.returncode == 0, done.stderr
    prompts = [(prompt.text, round(prompt.weight, 6)) for prompt in server.generator.configs[-1].prompts]
    assert prompts == [("slow piano", 2.0), ("fast drums", 0.5), ("a=b", 0.1)]


def test_a_broken_connection_is_taken_up_again_unless_told_otherwise(server: Served, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    done = antiphon_cli("generate", "lost", "-o", str(out), "--duration", "1", target=server.target)
    assert done.returncode == 0, done.stderr
    assert frames(out.read_bytes()) == tone(0, 8000).tobytes()
    assert server.generator.configs[-1].resume.received_samples == 800
    calls = len(server.generator.configs)
    arguments = ["lost", "-o", str(out), "--duration", "1", "--no-resume"]
    done = antiphon_cli("generate", *arguments, target=server.target)
    assert done.returncode == 1
    assert "error: " in done.stderr.decode() and "the server goes away" in done.stderr.decode()
    assert frames(out.read_bytes()) == tone(0, 800).tobytes()
    assert len(server.generator.configs) == calls + 1


def test_a_terminal_gets_a_bar(server: Served, tmp_path: Path) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-m", "antiphon.cli", "generate", "x", "-o", str(tmp_path / "out.wav")]
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([*command, "--target", server.target], stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        # Reading from a terminal whose other side is closed fails on Linux.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 65536):
                shown += piece
    os.close(master)
    assert process.returncode == 0
    assert b"10.0 of 10.0 s, " in shown
    assert b"x real time, first audio after " in shown
    assert b"\x1b[2K" in shown


def test_generate_to_stdout(server: Served) -> None:
    done = antiphon_cli("generate", "x", "-o", "-", "--duration", "0.5", target=server.target)
    assert done.returncode == 0, done.stderr
    assert frames(done.stdout) == tone(0, 4000).tobytes()


@pytest.mark.parametrize("prompt", ["-slow piano", "--output", "тихая арфа 🎵", ""])
def test_prompts_of_all_kinds(server: Served, tmp_path: Path, prompt: str) -> None:
    out = str(tmp_path / "out.wav")
    done = antiphon_cli("generate", "-o", out, "--duration", "0.1", "--", prompt, target=server.target)
    assert done.returncode == 0, done.stderr
    assert server.generator.configs[-1].prompts[0].text == prompt


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["busy"], "error: queue: 4 requests wait already", "try again in 2.5 s"),
        (["x", "--duration", "-1"], "error: config.duration: -1 s is not above 0", "--help"),
        (["x", "--duration", "nan"], "error: duration: nan is not a length of time in seconds", "--help"),
        (["x", "--model", "huge"], "error: model: huge is not loaded", "antiphon models"),
        (["crash"], "error: Exception iterating responses: a fault of the server", "request "),
        (["hang", "--timeout", "0.5"], "error: Deadline Exceeded", "--timeout"),
        (["x", "--target", "127.0.0.1:1"], "error: 127.0.0.1:1: no answer", "ANTIPHON_TARGET"),
        (["x", "-o", "/nowhere/out.wav"], "error: /nowhere/out.wav: No such file", "another path"),
        (["x", "--melody", "/nowhere/in.wav"], "error: /nowhere/in.wav: No such file", "another path"),
    ],
)
def test_errors_are_two_lines(server: Served, tmp_path: Path, arguments: list[str], error: str, hint: str) -> None:
    done = antiphon_cli("generate", "-o", str(tmp_path / "out.wav"), *arguments, target=server.target)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[-2].startswith(error)
    assert lines[-1].startswith("hint: ")
    assert hint in lines[-1]
    assert "Traceback" not in done.stderr.decode()


CONTRADICTIONS = [
    ["generate", "x", "-o", "-", *more]
    for more in (
        ["--mix", "drums"],
        ["--mix", "drums=loud"],
        ["--endless", "--duration", "3"],
        ["--melody", "a.wav", "--continue-from", "b.wav"],
    )
]


@pytest.mark.parametrize(
    "arguments", [[], ["sing"], ["generate"], ["generate", "-slow"], ["generate", "x"], *CONTRADICTIONS]
)
def test_wrong_usage(server: Served, arguments: list[str]) -> None:
    done = antiphon_cli(*arguments, target=server.target)
    assert done.returncode == 2
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: antiphon")


def test_failing_in_mid_stream_keeps_what_came(server: Served, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    done = antiphon_cli("generate", "late failure", "-o", str(out), target=server.target)
    assert done.returncode == 1
    assert frames(out.read_bytes()) == tone(0, 800).tobytes()
    assert f"{out}: 0.1 s, " in done.stderr.decode()


def test_ctrl_c_leaves_a_valid_file(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    with served() as server:
        command = [sys.executable, "-m", "antiphon.cli", "generate", "hang", "-o", str(out)]
        with subprocess.Popen([*command, "--target", server.target], stderr=subprocess.PIPE) as process:
            while not (out.exists() and len(out.read_bytes()) > 44):
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)  # the processor is for the command
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert server.generator.ended.wait(10)
    assert frames(out.read_bytes()) == tone(0, 800).tobytes()
    assert stderr.decode().splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr.decode()


def test_models_and_health(server: Served) -> None:
    done = antiphon_cli("models", target=server.target)
    assert done.returncode == 0
    assert len(done.stdout.decode().splitlines()) == 4
    assert "tiny (default)" in done.stdout.decode()
    done = antiphon_cli("health", target=server.target)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == [
        "generator", "SERVING", "codec", "SERVING", "analyzer", "SERVING",
    ]  # fmt: skip


def test_models_and_health_of_half_a_stack() -> None:
    with served(analyzer=False) as server:
        done = antiphon_cli("models", target=server.target)
        assert done.returncode == 0
        assert len(done.stdout.decode().splitlines()) == 3
        assert done.stderr.decode().startswith("error: analyzer: ")
        done = antiphon_cli("health", target=server.target)
        assert done.returncode == 1
        assert "NOT_SERVING" in done.stdout.decode()
    for command in ("models", "health"):
        done = antiphon_cli(command, target="127.0.0.1:1")
        assert done.returncode == 1
        assert b"hint: " in done.stderr


def test_version(server: Served) -> None:
    done = antiphon_cli("--version", target=server.target)
    assert (done.returncode, done.stdout.decode()) == (0, f"antiphon {antiphon.__version__}\n")
