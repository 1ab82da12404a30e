"""The codec and the analyzer as real servers in the test's process, and what their errors say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from services.runtime.config import ServiceSettings
from services.runtime.server import Server, Service


@asynccontextmanager
async def serving(service: Service, settings: ServiceSettings) -> AsyncIterator[Any]:
    """Serve until the block ends; yield a channel to the loaded server."""
    server = Server(service, settings)
    await server.start()
    try:
        await server.wait_ready()
        options = [("grpc.max_receive_message_length", 64 << 20)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
            yield channel
    finally:
        await server.drain()


async def is_healthy(channel: Any, name: str) -> bool:
    """Ask the standard health service."""
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Return the code of a call that fails and the field that it blames."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            request = error_details_pb2.BadRequest()
            if packed.Unpack(request):
                return error.code(), request.field_violations[0].field
        return error.code(), ""
    raise AssertionError("the call succeeded")


def body(data: bytes) -> httpbody_pb2.HttpBody:
    """A file as requests carry it."""
    return httpbody_pb2.HttpBody(data=data)
