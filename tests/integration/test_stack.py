"""The local stack: its processes live and die together. Most of it with services that have no model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import soundfile

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.stack.demo import record
from services.stack.errors import NotReadyError, PortTakenError, ProcessDiedError
from services.stack.picture import draw
from services.stack.ports import HOST, SERVICES, Ports
from services.stack.stack import ROOT, Stack
from tests.conftest import require
from tests.integration import calls, plain_service

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Waits until the condition holds; says whether it did."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def command_line(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Runs `python -m services.stack`."""
    command = [sys.executable, "-m", "services.stack", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_service_inherits_its_own_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTIPHON_SLOTS", "ANTIPHON_MODELS", "ANTIPHON_LOG_LEVEL", "ANTIPHON_MISSPELT"):
        monkeypatch.setenv(name, "x")
    plain = Stack(commands={name: ["sleep", "60"] for name in SERVICES})
    plain.start()
    try:
        variables = {name: psutil.Process(process.pid).environ() for name, process in plain.processes.items()}
    finally:
        plain.stop()
    for name in SERVICES:
        assert ("ANTIPHON_SLOTS" in variables[name]) == (name == "generator")
        # What belongs to all, and what belongs to none and is to be refused.
        assert {"ANTIPHON_LOG_LEVEL", "ANTIPHON_MISSPELT"} <= variables[name].keys()
    assert "ANTIPHON_MODELS" in variables["codec"]


def test_it_starts_every_process_and_leaves_none() -> None:
    with Stack(commands=plain_service.commands()) as plain:
        pids = {name: process.pid for name, process in plain.processes.items()}
        assert set(pids) == {"envoy", *SERVICES}
        # The pid is the command's own and not a shell's: tests and people send signals to it.
        assert psutil.Process(pids["codec"]).cmdline()[1:] == ["-m", plain_service.__name__, "codec"]
        assert plain.folder.is_dir()
    assert {process.returncode for process in plain.processes.values()} == {0}
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not plain.folder.exists()


def test_a_process_that_dies_is_named_and_takes_the_rest_with_it(tmp_path: Path) -> None:
    broken = Stack(commands=plain_service.commands(codec="broken"), folder=tmp_path)
    with pytest.raises(ProcessDiedError, match=r"(?s)codec exited with status 1.*no model: the folder is empty"):
        broken.__enter__()
    assert all(process.returncode is not None for process in broken.processes.values())


def test_a_process_that_is_killed_later_is_named(tmp_path: Path) -> None:
    with Stack(commands=plain_service.commands(), folder=tmp_path) as plain:
        psutil.Process(plain.processes["analyzer"].pid).kill()
        with pytest.raises(ProcessDiedError, match="analyzer was killed by signal 9"):
            plain.wait()


def test_a_service_that_never_gets_healthy_is_named(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    slow = Stack(services=["codec"], commands={"codec": sleeper}, folder=tmp_path)
    try:
        slow.start()
        with pytest.raises(NotReadyError, match="codec"):
            slow.wait_ready(seconds=0.5)
    finally:
        slow.stop()
    assert slow.processes["codec"].returncode == -signal.SIGTERM


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    commands = {"codec": [sys.executable, "-c", stubborn]}
    stack = Stack(services=["codec"], commands=commands, folder=tmp_path, grace_seconds=0.5)
    stack.start()
    assert eventually(lambda: "deaf" in stack.log("codec"))
    stack.stop()
    assert stack.processes["codec"].returncode == -signal.SIGKILL


def test_stop_lets_streams_finish_through_envoy() -> None:
    with (
        Stack(services=["generator"], commands=plain_service.commands()) as plain,
        calls.connected(plain) as channel,
    ):
        call = calls.generate(channel, 1.5)
        responses = [next(call), next(call)]
        stopping = threading.Thread(target=plain.stop)
        stopping.start()
        calls.assert_whole(responses + list(call), 1.5)
        stopping.join()


def test_the_demo_records_and_draws_a_stream(tmp_path: Path) -> None:
    with Stack(services=["generator"], commands=plain_service.commands()) as plain:
        take = record(plain.address, "$ilence", duration=0.5, seed=7, path=tmp_path / "new" / "demo.wav")
    samples, rate = soundfile.read(tmp_path / "new" / "demo.wav", always_2d=True)
    assert (samples.shape, rate) == ((16000, 1), 32000)
    assert take.samples.shape == (16000, 1)
    assert (take.seconds, take.chunks, take.peak, take.seed) == (0.5, 5, 0.0, 7)
    assert 0 < take.first_audio_seconds < take.total_seconds
    draw(take.samples, take.sample_rate_hz, take.prompt, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG_SIGNATURE)


def test_a_taken_port_is_named() -> None:
    with taken_port() as port, pytest.raises(PortTakenError, match=f"port {port} for Envoy"):
        Stack(ports=Ports.free(edge=port)).start()


def test_nothing_is_left_when_its_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from services.stack.stack import Stack\n"
        "from tests.integration import plain_service\n"
        "stack = Stack(services=['codec'], commands=plain_service.commands(), folder=Path(sys.argv[1]))\n"
        "stack.start()\n"
        "print(json.dumps([process.pid for process in stack.processes.values()]), flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = json.loads(owner.stdout.readline())
        assert len(pids) == 2
        owner.kill()
    assert eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_up_names_a_taken_port() -> None:
    with taken_port() as port, command_line("up", "--port", str(port)) as run:
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"error: port {port} for Envoy is in use" in errors
    assert "hint:" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_status_0(number: signal.Signals, tmp_path: Path) -> None:
    with command_line("demo", "--out", str(tmp_path)) as run:
        children = psutil.Process(run.pid)
        assert eventually(lambda: len(children.children(recursive=True)) >= 9)
        family = children.children(recursive=True)
        run.send_signal(number)
        output, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert "Stopped." in output
    assert not [process for process in family if process.is_running()]


# What follows runs the real services with their embedded models.


def test_every_service_is_healthy_through_envoy(stack: Stack) -> None:
    with calls.connected(stack) as channel:
        for name, service in SERVICES.items():
            assert calls.health(channel, service, name) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_reflection_lists_and_describes_each_service(stack: Stack, name: str) -> None:
    def grpcurl(*arguments: str) -> str:
        command = [
            require("grpcurl"),
            "-plaintext",
            "-H",
            f"x-antiphon-service: {name}",
            stack.address,
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    listed = grpcurl("list").split()
    assert {SERVICES[name], "grpc.health.v1.Health"} <= set(listed)
    assert "rpc ListModels" in grpcurl("describe", SERVICES[name])


def test_grpcurl_lists_the_default_model(stack: Stack) -> None:
    command = [require("grpcurl"), "-plaintext", stack.address, "antiphon.v1.GeneratorService/ListModels"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    model = json.loads(done.stdout)["models"][0]
    assert model["name"] == "tiny"
    assert model["is_default"] is True


def test_sigterm_in_mid_stream_loses_nothing() -> None:
    seconds = 8.0
    with Stack(services=["generator"], keep_going=True) as own, calls.connected(own) as channel:
        stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        rate = stub.ListModels(generator_pb2.GeneratorServiceListModelsRequest()).models[0].sample_rate_hz
        call = calls.generate(channel, seconds)
        responses = [next(call)]
        while responses[-1].WhichOneof("response") != "audio":
            responses.append(next(call))
        psutil.Process(own.processes["generator"].pid).terminate()
        calls.assert_whole(responses + list(call), seconds, rate)
        assert call.code() == grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as caught:
            list(calls.generate(channel, 1.0))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert eventually(lambda: own.processes["generator"].returncode == 0)


def test_a_client_that_disconnects_frees_its_slot(stack: Stack) -> None:
    def slots_active() -> float:
        lines = calls.get(stack.addresses["generator metrics"]).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("antiphon_slots_active"))

    program = (
        "import sys, time\n"
        "import grpc\n"
        "from services.stack.stack import CHANNEL_OPTIONS\n"
        "from tests.integration import calls\n"
        "call = calls.generate(grpc.insecure_channel(sys.argv[1], CHANNEL_OPTIONS), 20.0)\n"
        "while next(call).WhichOneof('response') != 'audio': pass\n"
        "print('playing', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, stack.address]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "playing\n"
        assert slots_active() == 1
        # A killed client says no goodbye: Envoy sees the connection go, and passes it on.
        client.kill()
    assert eventually(lambda: slots_active() == 0)


def test_demo_writes_music_and_a_picture(tmp_path: Path) -> None:
    with command_line("demo", "--duration", "2", "--seed", "5", "--out", str(tmp_path)) as run:
        output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    samples, rate = soundfile.read(tmp_path / "demo.wav", always_2d=True)
    assert len(samples) == 2 * rate
    assert np.abs(samples).max() > 0.01
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG_SIGNATURE)
    for row in ("time to first audio", "real-time factor", "chunks", "peak", "seed"):
        assert row in output
