"""A service without a model, for tests of the edge and the stack: `python -m ...plain_service NAME`.

NAME is that of a service; `ListModels` answers with it and with the caller's id. `StreamGenerate` sends silence,
0.1 s in a chunk, as slowly as a player plays it. With "broken" for a NAME it does not start.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from antiphon.v1 import audio_pb2, generator_pb2
from services.runtime.config import ServiceSettings, load_settings
from services.runtime.server import run
from services.stack.ports import SERVICES

SAMPLE_RATE_HZ = 32000
CHUNK_SECONDS = 0.1
CHUNK_SAMPLES = 3200

# The three services' ListModels have messages of one form, so the generator's serve all.
Models = generator_pb2.GeneratorServiceListModelsResponse
Response = generator_pb2.StreamGenerateResponse


def commands(**names: str) -> dict[str, list[str]]:
    """Command lines for a Stack; `codec="broken"` runs the codec under another NAME."""
    return {name: [sys.executable, "-m", __name__, names.get(name, name)] for name in SERVICES}


async def list_models(request: Any, context: Any) -> Models:
    """One model, that bears the service's name. The trailing metadata says what the edge said of the caller."""
    context.set_trailing_metadata([pair for pair in context.invocation_metadata() if pair[0] == "x-client-id"])
    return Models(models=[audio_pb2.ModelInfo(name=sys.argv[1], is_default=True)])


async def stream_generate(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Response]:
    """Reads the config, then sends started, chunks, finished."""
    config = (await anext(requests)).config
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
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ListModels": grpc.unary_unary_rpc_method_handler(
                list_models,
                generator_pb2.GeneratorServiceListModelsRequest.FromString,
                Models.SerializeToString,
            ),
            "StreamGenerate": grpc.stream_stream_rpc_method_handler(
                stream_generate, generator_pb2.StreamGenerateRequest.FromString, Response.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.name, handlers),))

    def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        sys.exit("no model: the folder is empty")
    sys.exit(run(Plain(sys.argv[1]), load_settings(ServiceSettings)))
