"""How a generation whose connection broke is taken up again: what is sent, and when. Nothing here waits."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterator

import grpc
import numpy as np
from numpy.typing import NDArray

from antiphon.codes import pack_codes
from antiphon.errors import AntiphonError
from antiphon.messages import put_duration
from antiphon.v1 import generator_pb2

MAX_ATTEMPTS = 8
"""Attempts in a row that bring nothing new; then the error is raised."""
MAX_ATTEMPTS_BEFORE_START = 4
"""So many attempts take at most a second and a half: who calls a server that is not there soon knows."""
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
PIECE_BYTES = 1 << 18

Request = generator_pb2.StreamGenerateRequest


class Recovery:
    """What a generation would need to go on elsewhere: the effective config, the codes, and what was said since.

    A stream that the server has `started` has a seed, and what follows is a function of what the client knows: nothing
    is done twice that could differ. One that has not is begun anew where nobody answered, for nothing of it was heard;
    a full queue is told to the caller, who may not want to wait.

    Args:
        enabled: False to raise every error as it comes.
    """

    def __init__(self, request: generator_pb2.GenerateRequest, enabled: bool) -> None:
        config = request.config
        self._prompt_audio = request.prompt_audio
        self.wants_codes = config.include_codes
        self._enabled = enabled
        self._config = generator_pb2.GenerationConfig()
        self._config.CopyFrom(config)
        self._config.include_codes = config.include_codes or enabled
        self._started = False
        self._model_version = ""
        self._attempts = 0
        self._lock = threading.Lock()
        self._codes: list[NDArray[np.int32]] = []
        self._bits = 0
        self._samples = 0
        self._granted = config.pacing.initial_credit.ToNanoseconds()
        self._applied: list[generator_pb2.AppliedUpdate] = []
        self._asked: deque[generator_pb2.GenerationUpdate] = deque()
        self._paused = self._stopped = False

    def opening(self) -> Iterator[Request]:
        """Yield the first messages of the next attempt."""
        with self._lock:
            config = generator_pb2.GenerationConfig()
            config.CopyFrom(self._config)
            if self._started:
                self._put_resume(config)
            if config.pacing.HasField("initial_credit"):
                self._put_credit(config)
            messages = [Request(config=config), *self._prompt_pieces()]
            messages += [Request(update=update) for update in self._asked]
        actions = generator_pb2.GenerationControl
        if self._paused:
            messages.append(Request(control=actions(action=actions.ACTION_PAUSE)))
        if self._stopped:
            messages.append(Request(control=actions(action=actions.ACTION_STOP)))
        return iter(messages)

    def delay_seconds(self, error: AntiphonError) -> float | None:
        """Return how long to wait before the next attempt; None when the error is to be raised.

        Full jitter: anything between nothing and a limit that doubles, so that the callers of a server that fell do
        not come back together. A server that says when to come again is believed.
        """
        is_to_go_on = _is_lost(error) or (self._started and error.code == grpc.StatusCode.RESOURCE_EXHAUSTED)
        most = MAX_ATTEMPTS if self._started else MAX_ATTEMPTS_BEFORE_START
        if not (self._enabled and is_to_go_on) or self._attempts >= most:
            return None
        limit = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**self._attempts)
        self._attempts += 1
        return (error.retry_after_seconds or 0.0) + random.uniform(0, limit)

    def take_started(self, started: generator_pb2.GenerationStarted) -> bool:
        """Keep the effective config; returns False when this is an attempt after the first."""
        if self._started:
            return False
        self._started, self._attempts = True, 0
        self._model_version = started.model_version
        self._config.CopyFrom(started.config)
        self._config.include_codes = self._config.include_codes or self._enabled
        return True

    def take_codes(self, codes: NDArray[np.int32], bits: int) -> None:
        """Keep codes, which a later attempt begins with."""
        self._codes.append(codes)
        self._bits = bits

    def take_audio(self, samples: int) -> None:
        """Keep how many samples of the piece have come."""
        self._samples, self._attempts = samples, 0

    def take_update(self, applied: generator_pb2.AppliedUpdate) -> None:
        """Keep when the oldest update that was asked for was taken."""
        with self._lock:
            if self._asked:
                self._asked.popleft()
            self._applied.append(applied)

    def say(self, request: Request) -> None:
        """Keep what the caller has asked for in mid-stream."""
        actions = generator_pb2.GenerationControl
        with self._lock:
            match request.WhichOneof("request"):
                case "update":
                    self._asked.append(request.update)
                case "credit":
                    self._granted += request.credit.duration.ToNanoseconds()
                case "control":
                    self._stopped |= request.control.action == actions.ACTION_STOP
                    self._paused = request.control.action == actions.ACTION_PAUSE

    def _prompt_pieces(self) -> Iterator[Request]:
        data = self._prompt_audio
        for start in range(0, len(data), PIECE_BYTES):
            piece = generator_pb2.PromptAudio(data=data[start : start + PIECE_BYTES])
            piece.is_final = start + PIECE_BYTES >= len(data)
            yield Request(prompt_audio=piece)

    def _put_resume(self, config: generator_pb2.GenerationConfig) -> None:
        resume = config.resume
        resume.SetInParent()
        if self._codes:
            resume.codes.CopyFrom(pack_codes(np.concatenate(self._codes, axis=1), self._bits))
        resume.received_samples = self._samples
        resume.updates.extend(self._applied)
        resume.model_version = self._model_version

    def _put_credit(self, config: generator_pb2.GenerationConfig) -> None:
        """Allow what was granted and not yet heard."""
        heard = self._samples * 10**9 // config.output_format.sample_rate_hz if self._samples else 0
        put_duration(config.pacing.initial_credit, max(0, self._granted - heard) / 1e9, "pacing.initial_credit")


def _is_lost(error: AntiphonError) -> bool:
    """Tell whether the call may go on elsewhere: its connection or its server is gone."""
    # Proxies reset streams, and gRPC has no one code for that; an error of the server itself has a reason.
    was_reset = not error.reason and ("RST_STREAM" in error.message or "Stream removed" in error.message)
    return error.code == grpc.StatusCode.UNAVAILABLE or was_reset
