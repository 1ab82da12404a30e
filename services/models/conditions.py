"""What a language model is conditioned on, prepared once a request by AudioCraft's own condition provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

TEXT = "description"
"""The condition that AudioCraft's models know a text by; a model's other text conditions are left empty."""
MELODY = "self_wav"
"""The condition that its melody checkpoints know audio by."""


class UnsupportedConditions(Exception):
    """Conditions that a model can't be given; the message says why."""


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
    """Prepares the conditions of a request for an ``LMModel``; keeps nothing of it, and runs on any thread."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        listeners = lm.condition_provider.conditioners
        self.melody_rate_hz: int = int(listeners[MELODY].sample_rate) if MELODY in listeners else 0
        """Rate of the melodies that it takes; 0 where it takes none."""
        self.mixes_prompts: bool = TEXT in lm.fuser.fuse2cond["cross"]
        """Whether it takes several prompts, and others in mid-stream: those that stand before the first token can't."""

    @torch.inference_mode()
    def prepare(
        self,
        prompts: Sequence[Prompt],
        guided: bool,
        *,
        apart: bool = False,
        melody: torch.Tensor | None = None,
    ) -> tuple[RowConditions, ...]:
        """Return the conditional row and, when guided, the unconditional one after it.

        Args:
            apart: prepare the unconditional row by itself, as AudioCraft's two-step guidance does. Otherwise it is
                padded to the length of the other.
            melody: ``[C, T]`` at ``melody_rate_hz``.

        Raises:
            UnsupportedConditions: several prompts or a melody for a model that can't hear them.
        """
        if len(prompts) > 1 and not self.mixes_prompts:
            raise UnsupportedConditions("prompts: this model hears its prompt before the first token, and takes one")
        if melody is not None and not self.melody_rate_hz:
            raise UnsupportedConditions("melody: this model hears none")
        total = sum(prompt.weight for prompt in prompts)
        found = [self._rows(self.attributes(prompt.text, melody), guided, apart) for prompt in prompts]
        weighted = [(rows[0], prompt.weight / total) for prompt, rows in zip(prompts, found, strict=True)]
        cross = tuple((source, share * weight) for row, weight in weighted for source, share in row.cross)
        return RowConditions(cross, found[0][0].prepend), *found[0][1:]

    def attributes(self, text: str, melody: torch.Tensor | None = None) -> Any:
        """Return AudioCraft's ``ConditioningAttributes`` of a text and a melody, as ``MusicGen`` makes them."""
        from audiocraft.modules.conditioners import ConditioningAttributes, WavCondition

        provider = self._lm.condition_provider
        device = self._lm.emb[0].weight.device
        samples = torch.zeros(1, 1, device=device) if melody is None else melody.to(device)
        length = torch.tensor([0 if melody is None else melody.shape[-1]], device=device)
        return ConditioningAttributes(
            text={name: (text or None) if name == TEXT else None for name in provider.text_conditions},
            wav={
                name: WavCondition(
                    samples[None], length, sample_rate=[self.melody_rate_hz], path=[None], seek_time=[None]
                )
                for name in provider.wav_conditions
            },
        )

    def _rows(self, attributes: Any, guided: bool, apart: bool) -> list[RowConditions]:
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout

        nothing = ClassifierFreeGuidanceDropout(p=1.0)([attributes]) if guided else []
        if apart:
            return [row for one in ([attributes], nothing) if one for row in self._fused(one)]
        return self._fused([attributes, *nothing])

    def _fused(self, attributes: list[Any]) -> list[RowConditions]:
        """Return the row of each of the attributes, all padded to the same length."""
        provider = self._lm.condition_provider
        tensors = provider(provider.tokenize(attributes))
        start = torch.zeros(len(attributes), 1, self._lm.dim, device=self._lm.emb[0].weight.device)
        fused, source = self._lm.fuser(start, tensors)
        return [
            RowConditions(
                () if source is None else ((source[index], 1.0),),
                fused[index, :-1] if fused.shape[1] > 1 else None,
            )
            for index in range(len(attributes))
        ]
