"""The runtime around a service: health, errors, metrics, limits, drain; real servers, real stubs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from antiphon.v1 import generator_pb2 as pb
from antiphon.v1 import generator_pb2_grpc as pb_grpc
from services.runtime.metrics import Metrics
from services.runtime.server import Server
from tests.integration.tiny_service import (
    NAME,
    NOT_SERVING,
    SERVING,
    TinyService,
    counting,
    details,
    prompt,
    running,
    settings,
)


async def test_health_follows_the_life_of_the_service() -> None:
    async with running(TinyService(load_seconds=0.3), ready=False, drain_delay_seconds=0.3) as up:
        assert [await up.status(), await up.status("")] == [NOT_SERVING, NOT_SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await up.stub.Generate(pb.GenerateRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details(caught.value)["RetryInfo"].retry_delay.seconds == 1

        watch = up.health.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == NOT_SERVING
        await up.server.wait_ready()
        assert (await watch.read()).status == SERVING
        assert [await up.status(), await up.status("")] == [SERVING, SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await up.status("antiphon.v1.Nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        drain = asyncio.create_task(up.server.drain())
        assert (await watch.read()).status == NOT_SERVING
        assert await up.status("") == NOT_SERVING
        await drain
        assert up.service.closed == 1


async def test_reflection_lists_the_service() -> None:
    async with running() as up:
        stub = reflection_pb2_grpc.ServerReflectionStub(up.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {service.name for service in (await call.read()).list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("kind", ["unary", "server_stream", "bidi_stream"])
@pytest.mark.parametrize(
    ("name", "code", "fields"),
    [
        ("invalid", "INVALID_ARGUMENT", ["config.duration", "config.seed"]),
        ("missing", "NOT_FOUND", ["config.model"]),
        ("early", "FAILED_PRECONDITION", ["prompt_audio"]),
        ("cannot", "UNIMPLEMENTED", ["config.resume"]),
        ("full", "RESOURCE_EXHAUSTED", []),
        ("down", "UNAVAILABLE", []),
        ("late", "DEADLINE_EXCEEDED", []),
        ("ours", "INTERNAL", []),
        ("crash", "INTERNAL", []),
    ],
)
async def test_errors_carry_their_details(kind: str, name: str, code: str, fields: list[str]) -> None:
    async with running() as up:
        metadata = (("x-request-id", "call-1"),)
        if kind == "unary":
            method, call = (
                "Generate",
                up.stub.Generate(pb.GenerateRequest(config=prompt(name)), metadata=metadata),
            )
        elif kind == "server_stream":
            method, call = (
                "GenerateFile",
                up.stub.GenerateFile(pb.GenerateFileRequest(text=name), metadata=metadata),
            )
        else:
            first = pb.StreamGenerateRequest(config=prompt(name))
            method, call = "StreamGenerate", up.stub.StreamGenerate(iter([first]), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call if kind == "unary" else [message async for message in call]
        error = caught.value
        assert error.code().name == code
        found = details(error)
        assert (
            [violation.field for violation in found["BadRequest"].field_violations] == fields
            if fields
            else ("BadRequest" not in found)
        )
        assert found["ErrorInfo"].domain == "antiphon"
        assert found["ErrorInfo"].reason == ("QUEUE_FULL" if name == "full" else code)
        assert found["RequestInfo"].request_id == "call-1"
        assert dict(error.trailing_metadata())["x-request-id"] == "call-1"
        if name == "full":
            assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() == 2.5
        if name == "crash":
            assert error.details() == "internal error"
            assert b"secret" not in dict(error.trailing_metadata())["grpc-status-details-bin"]
        await up.handled(kind, method, code)


async def test_an_early_error_sends_no_metadata_ahead() -> None:
    async with running() as up:
        call = up.stub.StreamGenerate(iter([pb.StreamGenerateRequest(config=prompt("missing"))]))
        assert not tuple(await call.initial_metadata())
        assert await call.code() is grpc.StatusCode.NOT_FOUND


async def test_a_crash_is_logged_with_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="antiphon"):
        async with running() as up:
            with pytest.raises(grpc.aio.AioRpcError):
                await up.stub.Generate(pb.GenerateRequest(config=prompt("crash")))
    crash = next(record for record in caplog.records if record.name == "antiphon.calls")
    assert crash.exc_info and "secret of the insides" in str(crash.exc_info[1])
    access = [record for record in caplog.records if record.name == "antiphon.access"]
    assert [vars(record)["grpc_code"] for record in access] == ["INTERNAL"]


async def test_the_request_id_makes_the_round_trip() -> None:
    async with running() as up:
        request = pb.GenerateRequest(config=prompt("context"))
        call = up.stub.Generate(request, metadata=(("x-request-id", "a1-b2"),), timeout=20)
        assert (await call).audio == b"a1-b2 True"
        assert dict(await call.trailing_metadata())["x-request-id"] == "a1-b2"
        call = up.stub.Generate(request)
        made, has_deadline = (await call).audio.decode().split()
        assert (len(made), has_deadline) == (36, "False")
        assert dict(await call.trailing_metadata())["x-request-id"] == made


async def test_bytes_that_are_no_message_are_the_callers_error() -> None:
    async with running() as up:
        for method, call in (
            ("Generate", up.channel.unary_unary(f"/{NAME}/Generate")(b"\xff\xff")),
            ("StreamGenerate", up.channel.stream_stream(f"/{NAME}/StreamGenerate")(iter([b"\xff\xff"]))),
        ):
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "ValueError" not in await call.details()
            await up.handled("unary" if method == "Generate" else "bidi_stream", method, "INVALID_ARGUMENT")


async def test_ok_is_counted_for_every_kind_of_method() -> None:
    async with running() as up:
        await up.stub.Generate(pb.GenerateRequest())
        assert len([body async for body in up.stub.GenerateFile(pb.GenerateFileRequest())]) == 1
        assert len([reply async for reply in up.stub.StreamGenerate(iter([counting(3)]))]) == 3
        assert await up.channel.stream_unary("/test.Sink/Collect")(iter([b"a", b"b"])) == b"ab"
        await up.handled("unary", "Generate", "OK")
        await up.handled("server_stream", "GenerateFile", "OK")
        await up.handled("bidi_stream", "StreamGenerate", "OK")
        await up.handled("client_stream", "Collect", "OK", "test.Sink")
        labels = {"grpc_type": "unary", "grpc_service": NAME, "grpc_method": "Generate"}
        for metric in ("grpc_server_started_total", "grpc_server_handling_seconds_count"):
            assert up.metrics.registry.get_sample_value(metric, labels) == 1


async def test_a_client_that_leaves_is_counted_and_its_stream_closed() -> None:
    async def silence() -> AsyncIterator[bytes]:
        yield b"wait"
        await asyncio.sleep(30)

    async with running() as up:
        file = up.stub.GenerateFile(pb.GenerateFileRequest(kind="endless"))
        stream = up.stub.StreamGenerate(iter([counting(10**6)]))
        assert await file.read() and await stream.read()
        unary = up.stub.ListModels(pb.GeneratorServiceListModelsRequest())
        sink = up.channel.stream_unary("/test.Sink/Collect")(silence())
        await up.started("unary", "ListModels")
        await up.started("client_stream", "Collect", "test.Sink")
        for call in (file, stream, unary, sink):
            call.cancel()
        await up.handled("server_stream", "GenerateFile", "CANCELLED")
        await up.handled("bidi_stream", "StreamGenerate", "CANCELLED")
        await up.handled("unary", "ListModels", "CANCELLED")
        await up.handled("client_stream", "Collect", "CANCELLED", "test.Sink")
        assert up.service.servicer.closed_streams == 2


async def test_a_passed_deadline_and_a_handlers_own_status_are_counted() -> None:
    async with running() as up:
        with pytest.raises(grpc.aio.AioRpcError):
            await up.stub.ListModels(pb.GeneratorServiceListModelsRequest(), timeout=0.2)
        await up.handled("unary", "ListModels", "DEADLINE_EXCEEDED")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await up.stub.Generate(pb.GenerateRequest(config=prompt("abort")))
        assert caught.value.details() == "by hand"
        await up.handled("unary", "Generate", "DATA_LOSS")


async def test_calls_above_the_limit_are_refused_and_health_is_not() -> None:
    async with running(max_concurrent_rpcs=1) as up:
        stream = up.stub.StreamGenerate(iter([counting(10**6)]))
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await up.stub.Generate(pb.GenerateRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "RetryInfo" in details(caught.value)
        assert await up.status() == SERVING
        stream.cancel()
        await up.handled("bidi_stream", "StreamGenerate", "CANCELLED")
        await up.stub.Generate(pb.GenerateRequest())


async def test_a_stream_past_the_grace_is_told_why(caplog: pytest.LogCaptureFixture) -> None:
    async with running(drain_grace_seconds=0.2) as up:
        replies = aiter(up.stub.StreamGenerate(iter([counting(10**6)])))
        await anext(replies)
        await up.server.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [reply async for reply in replies]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "RetryInfo" in details(caught.value)
        assert (up.service.servicer.closed_streams, up.service.closed) == (1, 1)
    cut = next(record for record in caplog.records if record.message == "streams cut off")
    assert vars(cut)["streams"] == 1


async def test_a_second_server_on_the_port_fails() -> None:
    async with running() as up:
        second = Server(TinyService(), settings(listen=f"127.0.0.1:{up.server.port}"), up.metrics)
        with pytest.raises(RuntimeError):
            await second.start()


async def test_wait_ready_raises_what_load_raised() -> None:
    async with running(TinyService(error=OSError("no weights")), ready=False) as up:
        with pytest.raises(OSError, match="no weights"):
            await up.server.wait_ready()
        assert await up.status() == NOT_SERVING
    assert up.service.closed == 0


async def test_metrics_have_their_own_port_and_a_unix_socket_serves(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    metrics = Metrics(CollectorRegistry())
    server = Server(TinyService(), settings(listen=path, metrics_listen="127.0.0.1:0"), metrics)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(path) as channel:
        await pb_grpc.GeneratorServiceStub(channel).Generate(pb.GenerateRequest())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.metrics_port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    assert 'antiphon_build_info{service="generator",version=' in page
    assert 'grpc_method="Generate",grpc_service="antiphon.v1.GeneratorService",grpc_type="unary"} 1.0' in page
    await server.drain()
