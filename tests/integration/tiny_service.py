# The methods bear the names of the contract.
# ruff: noqa: N802
"""A generator without a model, for the tests of the runtime.

`python -m tests.integration.tiny_service` runs it as a process. TINY_LOAD_SECONDS says how long its load
takes, TINY_LOAD_ERROR what it fails with.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from antiphon.v1 import audio_pb2
from antiphon.v1 import generator_pb2 as pb
from antiphon.v1 import generator_pb2_grpc as pb_grpc
from services.runtime import errors
from services.runtime.config import ServiceSettings, load_settings
from services.runtime.context import remaining_seconds, request_id
from services.runtime.metrics import Metrics
from services.runtime.server import Server, run

NAME = "antiphon.v1.GeneratorService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def failure(name: str) -> Exception:
    """The error that a prompt asks for."""
    return {
        "invalid": errors.InvalidArgument.several([("config.duration", "too long"), ("config.seed", "odd")]),
        "missing": errors.NotFound("config.model", "no such model"),
        "early": errors.FailedPrecondition("prompt_audio", "comes before the config"),
        "cannot": errors.Unimplemented("config.resume", "not here"),
        "full": errors.ResourceExhausted("the queue is full", 2.5, reason="QUEUE_FULL"),
        "down": errors.Unavailable("going away", 1.0),
        "late": errors.DeadlineExceeded("no time left"),
        "ours": errors.Internal("a worker died"),
        "crash": ZeroDivisionError("secret of the insides"),
    }[name]


class Servicer(pb_grpc.GeneratorServiceServicer):
    """Fails as the prompt says. A stream counts `seed` messages.

    With `include_codes` it waits after the first one for another request.
    """

    def __init__(self) -> None:
        self.closed_streams = 0

    async def ListModels(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    async def Generate(self, request: Any, context: Any) -> Any:
        text = request.config.prompts[0].text if request.config.prompts else ""
        if text == "context":
            audio = f"{request_id()} {remaining_seconds() is not None}".encode()
            return pb.GenerateResponse(audio=audio)
        if text == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
        if text:
            raise failure(text)
        return pb.GenerateResponse()

    async def GenerateBatch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for index in range(len(request.configs)):
            yield pb.GenerateBatchResponse(index=index)

    async def GenerateFile(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield httpbody_pb2.HttpBody(data=b"0")
        if request.text:
            raise failure(request.text)
        try:
            while "endless" in (request.kind, request.model):
                await asyncio.sleep(0.005)
                yield httpbody_pb2.HttpBody(data=b"1")
        finally:
            self.closed_streams += 1

    async def OpenGeneration(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.OpenGenerationResponse(stream_id="1")

    async def ControlGeneration(self, request: Any, context: Any) -> Any:
        return pb.ControlGenerationResponse()

    async def StreamGenerate(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        first = await anext(requests)
        if first.config.prompts:
            raise failure(first.config.prompts[0].text)
        try:
            for steps in range(first.config.seed):
                if steps == 1 and first.config.include_codes:
                    await anext(requests)
                yield pb.StreamGenerateResponse(progress=pb.GenerationProgress(steps=steps))
                await asyncio.sleep(0.005)
        finally:
            self.closed_streams += 1


class TinyService:
    """A service without a model."""

    name = NAME

    def __init__(self, error: Exception | None = None, load_seconds: float = 0.0) -> None:
        self.servicer = Servicer()
        self.closed = 0
        self._error = error
        self._load_seconds = load_seconds

    def load(self) -> None:
        time.sleep(self._load_seconds)
        if self._error:
            raise self._error

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_GeneratorServiceServicer_to_server(self.servicer, server)

        async def collect(requests: Any, context: Any) -> bytes:
            received = b""
            async for request in requests:
                received += request
                if request == b"wait":
                    await asyncio.sleep(30)
            return received

        # None of our methods streams requests only.
        collecting: dict[str, Any] = {"Collect": grpc.stream_unary_rpc_method_handler(collect)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Sink", collecting),))

    def models(self) -> list[audio_pb2.ModelInfo]:
        return []

    def close(self) -> None:
        self.closed += 1


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens in the background; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 (a metric has no event)
        await asyncio.sleep(0.005)


class Running:
    """A started server, its service and a channel to it."""

    def __init__(self, service: TinyService, server: Server, metrics: Metrics, channel: Any) -> None:
        self.service = service
        self.server = server
        self.metrics = metrics
        self.channel = channel
        self.stub = pb_grpc.GeneratorServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def status(self, service: str = NAME) -> Any:
        return (await self.health.Check(health_pb2.HealthCheckRequest(service=service))).status

    async def handled(self, kind: str, method: str, code: str, service: str = NAME) -> None:
        """Waits for one call to have been counted so; the caller hears of its end first."""
        labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method, "grpc_code": code}
        await until(lambda: self.metrics.registry.get_sample_value("grpc_server_handled_total", labels) == 1)

    async def started(self, kind: str, method: str, service: str = NAME) -> None:
        """Waits for one call to have reached the server."""
        labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
        await until(lambda: self.metrics.registry.get_sample_value("grpc_server_started_total", labels) == 1)


def settings(**values: Any) -> ServiceSettings:
    return ServiceSettings(**{"listen": "127.0.0.1:0", "metrics_listen": "", **values})


@asynccontextmanager
async def running(service: TinyService | None = None, ready: bool = True, **values: Any) -> AsyncIterator[Running]:
    service = service or TinyService()
    metrics = Metrics(CollectorRegistry())
    server = Server(service, settings(**values), metrics)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            if ready:
                await server.wait_ready()
            yield Running(service, server, metrics, channel)
    finally:
        await server.drain()


def prompt(text: str) -> pb.GenerationConfig:
    return pb.GenerationConfig(prompts=[pb.WeightedPrompt(text=text)])


def counting(steps: int, wait: bool = False) -> pb.StreamGenerateRequest:
    return pb.StreamGenerateRequest(config=pb.GenerationConfig(seed=steps, include_codes=wait))


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details of an error by the name of their type."""
    status = rpc_status.from_call(error)
    found = {}
    for packed in status.details:
        detail = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])()
        packed.Unpack(detail)
        found[type(detail).__name__] = detail
    return found


def main() -> int:
    error = os.environ.get("TINY_LOAD_ERROR")
    load_seconds = float(os.environ.get("TINY_LOAD_SECONDS", "0"))
    service = TinyService(OSError(error) if error else None, load_seconds)
    return run(service, load_settings(ServiceSettings))


if __name__ == "__main__":
    sys.exit(main())
