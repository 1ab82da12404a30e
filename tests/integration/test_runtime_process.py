"""A service as a process: signals, exit statuses, tracing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from antiphon.v1 import generator_pb2 as pb
from antiphon.v1 import generator_pb2_grpc as pb_grpc
from tests.integration.tiny_service import NOT_SERVING, counting, prompt

ROOT = Path(__file__).parents[2]


class Process:
    """The tiny service as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def output(self) -> str:
        out, _ = await self.process.communicate()
        return out.decode()


async def start_process(**environment: str) -> Process:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.tiny_service"),
        cwd=ROOT,
        env={
            **os.environ,
            "ANTIPHON_LISTEN": f"127.0.0.1:{port}",
            "ANTIPHON_METRICS_LISTEN": "",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return Process(process, port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_mid_stream_loses_nothing(number: signal.Signals) -> None:
    process = await start_process()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        stub = pb_grpc.GeneratorServiceStub(channel)
        stream = stub.StreamGenerate(wait_for_ready=True)
        await stream.write(counting(100, wait=True))
        replies: list[Any] = [await stream.read()]
        process.process.send_signal(number)
        while True:
            # The signal takes a moment; from then on new calls are refused while the stream goes on.
            with suppress(grpc.aio.AioRpcError):
                await stub.Generate(pb.GenerateRequest(), timeout=5)
                continue
            break
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(pb.GenerateRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stream.write(pb.StreamGenerateRequest())
        while (reply := await stream.read()) is not grpc.aio.EOF:
            replies.append(reply)
        assert [reply.progress.steps for reply in replies] == list(range(100))
        assert await stream.code() is grpc.StatusCode.OK
    output = await process.output()
    assert process.process.returncode == 0, output
    assert '"message": "serving"' in output and '"ready_seconds"' in output


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps the spans."""

    def __init__(self) -> None:
        self.resources: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the name is OpenTelemetry's)
        self.resources += request.resource_spans
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_go_to_the_collector_that_the_environment_names() -> None:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    process = await start_process(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        stub = pb_grpc.GeneratorServiceStub(channel)
        await stub.Generate(
            pb.GenerateRequest(),
            metadata=(("traceparent", f"00-{'a1' * 16}-{'b2' * 8}-01"),),
            wait_for_ready=True,
        )
        with suppress(grpc.aio.AioRpcError):
            await stub.Generate(pb.GenerateRequest(config=prompt("crash")))
    process.process.terminate()
    output = await process.output()
    assert process.process.returncode == 0, output
    await server.stop(None)

    spans = [span for resource in collector.resources for scope in resource.scope_spans for span in scope.spans]
    good, bad = [span for span in spans if span.name == "antiphon.v1.GeneratorService/Generate"]
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == ("a1" * 16, "b2" * 8)
    attributes = {each.key: each.value for each in bad.attributes}
    assert attributes["rpc.method"].string_value == "Generate"
    assert attributes["rpc.grpc.status_code"].int_value == 13
    assert (good.status.code, bad.status.code) == (0, 2)
    names = {each.key: each.value.string_value for each in collector.resources[0].resource.attributes}
    assert names["service.name"] == "antiphon-generator"
    assert "secret" not in str(spans)


async def test_a_second_signal_ends_at_once() -> None:
    process = await start_process()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        stream = pb_grpc.GeneratorServiceStub(channel).StreamGenerate(iter([counting(10**6)]), wait_for_ready=True)
        await stream.read()
        process.process.terminate()
        assert process.process.stdout is not None
        await process.process.stdout.readuntil(b'"draining"')
        process.process.terminate()
        await process.output()
        assert process.process.returncode == -signal.SIGTERM


async def test_a_signal_while_loading_exits_cleanly() -> None:
    process = await start_process(TINY_LOAD_SECONDS="60")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        assert (await check).status == NOT_SERVING
    process.process.terminate()
    output = await process.output()
    assert process.process.returncode == 0, output


async def test_a_model_that_does_not_load_ends_the_process() -> None:
    process = await start_process(TINY_LOAD_ERROR="no weights in tiny/")
    output = await process.output()
    assert process.process.returncode == 1
    assert "could not load" in output and "no weights in tiny/" in output


async def test_a_misspelt_setting_ends_the_process() -> None:
    process = await start_process(ANTIPHON_LISTN="127.0.0.1:1")
    output = await process.output()
    assert process.process.returncode == 2
    assert output == ("error: ANTIPHON_LISTN is not a setting of this service\nhint: did you mean ANTIPHON_LISTEN?\n")
