"""What a service refuses, what it tells the edge of it, and who may reach its Unix socket."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from antiphon.v1 import generator_pb2 as pb
from antiphon.v1 import generator_pb2_grpc as pb_grpc
from services.runtime.metrics import Metrics
from services.runtime.server import Server
from tests.integration.tiny_service import TinyService, counting, details, prompt, running, settings

TINY = (("x-client-id", "ann"),)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a unary call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_client_has_a_limit_of_its_own() -> None:
    async with running(max_concurrent_rpcs_per_client=1) as up:
        stream = up.stub.StreamGenerate(iter([counting(10**6)]), metadata=TINY)
        await stream.read()
        error = await refused(up.stub.Generate(pb.GenerateRequest(), metadata=TINY))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(error)["ErrorInfo"].reason == "CLIENT_LIMIT"
        assert "x-antiphon-elsewhere" not in dict(error.trailing_metadata())
        await up.stub.Generate(pb.GenerateRequest(), metadata=(("x-client-id", "bob"),))
        stream.cancel()
        await up.handled("bidi_stream", "StreamGenerate", "CANCELLED")
        await up.stub.Generate(pb.GenerateRequest(), metadata=TINY)


async def test_without_a_name_the_host_is_the_client() -> None:
    async with running(max_concurrent_rpcs_per_client=1) as up:
        stream = up.stub.StreamGenerate(iter([counting(10**6)]))
        await stream.read()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{up.server.port}") as other:
            error = await refused(pb_grpc.GeneratorServiceStub(other).Generate(pb.GenerateRequest()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream.cancel()


async def test_a_full_service_says_when_to_come_again_and_that_others_may_be_tried() -> None:
    async with running(max_concurrent_rpcs=1) as up:
        stream = up.stub.StreamGenerate(iter([counting(10**6)]))
        await stream.read()
        told = dict((await refused(up.stub.Generate(pb.GenerateRequest()))).trailing_metadata())
        assert (told["retry-after"], told["x-antiphon-elsewhere"]) == ("1", "true")
        stream.cancel()


async def test_a_time_to_come_again_is_whole_seconds_and_no_promise_of_others() -> None:
    async with running() as up:
        error = await refused(up.stub.Generate(pb.GenerateRequest(config=prompt("full"))))
        assert dict(error.trailing_metadata())["retry-after"] == "3"
        assert "x-antiphon-elsewhere" not in dict(error.trailing_metadata())


async def test_what_loads_sends_callers_elsewhere() -> None:
    async with running(TinyService(load_seconds=0.5), ready=False) as up:
        error = await refused(up.stub.Generate(pb.GenerateRequest()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata())["x-antiphon-elsewhere"] == "true"


async def test_a_unix_socket_is_for_its_owner_and_group_and_leaves_with_the_server(tmp_path: Path) -> None:
    socket = tmp_path / "service.sock"
    server = Server(TinyService(), settings(listen=f"unix:{socket}"), Metrics(CollectorRegistry()))
    await server.start()
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    await server.wait_ready()
    second = Server(TinyService(), settings(listen=f"unix:{socket}"), Metrics(CollectorRegistry()))
    with pytest.raises(RuntimeError, match="another process listens there"):
        await second.start()
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        await pb_grpc.GeneratorServiceStub(channel).Generate(pb.GenerateRequest())
    await server.drain()
    assert not socket.exists()


async def test_a_socket_that_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = Server(TinyService(), settings(listen=f"unix:{path}"), Metrics(CollectorRegistry()))
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await pb_grpc.GeneratorServiceStub(channel).Generate(pb.GenerateRequest())
    await server.drain()
