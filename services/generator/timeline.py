"""What a piece is conditioned on at each of its steps: the request's prompts and sampling, and the changes since.

It is a function of the request and the changes alone, so a stream that is taken up elsewhere, with the same changes at
the same steps, hears the same prompts at the same steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.generator.requests import Change
from services.models.conditions import Prompt
from services.models.sampling import Sampling

MOST_SOURCES = 16
"""Prompts that are mixed at once. Each costs an attention a layer; those that count least are dropped."""

Mix = tuple[tuple[str, float], ...]
"""Texts and their weights, which sum to 1."""


@dataclass(frozen=True)
class _Segment:
    """From step ``start`` on, ``before`` fades into ``after`` over ``steps`` steps."""

    start: int
    before: Mix
    after: Mix
    steps: int
    sampling: Sampling

    def at(self, step: int) -> Mix:
        if step >= self.start + self.steps:
            return self.after
        share = (step - self.start + 1) / (self.steps + 1)
        return _merged([(text, weight * (1 - share)) for text, weight in self.before], self.after, share)


class Timeline:
    """Prompts and sampling parameters by step."""

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        mix = _merged([], [(prompt.text, prompt.weight) for prompt in prompts], 1.0)
        self._segments = [_Segment(0, mix, mix, 0, sampling)]
        self._starts = [0]

    @property
    def changed(self) -> bool:
        """Whether there was any change."""
        return len(self._segments) > 1

    @property
    def start(self) -> Mix:
        """The mix of the request itself."""
        return self._segments[0].after

    @property
    def guided(self) -> bool:
        """Whether guidance was ever on, with a text to be guided by."""
        return any(
            segment.sampling.cfg_coef != 1.0 and any(text for text, _ in (*segment.before, *segment.after))
            for segment in self._segments
        )

    def change(self, step: int, change: Change) -> None:
        """Add a change that is taken after ``step`` steps, which is not before any other."""
        last = self._segments[-1]
        sampling = change.sampled(last.sampling)
        if change.prompts:
            after = _merged([], [(prompt.text, prompt.weight) for prompt in change.prompts], 1.0)
            self._segments.append(_Segment(step, last.at(step), after, change.blend_steps, sampling))
        else:  # a fade that is under way goes on
            self._segments.append(replace(last, sampling=sampling))
        self._starts.append(step)

    def sampling(self, step: int) -> Sampling:
        """Return how the token after ``step`` steps is drawn."""
        return self._at(step).sampling

    def mix(self, step: int) -> Mix:
        """Return what the step after ``step`` steps hears."""
        return self._at(step).at(step)

    def steady(self, step: int) -> int | None:
        """Return up to which step the mix stays as it is after ``step`` steps; None for good."""
        index = bisect_right(self._starts, step) - 1
        segment = self._segments[index]
        if step < segment.start + segment.steps:
            return step + 1
        return self._starts[index + 1] if index + 1 < len(self._starts) else None

    def _at(self, step: int) -> _Segment:
        return self._segments[bisect_right(self._starts, step) - 1]


def _merged(old: Sequence[tuple[str, float]], new: Sequence[tuple[str, float]], share: float) -> Mix:
    """Return old weights and ``share`` of new ones, each text once, the heaviest, with a sum of 1."""
    total = sum(weight for _, weight in new)
    weights = dict[str, float]()
    for text, weight in [*old, *((text, weight / total * share) for text, weight in new)]:
        weights[text] = weights.get(text, 0.0) + weight
    heaviest = sorted(weights, key=weights.__getitem__, reverse=True)[:MOST_SOURCES]
    kept = {text: weight for text, weight in weights.items() if text in heaviest}
    return tuple((text, weight / sum(kept.values())) for text, weight in kept.items())
