"""AudioCraft's own generation loop, taken step by step.

It keeps the state of a generation in the model and draws from PyTorch's one generator, so one piece at a time can be
made with a model. Its loop runs in a thread that waits at every callback until it may go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from services.models import magnet
from services.models.sampling import Sampling

Callback = Callable[[int, int], None]
_RANDOM = threading.Lock()
"""Held while a loop runs: no other draws from the generator that its seed has set."""


def parameters(lm: Any, sampling: Sampling, two_step: bool) -> dict[str, Any]:
    """Return the arguments of a model's ``generate``."""
    if magnet.is_magnet(lm.cfg):
        return magnet.parameters(lm, sampling)
    return {
        "use_sampling": sampling.use_sampling,
        "temp": sampling.temperature,
        "top_k": min(sampling.top_k, lm.card),
        "top_p": sampling.top_p,
        "cfg_coef": sampling.cfg_coef,
        "two_step_cfg": two_step,
    }


class Abandoned(Exception):
    """Ends a loop whose piece nobody wants any more."""


class SteppedLoop:
    """A call that reports its progress by a callback, run from one callback to the next.

    Args:
        call: is given the callback, and returns codes.
        seed: of the noise that it draws.
    """

    def __init__(self, call: Callable[[Callback], torch.Tensor], seed: int) -> None:
        self.result: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._may_go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._closed = False
        self._generators = self._seeded(seed)
        self._thread = threading.Thread(target=self._run, args=(call,), name="audiocraft", daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Run to the next callback; return whether the call has returned, with ``result`` then set.

        Raises:
            Exception: what the call raises.
        """
        if self.result is None:
            with _RANDOM:
                before = _generators()
                _restore(self._generators)
                self._may_go.release()
                self._waits.acquire()
                self._generators = _generators()
                _restore(before)
        if self._error is not None:
            raise self._error
        return self.result is not None

    def close(self) -> None:
        """End the call where it is, if it has not returned."""
        self._closed = True
        self._may_go.release()
        self._thread.join()

    def _run(self, call: Callable[[Callback], torch.Tensor]) -> None:
        self._may_go.acquire()
        try:
            if not self._closed:
                self.result = call(self._pause)
        except Abandoned:
            pass
        except BaseException as error:
            self._error = error
        self._waits.release()

    def _pause(self, done: int, total: int) -> None:
        self._waits.release()
        self._may_go.acquire()
        if self._closed:
            raise Abandoned

    @staticmethod
    def _seeded(seed: int) -> list[torch.Tensor]:
        with _RANDOM:
            before = _generators()
            torch.manual_seed(seed)
            seeded = _generators()
            _restore(before)
        return seeded


def _generators() -> list[torch.Tensor]:
    """Return the state of PyTorch's generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _restore(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
