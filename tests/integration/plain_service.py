"""A service without a model, for tests of the edge and the stack: `python -m ...plain_service NAME`.

NAME is that of a service; `ListModels` and `Generate` answer with it, and with what the edge said of the call.
`StreamGenerate` sends silence, 0.1 s in a chunk, as slowly as a player plays it. A call whose metadata names an error
(`x-raise: Unavailable`, `x-raise-at: ADDRESS` for one replica only) gets it. With "broken" for a NAME it won't start.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from antiphon.v1 import audio_pb2, generator_pb2
from services.runtime import errors
from services.runtime.config import ServiceSettings, load_settings
from services.runtime.server import run
from services.stack.ports import SERVICES

SAMPLE_RATE_HZ = 32000
CHUNK_SECONDS = 0.1
CHUNK_SAMPLES = 3200
TOLD = ("x-client-id", "x-request-id", "authorization", "x-api-key")

# The three services' ListModels have messages of one form, so the generator's serve all.
Models = generator_pb2.GeneratorServiceListModelsResponse
Response = generator_pb2.StreamGenerateResponse


def commands(**names: str) -> dict[str, list[str]]:
    """Command lines for a Stack; `codec="broken"` runs the codec under another NAME."""
    return {name: [sys.executable, "-m", __name__, names.get(name, name)] for name in SERVICES}


async def list_models(request: Any, context: Any) -> Models:
    """One model, that bears the service's name. The trailing metadata says what the edge said, and where this is."""
    obey(context)
    told = [pair for pair in context.invocation_metadata() if pair[0] in TOLD]
    context.set_trailing_metadata([*told, ("x-listen", os.environ["ANTIPHON_LISTEN"])])
    return Models(models=[audio_pb2.ModelInfo(name=sys.argv[1], is_default=True)])


def obey(context: Any) -> None:
    """Raises what the caller asks for."""
    asked, here = dict(context.invocation_metadata()), os.environ["ANTIPHON_LISTEN"]
    if "x-raise" not in asked or asked.get("x-raise-at", here) != here:
        return
    if asked["x-raise"] == "Elsewhere":
        raise errors.Unavailable("full here", elsewhere=True)
    if asked["x-raise"] == "Unimplemented":
        raise errors.Unimplemented("request", "as asked")
    raise getattr(errors, asked["x-raise"])("as asked")


async def stream_generate(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Response]:
    """Reads the config, then sends started, chunks, finished."""
    config = (await anext(requests)).config
    obey(context)
    count = round(config.duration.ToTimedelta().total_seconds() / CHUNK_SECONDS)
    form = audio_pb2.AudioFormat(
        encoding=audio_pb2.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=SAMPLE_RATE_HZ, channel_count=1
    )
    started = generator_pb2.GenerationStarted(config=config, format=form, total_samples=count * CHUNK_SAMPLES)
    yield Response(started=started)
    for index in range(count):
        await asyncio.sleep(CHUNK_SECONDS)
        chunk = audio_pb2.AudioChunk(
            sequence=index,
            first_sample=index * CHUNK_SAMPLES,
            sample_count=CHUNK_SAMPLES,
            data=bytes(2 * CHUNK_SAMPLES),
            is_final=index == count - 1,
        )
        yield Response(audio=chunk)
    reason = generator_pb2.GenerationFinished.REASON_COMPLETE
    yield Response(finished=generator_pb2.GenerationFinished(reason=reason))


class Plain:
    """A service for the real runtime, so that health, reflection and SIGTERM are as in production."""

    def __init__(self, name: str) -> None:
        self.name = SERVICES[name]

    def load(self) -> None:
        """Nothing to load."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the methods."""
        listing = grpc.unary_unary_rpc_method_handler(
            list_models,
            generator_pb2.GeneratorServiceListModelsRequest.FromString,
            Models.SerializeToString,
        )
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ListModels": listing,
            # For what the edge does to a method that is not idempotent; the messages are those of the other.
            "Generate": listing,
            "StreamGenerate": grpc.stream_stream_rpc_method_handler(
                stream_generate, generator_pb2.StreamGenerateRequest.FromString, Response.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.name, handlers),))

    def models(self) -> list[audio_pb2.ModelInfo]:
        """As in `list_models`."""
        return [audio_pb2.ModelInfo(name=sys.argv[1], is_default=True)]

    def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        sys.exit("no model: the folder is empty")
    sys.exit(run(Plain(sys.argv[1]), load_settings(ServiceSettings)))
