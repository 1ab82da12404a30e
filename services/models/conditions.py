"""What a language model is conditioned on, prepared once a request by AudioCraft's own condition provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Prompt:
    """A text and how much it counts among others; the empty text is no condition."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class RowConditions:
    """What one row of a batch is conditioned on.

    Attributes:
        cross: pairs of ``[T, dim]``, which the row attends to, and its weight; the weights sum to 1, and the
            results of the attentions are mixed by them. Empty for a model without cross-attention.
        prepend: ``[P, dim]``, embeddings that stand before the first token, or None.
    """

    cross: tuple[tuple[torch.Tensor, float], ...]
    prepend: torch.Tensor | None = None


class Conditioner:
    """Prepares the conditions of a request for an ``LMModel``."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    @torch.inference_mode()
    def prepare(self, prompts: Sequence[Prompt], guided: bool) -> tuple[RowConditions, ...]:
        """Return the conditional row and, when guided, the unconditional one after it."""
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout, ConditioningAttributes

        total = sum(prompt.weight for prompt in prompts)
        conditional: list[tuple[torch.Tensor, float]] = []
        unconditional: list[tuple[torch.Tensor, float]] = []
        for prompt in prompts:
            attributes = [ConditioningAttributes(text={"description": prompt.text or None})]
            # Together, as AudioCraft does: the null condition is then padded to the length of the text.
            attributes += ClassifierFreeGuidanceDropout(p=1.0)(attributes) if guided else []
            source = self._source(attributes)
            conditional.append((source[0], prompt.weight / total))
            if guided and not unconditional:
                unconditional.append((source[1], 1.0))
        rows = [RowConditions(tuple(conditional))]
        return tuple(rows + ([RowConditions(tuple(unconditional))] if guided else []))

    def _source(self, attributes: list[Any]) -> torch.Tensor:
        """Return what the layers attend to, ``[rows, T, dim]``."""
        provider = self._lm.condition_provider
        tensors = provider(provider.tokenize(attributes))
        device = self._lm.emb[0].weight.device
        dummy = torch.zeros(len(attributes), 1, self._lm.dim, device=device)
        _, source = self._lm.fuser(dummy, tensors)
        return torch.as_tensor(source)
