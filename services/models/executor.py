"""What runs a language model step by step, whatever it is built on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from services.models.conditions import RowConditions


class UnsupportedModel(Exception):
    """A configuration of ``LMModel`` that an executor does not run; the message says which."""


class StreamState(Protocol):
    """The place of one stream in a model: its rows (two with guidance), each with its own cache.

    Attributes:
        position: steps done.
    """

    position: int


StateT = TypeVar("StateT", bound=StreamState)


class Executor(Protocol[StateT]):
    """Runs the decode step of an ``LMModel`` for many streams at once.

    A stream's logits do not depend on its neighbours, nor on how its tokens are cut into calls: feeding known tokens
    together leaves the same bits behind as feeding them one after the other.
    """

    device: torch.device
    precision: str
    start_token: int

    def begin(self, conditions: Sequence[RowConditions], length: int) -> StateT:
        """Make room for a stream of at most ``length`` steps and take in its conditions, a row each."""
        ...

    def recondition(self, state: StateT, conditions: Sequence[RowConditions]) -> None:
        """Replace what the rows attend to, from the next step on; as many rows as at the beginning.

        While prompts fade this is called at every step with the same sources, the same tensors, and other weights: a
        source that a row has already need not be projected again.

        Raises:
            ValueError: the conditions have other rows, or stand before the first token.
        """
        ...

    def step(self, states: Sequence[StateT], tokens: Sequence[torch.Tensor], guidance: Sequence[float]) -> torch.Tensor:
        """Advance each stream by the tokens it is given.

        Args:
            states: the streams, each at its own position.
            tokens: int64 ``[S, K]`` of each stream, S at least 1: known tokens to take in, the last predicted ones
                last (``start_token`` where nothing was predicted).
            guidance: ``cfg_coef`` of each stream.

        Returns:
            Logits float32 ``[N, K, card]`` after the last token of each stream, guidance applied, on the CPU or
            ``device``.
        """
        ...

    def end(self, state: StateT) -> None:
        """Give back what the stream holds."""
        ...


def guide(logits: torch.Tensor, rows: Sequence[int], guidance: Sequence[float]) -> torch.Tensor:
    """Apply classifier-free guidance (Ho and Salimans, arXiv 2207.12598), as AudioCraft does.

    Args:
        logits: ``[R, K, card]``, the rows of all streams one after the other: conditional, then unconditional.
        rows: how many each stream has, 1 or 2.
        guidance: ``cfg_coef`` of each stream.

    Returns:
        ``[N, K, card]``.
    """
    guided, row = [], 0
    for count, coefficient in zip(rows, guidance, strict=True):
        conditional = logits[row]
        # At 1 the unconditional row says nothing; the sum would still round.
        if count == 2 and coefficient != 1.0:
            unconditional = logits[row + 1]
            conditional = unconditional + (conditional - unconditional) * coefficient
        guided.append(conditional)
        row += count
    return torch.stack(guided)
