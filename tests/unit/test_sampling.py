"""Tokens for many rows at once: each row with its own parameters and its own reproducible noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.models.sampling import Sampling, gumbel, sample

CARD = 64
BOOKS = 4
SEEDS = 4000


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(8, BOOKS, CARD, generator=torch.Generator().manual_seed(0)) * 2


def frames_of(rows: int, frame: int = 7) -> np.ndarray:
    return np.full((rows, BOOKS), frame, dtype=np.int64)


def draw_many(scores: list[float], sampling: Sampling, seeds: int = SEEDS) -> np.ndarray:
    """Draw one token of one codebook for each of many seeds; return how often each token came."""
    logits = torch.tensor(scores).expand(seeds, 1, -1)
    rows = [replace(sampling, seed=seed) for seed in range(seeds)]
    tokens = sample(logits, rows, np.zeros((seeds, 1), dtype=np.int64))
    return np.bincount(tokens.flatten().numpy(), minlength=len(scores))


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float((((counts - expected) ** 2) / expected).sum())


def softmax(scores: list[float], temperature: float = 1.0) -> np.ndarray:
    return torch.tensor(scores).div(temperature).softmax(-1).double().numpy()


SCORES = [0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, 0.25]
LIMIT = 30.0
"""Seven degrees of freedom exceed it with a chance of 1 in 10,000; the seeds are fixed, so it never flickers."""


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 250])
def test_tokens_follow_the_softmax(temperature: float, top_k: int) -> None:
    counts = draw_many(SCORES, Sampling(temperature=temperature, top_k=top_k))
    assert chi_square(counts, softmax(SCORES, temperature)) < LIMIT


def test_the_softmax_check_can_fail() -> None:
    counts = draw_many(SCORES, Sampling(temperature=1.3, top_k=0))
    assert chi_square(counts, softmax(SCORES)) > LIMIT


def test_successive_frames_and_codebooks_follow_the_softmax_too() -> None:
    frame_count = 2000
    logits = torch.tensor(SCORES).expand(frame_count, BOOKS, -1)
    frames = np.repeat(np.arange(frame_count)[:, None], BOOKS, axis=1)
    tokens = sample(logits, [Sampling(top_k=0, seed=3)] * frame_count, frames)
    for k in range(BOOKS):
        counts = np.bincount(tokens[:, k].numpy(), minlength=len(SCORES))
        assert chi_square(counts, softmax(SCORES)) < LIMIT


def test_top_k_keeps_the_best_and_their_proportions() -> None:
    counts = draw_many(SCORES, Sampling(top_k=3))
    best = [3, 6, 1]
    assert counts[best].sum() == SEEDS
    kept = softmax(SCORES)[best]
    assert chi_square(counts[best], kept / kept.sum()) < LIMIT


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    # Ordered: 0.5, 0.3, 0.15, 0.05. As in AudioCraft, the token that crosses the limit stays.
    scores = np.log([0.3, 0.05, 0.5, 0.15]).tolist()
    assert np.flatnonzero(draw_many(scores, Sampling(top_p=0.4))).tolist() == [2]
    assert np.flatnonzero(draw_many(scores, Sampling(top_p=0.6))).tolist() == [0, 2]
    assert np.flatnonzero(draw_many(scores, Sampling(top_p=0.9))).tolist() == [0, 2, 3]
    assert np.flatnonzero(draw_many(scores, Sampling(top_p=1.0))).tolist() == [0, 1, 2, 3]


def test_top_p_beats_top_k() -> None:
    scores = np.log([0.3, 0.05, 0.5, 0.15]).tolist()
    assert np.flatnonzero(draw_many(scores, Sampling(top_p=0.9, top_k=1))).tolist() == [0, 2, 3]


def test_greedy_is_the_argmax_whatever_the_seed(logits: torch.Tensor) -> None:
    rows = [Sampling(use_sampling=False, seed=i, temperature=9.0, top_p=0.5) for i in range(8)]
    assert torch.equal(sample(logits, rows, frames_of(8)), logits.argmax(-1))


def test_one_best_is_the_argmax(logits: torch.Tensor) -> None:
    rows = [Sampling(top_k=1, seed=i, temperature=9.0) for i in range(8)]
    assert torch.equal(sample(logits, rows, frames_of(8)), logits.argmax(-1))


def test_a_low_temperature_comes_to_the_argmax(logits: torch.Tensor) -> None:
    rows = [Sampling(temperature=1e-4, seed=i) for i in range(8)]
    assert torch.equal(sample(logits, rows, frames_of(8)), logits.argmax(-1))


MIXED = [
    Sampling(seed=1),
    Sampling(seed=2, top_k=5, temperature=1.7),
    Sampling(seed=3, use_sampling=False),
    Sampling(seed=4, top_p=0.9),
    Sampling(seed=5, top_p=0.3, temperature=2.0),
    Sampling(seed=6, top_k=0, temperature=0.7),
    Sampling(seed=7, top_k=1),
    Sampling(seed=2**64 - 1, top_k=17),
]


def test_a_row_does_not_depend_on_its_neighbours(logits: torch.Tensor) -> None:
    frames = np.arange(8 * BOOKS, dtype=np.int64).reshape(8, BOOKS)
    together = sample(logits, MIXED, frames)
    for i, row in enumerate(MIXED):
        assert torch.equal(sample(logits[i : i + 1], [row], frames[i : i + 1])[0], together[i])
    backwards = sample(logits.flip(0), MIXED[::-1], frames[::-1].copy())
    assert torch.equal(backwards.flip(0), together)


def test_the_logits_are_left_as_they_were(logits: torch.Tensor) -> None:
    before = logits.clone()
    sample(logits, MIXED, frames_of(8))
    assert torch.equal(logits, before)


def test_noise_is_a_function_of_its_four_coordinates() -> None:
    seeds = np.array([0, 1, 2**63], dtype=np.uint64)
    frames = np.array([[0, 1, 2, 3], [5, 5, 5, 5], [0, 1, 2, 3]], dtype=np.int64)
    tokens = np.broadcast_to(np.arange(CARD), (3, BOOKS, CARD))
    noise = gumbel(seeds, frames, tokens)
    assert noise.dtype == np.float32
    assert np.array_equal(noise, gumbel(seeds, frames, tokens))
    order = np.random.default_rng(0).permutation(CARD)
    assert np.array_equal(gumbel(seeds, frames, tokens[..., order]), noise[..., order])
    assert np.array_equal(gumbel(seeds[1:2], frames[1:2], tokens[1:2])[0], noise[1])
    assert np.unique(noise).size > 0.99 * noise.size, "each coordinate matters"


def test_noise_is_the_same_on_every_machine() -> None:
    noise = gumbel(np.array([42], np.uint64), np.array([[10, 9]]), np.array([[[0, 511], [0, 511]]]))
    assert noise.flatten() == pytest.approx([-0.943807, 1.160951, 0.441413, 3.916017], abs=1e-5)


def test_noise_is_a_standard_gumbel() -> None:
    tokens = np.broadcast_to(np.arange(2048), (16, BOOKS, 2048))
    frames = np.repeat(np.arange(16)[:, None], BOOKS, axis=1)
    noise = gumbel(np.full(16, 9, np.uint64), frames, tokens)
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.05)
