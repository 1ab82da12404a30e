"""What Envoy does when replicas fail, drain or fill up: the real one, with the real configuration."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from antiphon import Client, ResourceExhaustedError
from antiphon.v1 import generator_pb2
from services.stack.ports import HOST, Ports
from services.stack.stack import ROOT, Stack
from tests.integration import calls, plain_service

GENERATOR = "/antiphon.v1.GeneratorService"


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Two generators without a model."""
    free = Ports.free()
    listening = [f"{HOST}:{free.services[name]}" for name in ("generator", "codec")]
    command = [sys.executable, "-m", plain_service.__name__, "generator"]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "ANTIPHON_LISTEN": address, "ANTIPHON_METRICS_LISTEN": ""},
            stdout=subprocess.DEVNULL,
        )
        for address in listening
    ]
    yield listening
    for process in processes:
        process.kill()
        process.wait()


def behind(addresses: list[str], folder: Path, **options: Any) -> Stack:
    """A stack whose generator cluster has these hosts."""
    hosts = {"generator": [(HOST, int(address.rpartition(":")[2])) for address in addresses]}
    return Stack(services=[], folder=folder, hosts=hosts, **options)


@contextmanager
def calling(stack: Stack) -> Iterator[grpc.Channel]:
    """A channel on which both have been seen to answer."""
    with stack, calls.connected(stack) as connection:
        calls.wait_serving(connection, "generator")
        while len(served(connection, "ListModels", times=8)) < 2:
            pass
        yield connection


@pytest.fixture(scope="module")
def retrying(addresses: list[str], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Both are called whatever they answer: no test sees who was ejected in another. `channel` starts it."""
    patch = {"static_resources": {"clusters": [{"name": "generator", "outlier_detection": None}]}}
    return behind(addresses, tmp_path_factory.mktemp("retries"), patch=patch)


@pytest.fixture(scope="module", autouse=True)
def channel(retrying: Stack) -> Iterator[grpc.Channel]:
    with calling(retrying) as connection:
        yield connection


def call(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> str:
    """Who answered a unary call; raises RpcError."""
    stub: Any = channel.unary_unary(f"{GENERATOR}/{method}")
    _, done = stub.with_call(b"", metadata=metadata, timeout=10)
    return str(dict(done.trailing_metadata())["x-listen"])


def codes(channel: grpc.Channel, method: str, times: int, *metadata: tuple[str, str]) -> Counter[str]:
    """How often which code came."""
    counted: Counter[str] = Counter()
    for _ in range(times):
        try:
            call(channel, method, *metadata)
            counted["OK"] += 1
        except grpc.RpcError as error:
            counted[error.code().name] += 1
    return counted


def served(channel: grpc.Channel, method: str, times: int) -> set[str]:
    return {call(channel, method) for _ in range(times)}


def trailers(error: Any) -> dict[str, str]:
    return dict(error.trailing_metadata())


def failing(kind: str, address: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("x-raise", kind), ("x-raise-at", address)


def test_an_idempotent_call_is_tried_on_another_replica(channel: grpc.Channel, addresses: list[str]) -> None:
    assert codes(channel, "ListModels", 4, *failing("Unavailable", addresses[0])) == {"OK": 4}


def test_a_call_that_may_have_been_begun_is_not_tried_again(channel: grpc.Channel, addresses: list[str]) -> None:
    counted = codes(channel, "Generate", 8, *failing("Unavailable", addresses[0]))
    assert counted.keys() == {"OK", "UNAVAILABLE"}


@pytest.mark.parametrize("method", ["ListModels", "Generate"])
def test_a_call_that_was_not_begun_goes_elsewhere(channel: grpc.Channel, addresses: list[str], method: str) -> None:
    assert codes(channel, method, 8, *failing("Elsewhere", addresses[0])) == {"OK": 8}


def test_a_stream_that_was_not_begun_goes_elsewhere(channel: grpc.Channel, addresses: list[str]) -> None:
    config = generator_pb2.GenerationConfig(prompts=[generator_pb2.WeightedPrompt(text="a")])
    config.duration.FromMilliseconds(100)
    first = generator_pb2.StreamGenerateRequest(config=config).SerializeToString()
    for _ in range(4):
        stub: Any = channel.stream_stream(f"{GENERATOR}/StreamGenerate")
        stream = stub(iter([first]), metadata=failing("Elsewhere", addresses[0]), timeout=10)
        calls.assert_whole([generator_pb2.StreamGenerateResponse.FromString(data) for data in stream], 0.1)


def test_streams_leave_a_replica_that_refuses_though_it_runs_least(channel: grpc.Channel, addresses: list[str]) -> None:
    config = generator_pb2.GenerationConfig(prompts=[generator_pb2.WeightedPrompt(text="a")])
    config.duration.FromSeconds(3)
    first = generator_pb2.StreamGenerateRequest(config=config).SerializeToString()
    stub: Any = channel.stream_stream(f"{GENERATOR}/StreamGenerate")
    streams = []
    for _ in range(6):
        streams.append(stub(iter([first]), metadata=failing("Elsewhere", addresses[0]), timeout=20))
        next(streams[-1])  # it runs, and the next one finds the other replica busier than this one
    for stream in streams:
        stream.cancel()


def test_http_callers_hear_of_a_full_service_when_to_come_again(retrying: Stack) -> None:
    request = urllib.request.Request(
        f"http://{retrying.address}/v1/generator/models", headers={"x-raise": "ResourceExhausted"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(request, timeout=10)
    assert caught.value.code == 429
    assert caught.value.headers["retry-after"] == "1"
    assert json.loads(caught.value.read())["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_what_is_between_services_and_envoy_stays_there(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Generate", ("x-raise", "Elsewhere"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "x-antiphon-elsewhere" not in trailers(caught.value)


def test_only_replicas_that_fail_again_and_again_are_left_alone(addresses: list[str], tmp_path: Path) -> None:
    stack = behind(addresses, tmp_path)
    with calling(stack) as channel:
        # Busy replicas, and what a caller can provoke, eject nobody.
        for kind in ("ResourceExhausted", "Internal", "Unimplemented"):
            counted = codes(channel, "Generate", 24, ("x-raise", kind))
            assert "OK" not in counted and "UNAVAILABLE" not in counted
        assert served(channel, "Generate", 8) == set(addresses)
        streams = [calls.generate(channel, 5.0) for _ in range(6)]
        for stream in streams:
            next(stream)
        # Envoy's own count; each stream that runs is a request of its host.
        page = calls.get(f"{stack.addresses['envoy admin']}/clusters")
        counts = [line.split("::") for line in page.splitlines() if "rq_active" in line]
        active = {host: int(count) for _, host, _, count in counts}
        assert max(active[address] for address in addresses) <= 4
        failures = 0
        while failures < 5:
            failures += codes(channel, "Generate", 1, *failing("Unavailable", addresses[0]))["UNAVAILABLE"]
        deadline = time.monotonic() + 8
        while served(channel, "Generate", 8) != {addresses[1]}:
            assert time.monotonic() < deadline
        # Those that run on it go on.
        for stream in streams:
            calls.assert_whole([generator_pb2.StreamGenerateResponse(started={}), *stream], 5.0)


def test_beyond_the_circuit_breaker_callers_hear_when_to_come_again(addresses: list[str], tmp_path: Path) -> None:
    limits = {"circuit_breakers": {"thresholds": [{"max_requests": 2, "max_retries": 3}]}}
    patch = {"static_resources": {"clusters": [{"name": "generator", **limits}]}}
    with behind(addresses, tmp_path, patch=patch) as stack, calls.connected(stack) as channel:
        calls.wait_serving(channel, "generator")
        streams = [calls.generate(channel, 2.0) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "Generate")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert trailers(caught.value)["retry-after"] == "1"
        with Client(stack.address, resume=False) as client, pytest.raises(ResourceExhaustedError) as refused:
            list(client.stream_generate("a song", duration=1.0))
        assert refused.value.retry_after_seconds == 1.0
        assert refused.value.reason == "TOO_MANY_CALLS"
        for stream in streams:
            calls.assert_whole([generator_pb2.StreamGenerateResponse(started={}), *stream], 2.0)
        assert call(channel, "Generate") in addresses


def test_no_connection_above_the_limit(addresses: list[str], tmp_path: Path) -> None:
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"max_active_downstream_connections": 3},
    }
    with behind(addresses, tmp_path, patch={"overload_manager": {"resource_monitors": [monitor]}}) as stack:
        with calls.connected(stack) as channel:
            calls.wait_serving(channel, "generator")
        held = [socket.create_connection((HOST, stack.ports.edge)) for _ in range(8)]
        for one in held:
            one.settimeout(1)
            with suppress(OSError):
                one.sendall(b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")

        def answered(one: socket.socket) -> bool:
            try:
                return one.recv(100).startswith(b"HTTP/1.1 ")
            except OSError:
                return False

        with ThreadPoolExecutor(8) as pool:
            assert 1 <= sum(pool.map(answered, held)) <= 3
        for one in held:
            one.close()
        with calls.connected(stack) as channel:
            calls.wait_serving(channel, "generator")
            assert call(channel, "Generate") in addresses
