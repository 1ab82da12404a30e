"""What a client may say after its config."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from antiphon.v1 import generator_pb2
from services.generator import requests
from services.generator.checks import Checks
from services.generator.requests import GenerationRequest
from services.generator.residents import Model
from services.generator.streams import Stream
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ServiceError, Unimplemented

_Action = generator_pb2.GenerationControl
_ID_BYTES = 16


class Controls:
    """The controls of a running generation."""

    def __init__(self, stream: Stream, model: Model, generation: GenerationRequest) -> None:
        self._stream = stream
        self._model = model
        self._is_paced = generation.credit is not None
        self._changes = 0 if generation.resume is None else len(generation.resume.updates)

    async def follow(self, messages: AsyncIterator[generator_pb2.StreamGenerateRequest]) -> None:
        """Obey what follows the config; a message that may not follow ends the stream with its error."""
        try:
            async for message in messages:
                await self.obey(message)
        except ServiceError as error:
            self._stream.put(error)

    async def obey(self, message: generator_pb2.StreamGenerateRequest | generator_pb2.ControlGenerationRequest) -> None:
        """Obey one message.

        Raises:
            InvalidArgument: a value is out of range.
            FailedPrecondition: it may not come now.
            Unimplemented: the model can't do it.
        """
        match _kind(message):
            case "config":
                raise FailedPrecondition("config", "a stream takes one config")
            case "control":
                _control(message.control, self._stream)
            case "update":
                if self._changes >= Checks.MAX_UPDATES:
                    raise FailedPrecondition("update", f"a piece takes {Checks.MAX_UPDATES} updates at most")
                change = requests.change(message.update, self._model.info)
                self._changes += 1
                self._stream.change(await asyncio.to_thread(self._model.engine.prepare_change, change))
            case "credit":
                samples = requests.granted(message.credit, self._model.info)
                if not self._is_paced:
                    raise FailedPrecondition("credit", "the config has no pacing.initial_credit")
                self._stream.grant(samples)
            case "prompt_audio":
                raise FailedPrecondition("prompt_audio", "the config asks for none, or its last piece has come")
            case kind:
                raise Unimplemented(str(kind or "request"), "is not served by this server")


class OpenGenerations:
    """The running generations that calls of their own control, by an id that can't be guessed."""

    def __init__(self) -> None:
        self._controls: dict[str, Controls] = {}

    @contextmanager
    def hold(self, controls: Controls) -> Iterator[str]:
        """Yield the id by which `find` knows the controls meanwhile."""
        stream_id = secrets.token_hex(_ID_BYTES)
        self._controls[stream_id] = controls
        try:
            yield stream_id
        finally:
            del self._controls[stream_id]

    def find(self, stream_id: str) -> Controls:
        """Return the controls of a running generation.

        Raises:
            NotFound: there is none of that id.
        """
        if stream_id not in self._controls:
            raise NotFound("stream_id", "no such piece is running here")
        return self._controls[stream_id]


def _kind(message: generator_pb2.StreamGenerateRequest | generator_pb2.ControlGenerationRequest) -> str | None:
    is_own = isinstance(message, generator_pb2.ControlGenerationRequest)
    kind: str | None = message.WhichOneof("command" if is_own else "request")
    return kind


def _control(control: generator_pb2.GenerationControl, stream: Stream) -> None:
    if control.action == _Action.ACTION_STOP:
        stream.stop()
    elif control.action in (_Action.ACTION_PAUSE, _Action.ACTION_RESUME):
        stream.pause(control.action == _Action.ACTION_PAUSE)
    else:
        raise InvalidArgument("control.action", "must be PAUSE, RESUME or STOP")
