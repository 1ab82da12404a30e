"""What a client may say after its config."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from antiphon.v1 import generator_pb2
from services.generator import requests
from services.generator.checks import Checks
from services.generator.requests import GenerationRequest
from services.generator.residents import Model
from services.generator.streams import Stream
from services.runtime.errors import FailedPrecondition, InvalidArgument, ServiceError, Unimplemented

_Action = generator_pb2.GenerationControl


async def obey(
    messages: AsyncIterator[generator_pb2.StreamGenerateRequest],
    stream: Stream,
    model: Model,
    generation: GenerationRequest,
) -> None:
    """Obey what follows the config; a message that may not follow ends the stream with its error."""
    changes = 0 if generation.resume is None else len(generation.resume.updates)
    try:
        async for message in messages:
            match message.WhichOneof("request"):
                case "config":
                    raise FailedPrecondition("config", "a stream takes one config")
                case "control":
                    _control(message.control, stream)
                case "update":
                    changes += 1
                    if changes > Checks.MAX_UPDATES:
                        raise FailedPrecondition("update", f"a piece takes {Checks.MAX_UPDATES} updates at most")
                    change = requests.change(message.update, model.info)
                    stream.change(await asyncio.to_thread(model.engine.prepare_change, change))
                case "credit":
                    samples = requests.granted(message.credit, model.info)
                    if generation.credit is None:
                        raise FailedPrecondition("credit", "the config has no pacing.initial_credit")
                    stream.grant(samples)
                case "prompt_audio":
                    raise FailedPrecondition("prompt_audio", "the config asks for none, or its last piece has come")
                case kind:
                    raise Unimplemented(str(kind or "request"), "is not served by this server")
    except ServiceError as error:
        stream.put(error)


def _control(control: generator_pb2.GenerationControl, stream: Stream) -> None:
    if control.action == _Action.ACTION_STOP:
        stream.stop()
    elif control.action in (_Action.ACTION_PAUSE, _Action.ACTION_RESUME):
        stream.pause(control.action == _Action.ACTION_PAUSE)
    else:
        raise InvalidArgument("control.action", "must be PAUSE, RESUME or STOP")
