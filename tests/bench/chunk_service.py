"""A generator without a model, for `python -m tests.bench edge`: chunks of any size, at any pace.

The metadata of StreamGenerate say what to send: `x-chunks`, `x-bytes` of each, and `x-interval-ms` from one to the
next; 0 is as fast as they are taken. A chunk begins with the time at which it was handed to gRPC (8 bytes, nanoseconds
of the clock that all processes of a machine share).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from antiphon.v1 import audio_pb2, generator_pb2
from services.runtime.config import ServiceSettings, load_settings
from services.runtime.server import run
from services.stack.ports import SERVICES

Response = generator_pb2.StreamGenerateResponse


async def stream_generate(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Response]:
    """Sends chunks; the first at a round multiple of the interval, `x-phase` of one later."""
    await anext(requests)
    asked = {key: float(value) for key, value in context.invocation_metadata() if key in ASKED}
    count, interval = int(asked["x-chunks"]), asked["x-interval-ms"] / 1000
    body = bytes(int(asked["x-bytes"]) - 8)
    due = (time.monotonic() // interval + 2 + asked["x-phase"]) * interval if interval else 0.0
    for index in range(count):
        if interval:
            await asyncio.sleep(due + index * interval - time.monotonic())
        data = time.monotonic_ns().to_bytes(8, "little") + body
        yield Response(audio=audio_pb2.AudioChunk(sequence=index, data=data, is_final=index == count - 1))


ASKED = ("x-chunks", "x-bytes", "x-interval-ms", "x-phase")


class Chunks:
    """The service for the real runtime."""

    name = SERVICES["generator"]

    def load(self) -> None:
        """Nothing to load."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the method."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            stream_generate, generator_pb2.StreamGenerateRequest.FromString, Response.SerializeToString
        )
        handlers = {"StreamGenerate": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.name, handlers),))

    def models(self) -> list[audio_pb2.ModelInfo]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    sys.exit(run(Chunks(), load_settings(ServiceSettings)))
