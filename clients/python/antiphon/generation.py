"""What the streams of both clients share: reading and checking responses, and the controls.

Nothing here waits or knows of sockets; `client` and `async_client` bring the responses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from antiphon.errors import ProtocolError
from antiphon.exchange import ChunkReader, Exchange
from antiphon.messages import Prompt, generation_update, put_duration, read_codes, read_finished, read_started
from antiphon.recovery import Recovery
from antiphon.results import Chunk, Finished, FinishReason, Progress, Started
from antiphon.v1 import audio_pb2, generator_pb2

OnProgress = Callable[[Progress], object]
"""Called in the thread or task that iterates, whenever the server tells of progress."""


class GenerationState(Exchange[generator_pb2.StreamGenerateResponse, Chunk]):
    """A running generation: what is known of it, and its controls.

    Attributes:
        request_id: The id under which the server logs the call.
    """

    def __init__(
        self, request_id: str, request: generator_pb2.GenerateRequest, on_progress: OnProgress | None, resume: bool
    ) -> None:
        super().__init__(request_id)
        self._recovery = Recovery(request, resume)
        self._on_progress = on_progress
        self._started: Started | None = None
        self._chunks: ChunkReader | None = None
        self._progress = Progress()
        self._finished: Finished | None = None
        self._codes: list[NDArray[np.int32]] = []
        self._next_frame = 0
        self._reopened = False

    @property
    def started(self) -> Started | None:
        """What the server took the request to mean; None until the stream is entered or iterated."""
        return self._started

    @property
    def progress(self) -> Progress:
        """Steps done so far."""
        return self._progress

    @property
    def finished(self) -> Finished | None:
        """How the generation ended; None until it has."""
        return self._finished

    @property
    def codes(self) -> NDArray[np.int32] | None:
        """The codes so far, int32 [K, T] (codebooks, frames); None while there are none, or unasked for."""
        return np.concatenate(self._codes, axis=1) if self._codes and self._recovery.wants_codes else None

    def stop(self) -> None:
        """Asks the server to finish now: what is made still comes, then the stream ends."""
        self._control(generator_pb2.GenerationControl.ACTION_STOP)

    def pause(self) -> None:
        """Asks the server to make no further step until `resume`. Audio under way still comes."""
        self._control(generator_pb2.GenerationControl.ACTION_PAUSE)

    def resume(self) -> None:
        """Asks the server to go on."""
        self._control(generator_pb2.GenerationControl.ACTION_RESUME)

    def update(
        self,
        prompt: Prompt | None = None,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        cfg_coef: float | None = None,
        use_sampling: bool | None = None,
        blend_steps: int = 0,
    ) -> None:
        """Asks the server for other prompts, or to draw otherwise, from the next step on.

        What is left out stays. Over `blend_steps` steps, of which there are `frame_rate_hz` a second, the old prompts
        fade into the new ones.

        Raises:
            InvalidArgumentError: A value that the wire can't carry.
        """
        update = generation_update(
            prompt,
            blend_steps=blend_steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_coef=cfg_coef,
            use_sampling=use_sampling,
        )
        self._say(generator_pb2.StreamGenerateRequest(update=update))

    def grant(self, seconds: float) -> None:
        """Lets the server send so much audio more; for a stream with `initial_credit`.

        Raises:
            InvalidArgumentError: It is no length of time.
        """
        credit = generator_pb2.Credit()
        put_duration(credit.duration, seconds, "credit.duration")
        self._say(generator_pb2.StreamGenerateRequest(credit=credit))

    @abstractmethod
    def _send(self, request: generator_pb2.StreamGenerateRequest | None) -> None:
        """Queues a request, without waiting; None ends the requests."""

    def _control(self, action: generator_pb2.GenerationControl.Action) -> None:
        control = generator_pb2.GenerationControl(action=action)
        self._say(generator_pb2.StreamGenerateRequest(control=control))

    def _say(self, request: generator_pb2.StreamGenerateRequest) -> None:
        self._recovery.say(request)
        self._send(request)

    def _take(self, response: generator_pb2.StreamGenerateResponse) -> Chunk | None:
        kind = response.WhichOneof("response")
        name = kind or "an empty response"
        if self._started is None and kind != "started":
            raise ProtocolError(f"stream: {name} came before started")
        if self._started is not None and kind == "started" and not self._reopened:
            raise ProtocolError("stream: started came twice")
        if self._finished is not None:
            raise ProtocolError(f"stream: {name} came after the end")
        match kind:
            case "started":
                self._reopened = False
                if self._recovery.take_started(response.started):
                    self._started = read_started(response.started)
                    self._chunks = ChunkReader(response.started.format)
                elif self._chunks is not None:
                    self._chunks.renew()
            case "progress":
                self._progress = Progress(response.progress.steps, response.progress.total_steps)
                if self._on_progress is not None:
                    self._on_progress(self._progress)
            case "codes":
                self._take_codes(response.codes)
            case "audio":
                assert self._chunks is not None
                chunk = self._chunks.read(response.audio)
                self._recovery.take_audio(self._chunks.sample_count)
                return chunk
            case "updated":
                self._recovery.take_update(response.updated)
            case "finished":
                self._take_finished(response.finished)
        return None

    def _take_codes(self, frames: audio_pb2.CodeFrames) -> None:
        if frames.first_frame != self._next_frame:
            raise ProtocolError(f"codes: frame {frames.first_frame} came, {self._next_frame} was due")
        codes = read_codes(frames)
        if self._codes and len(codes) != len(self._codes[0]):
            raise ProtocolError(f"codes: {len(codes)} codebooks came, {len(self._codes[0])} were there before")
        self._codes.append(codes)
        self._recovery.take_codes(codes, frames.bits_per_code)
        self._next_frame += frames.frame_count

    def _take_finished(self, finished: generator_pb2.GenerationFinished) -> None:
        self._finished = read_finished(finished)
        if self._finished.reason is FinishReason.COMPLETE and not (self._chunks and self._chunks.final_seen):
            raise ProtocolError("stream: it ended without a last chunk")
        # Nothing is left to say: a server that waits for the end of the requests may go.
        self._send(None)

    def _end(self) -> None:
        if self._finished is None:
            raise ProtocolError("stream: it ended before the generation was finished", request_id=self.request_id)
