"""Draws tokens for many rows at once, each with its own parameters and its own reproducible noise.

AudioCraft draws from one generator for the whole batch, so a request's tokens depend on its neighbours. Here the
noise of a token is a function of (seed, frame, codebook, token) alone: the Gumbel-max trick (Gumbel 1954; Maddison
et al., arXiv 1411.0030) on a counter-based hash (the finaliser of SplitMix64, Steele et al., OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are drawn. AudioCraft's meaning: ``top_p`` above 0 beats ``top_k``."""

    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float = 3.0
    use_sampling: bool = True
    seed: int = 0


DEFAULT_SAMPLING = Sampling()


def sample(logits: torch.Tensor, rows: Sequence[Sampling], frames: np.ndarray) -> torch.Tensor:
    """Draw one token for each row and codebook.

    Args:
        logits: ``[N, K, card]``, guidance applied.
        rows: parameters of each row.
        frames: int64 ``[N, K]``, the frame that each token belongs to (the counter of the noise).

    Returns:
        int64 ``[N, K]``.
    """
    tokens = logits.argmax(dim=-1)
    for greedy, top_p, indices in _groups(rows):
        if greedy:
            continue
        group = [rows[i] for i in indices]
        scores = logits[indices] / logits.new_tensor([row.temperature for row in group])[:, None, None]
        if top_p:
            ordered, ids = scores.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(dim=-1)
            limit = logits.new_tensor([row.top_p for row in group])[:, None, None]
            excluded = probabilities.cumsum(dim=-1) - probabilities > limit
        else:
            card = logits.shape[-1]
            counts = [min(row.top_k, card) if row.top_k > 0 else card for row in group]
            ordered, ids = scores.topk(max(counts), dim=-1)
            ranks = torch.arange(max(counts), device=logits.device)
            excluded = ranks[None, None] >= torch.tensor(counts, device=logits.device)[:, None, None]
        seeds = np.array([row.seed for row in group], dtype=np.uint64)
        noise = gumbel(seeds, frames[indices], ids.cpu().numpy())
        noisy = ordered + torch.from_numpy(noise).to(ordered)
        best = noisy.masked_fill(excluded, -torch.inf).argmax(dim=-1, keepdim=True)
        tokens[indices] = ids.gather(-1, best)[..., 0]
    return tokens


def gumbel(seeds: np.ndarray, frames: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return standard Gumbel noise, float32 ``[N, K, M]``.

    Args:
        seeds: uint64 ``[N]``.
        frames: int64 ``[N, K]``.
        tokens: int64 ``[N, K, M]``.
    """
    counters = (frames.astype(np.uint64) << np.uint64(4)) + np.arange(frames.shape[1], dtype=np.uint64)
    keys = _mix(_mix(seeds)[:, None] ^ counters)
    bits = _mix(keys[..., None] + tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    # 53 bits, moved off 0 and 1 by half a step, so that both logarithms are finite.
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return (-np.log(-np.log(uniform))).astype(np.float32)


def _mix(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _groups(rows: Sequence[Sampling]) -> list[tuple[bool, bool, list[int]]]:
    """Group the rows by the way they are drawn: (greedy, by top_p, indices)."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, row in enumerate(rows):
        greedy = not row.use_sampling
        groups.setdefault((greedy, not greedy and row.top_p > 0.0), []).append(index)
    return [(greedy, top_p, indices) for (greedy, top_p), indices in groups.items()]
