"""Several pieces in one call: what is sent, and how the responses, which come interleaved, become pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Required

import numpy as np

from antiphon.errors import InvalidArgumentError, ProtocolError
from antiphon.generation import GenerationState
from antiphon.messages import GenerationOptions, Prompt, generation_request, refused
from antiphon.operations import Operation
from antiphon.results import Chunk, GeneratedAudio, Service
from antiphon.v1 import generator_pb2


class GenerationRequest(GenerationOptions, total=False):
    """A piece of a batch: a prompt, and what holds for this piece alone, as `{"prompt": "a piano", "seed": 3}`."""

    prompt: Required[Prompt]
    """A text, or up to eight texts, each alone or with its weight."""


def generate_batch(
    pieces: Iterable[Prompt | GenerationRequest], options: GenerationOptions
) -> Operation[list[GeneratedAudio]]:
    """Makes several pieces; `read` of the operation takes all responses.

    Raises:
        InvalidArgumentError: A value that the wire can't carry, or that is for single pieces; the field names its
            piece ("configs[2].seed").
    """
    if isinstance(pieces, str):
        raise refused("configs", "must be several prompts; generate makes a single piece")
    requests = [_request(index, piece, options) for index, piece in enumerate(pieces)]
    batch = generator_pb2.GenerateBatchRequest(configs=[request.config for request in requests])

    def read(responses: Sequence[generator_pb2.GenerateBatchResponse]) -> list[GeneratedAudio]:
        states = [_Piece(request) for request in requests]
        for response in responses:
            if response.index >= len(states):
                raise ProtocolError(f"batch: piece {response.index} came, {len(states)} were asked for")
            states[response.index].take(response.response)
        return [state.result() for state in states]

    return Operation(Service.GENERATOR, "GenerateBatch", batch, read)


def _request(
    index: int, piece: Prompt | GenerationRequest, options: GenerationOptions
) -> generator_pb2.GenerateRequest:
    alone: GenerationRequest = piece if isinstance(piece, dict) else {"prompt": piece}
    wanted: GenerationRequest = {**options, **alone}
    try:
        request = generation_request(**wanted)
        if request.config.HasField("prompt_audio"):
            raise refused("prompt_audio", "goes with single pieces only")
    except InvalidArgumentError as error:
        first = error.violations[0]
        raise refused(f"configs[{index}].{first.field}", first.description) from None
    return request


class _Piece(GenerationState):
    """One piece of a batch, read as the stream that it would be alone."""

    def __init__(self, request: generator_pb2.GenerateRequest) -> None:
        super().__init__("", request, None, resume=False)
        self._audio: list[Chunk] = []

    def take(self, response: generator_pb2.StreamGenerateResponse) -> None:
        chunk = self._take(response)
        if chunk is not None:
            self._audio.append(chunk)

    def result(self) -> GeneratedAudio:
        self._end()
        started, finished = self.started, self.finished
        assert started is not None
        assert finished is not None
        silence = np.zeros((0, started.channel_count), np.float32)
        return GeneratedAudio(
            samples=np.concatenate([silence, *(chunk.samples for chunk in self._audio)]),
            sample_rate_hz=started.sample_rate_hz,
            started=started,
            finished=finished,
            codes=self.codes,
        )

    def cancel(self) -> None:
        """A piece has no call of its own."""

    def _send(self, request: generator_pb2.StreamGenerateRequest | None) -> None:
        """The server is told nothing once the pieces are under way."""
