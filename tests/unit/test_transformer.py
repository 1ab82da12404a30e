"""The step-by-step executor against AudioCraft's own generation loop, and against itself in other company."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audiocraft.modules.conditioners import ConditioningAttributes

from services.models.conditions import Conditioner, Prompt
from services.models.executor import UnsupportedModel
from services.models.patterns import Schedule
from services.models.sampling import Sampling, sample
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG, build_lm
from services.models.transformer import TransformerExecutor

PROMPT = "a happy fast piano melody"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return folder


@pytest.fixture(scope="module")
def lm(encoder: Path) -> Any:
    """Random weights, made larger: fresh ones would repeat one token for ever."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_lm(encoder).eval()
    for embedding in model.emb:
        embedding.weight.data.mul_(8)
    for head in model.linears:
        head.weight.data.mul_(4)
    return model


@pytest.fixture(scope="module")
def executor(lm: Any) -> TransformerExecutor:
    return TransformerExecutor(lm)


class Piece:
    """A request that is stepped by hand."""

    def __init__(self, executor: TransformerExecutor, prompt: str, sampling: Sampling, frame_count: int) -> None:
        self.sampling = sampling
        self.schedule = Schedule(executor.lm.pattern_provider, frame_count)
        guided = bool(prompt) and sampling.cfg_coef != 1.0
        conditions = Conditioner(executor.lm).prepare([Prompt(prompt)], guided)
        self.state = executor.begin(conditions, self.schedule.step_count)
        self.codes = torch.full((executor.lm.n_q, frame_count), -1)
        self.tokens = torch.full((executor.lm.n_q,), executor.start_token)
        self.logits: list[torch.Tensor] = []

    @property
    def done(self) -> bool:
        return self.state.position == self.schedule.step_count


def advance(executor: TransformerExecutor, pieces: Sequence[Piece]) -> None:
    frames = np.stack([piece.schedule.frames[piece.state.position] for piece in pieces])
    tokens = [piece.tokens[None] for piece in pieces]
    logits = executor.step([piece.state for piece in pieces], tokens, [piece.sampling.cfg_coef for piece in pieces])
    drawn = sample(logits, [piece.sampling for piece in pieces], frames)
    for piece, row, due, scores in zip(pieces, drawn, torch.from_numpy(frames), logits, strict=True):
        valid = due >= 0
        piece.tokens = torch.where(valid, row, executor.start_token)
        piece.codes[valid, due[valid]] = row[valid]
        piece.logits.append(scores)


def generate(executor: TransformerExecutor, prompt: str, sampling: Sampling, frame_count: int) -> Piece:
    piece = Piece(executor, prompt, sampling, frame_count)
    while not piece.done:
        advance(executor, [piece])
    return piece


@pytest.mark.parametrize(("guidance", "frame_count"), [(3.0, 500), (1.0, 500), (0.5, 60)])
def test_greedy_tokens_are_those_of_audiocraft(
    lm: Any, executor: TransformerExecutor, guidance: float, frame_count: int
) -> None:
    with torch.no_grad():
        expected = lm.generate(
            None,
            [ConditioningAttributes(text={"description": PROMPT})],
            max_gen_len=frame_count,
            use_sampling=False,
            cfg_coef=guidance,
        )[0]
    ours = generate(executor, PROMPT, Sampling(use_sampling=False, cfg_coef=guidance), frame_count).codes
    assert torch.equal(ours, expected)
    assert expected.unique().numel() > 30, "a few repeated tokens would prove little"


@torch.no_grad()
def test_an_empty_prompt_is_unconditional(lm: Any, executor: TransformerExecutor) -> None:
    """Guidance has nothing to add to it, so a row is saved."""
    nothing = [ConditioningAttributes(text={"description": None})]
    expected = lm.generate(None, nothing, max_gen_len=60, use_sampling=False, cfg_coef=3.0)[0]
    piece = generate(executor, "", Sampling(use_sampling=False, cfg_coef=3.0), 60)
    assert torch.equal(piece.codes, expected)
    assert len(piece.state.rows) == 1


def test_the_prompt_and_the_guidance_matter(executor: TransformerExecutor) -> None:
    greedy = Sampling(use_sampling=False)
    base = generate(executor, PROMPT, greedy, 20).logits[0]
    assert not torch.equal(generate(executor, "organ", greedy, 20).logits[0], base)
    assert not torch.equal(generate(executor, PROMPT, Sampling(use_sampling=False, cfg_coef=4.0), 20).logits[0], base)


MIXED = [
    ("piano", Sampling(seed=0), 20),
    ("a sad slow guitar thing", Sampling(seed=1, top_k=50, temperature=1.1), 35),
    ("", Sampling(seed=2, top_k=0), 12),
    ("x", Sampling(seed=3, cfg_coef=1.0), 30),
    ("organ", Sampling(seed=4, use_sampling=False, cfg_coef=5.0), 18),
    ("trumpet with drums 120 bpm", Sampling(seed=5, top_p=0.9), 40),
    ("foo bar", Sampling(seed=6, cfg_coef=1.0, temperature=1.6), 5),
    ("marimba", Sampling(seed=7, top_k=1), 25),
]


@pytest.mark.parametrize(("threads", "longest"), [(1, 40), (2, 6)])
def test_a_request_does_not_depend_on_its_neighbours(executor: TransformerExecutor, threads: int, longest: int) -> None:
    """Eight requests join and leave at different times; each is, bit for bit, what it is alone."""
    requests = [(prompt, sampling, min(frame_count, longest)) for prompt, sampling, frame_count in MIXED]
    torch.set_num_threads(threads)
    try:
        together = [Piece(executor, *request) for request in requests]
        joined = 0
        while not all(piece.done for piece in together):
            joined += 1
            # A newcomer every other step.
            advance(executor, [piece for piece in together[: joined // 2 + 1] if not piece.done])
        for piece, request in zip(together, requests, strict=True):
            alone = generate(executor, *request)
            assert torch.equal(piece.codes, alone.codes)
            assert all(torch.equal(a, b) for a, b in zip(piece.logits, alone.logits, strict=True))
            assert (piece.codes >= 0).all()
    finally:
        torch.set_num_threads(1)


def test_the_order_of_the_batch_does_not_matter(executor: TransformerExecutor) -> None:
    forwards = [Piece(executor, prompt, sampling, 10) for prompt, sampling, _ in MIXED]
    backwards = [Piece(executor, prompt, sampling, 10) for prompt, sampling, _ in MIXED]
    while not forwards[0].done:
        advance(executor, forwards)
        advance(executor, backwards[::-1])
    for one, other in zip(forwards, backwards, strict=True):
        assert torch.equal(one.codes, other.codes)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("positional_embedding", "positional_embedding: sin", "positional_embedding: rope"),
        ("norm_first", "norm_first: true", "norm_first: false"),
        ("layer_scale", "layer_scale: null", "layer_scale: 0.1"),
        ("fuser", "prepend: []\n  cross: [description]", "prepend: [description]\n  cross: []"),
    ],
)
def test_a_part_that_it_does_not_run_is_named(encoder: Path, name: str, old: str, new: str) -> None:
    assert old in LM_CONFIG
    with pytest.raises(UnsupportedModel, match=name):
        TransformerExecutor(build_lm(encoder, LM_CONFIG.replace(old, new)))
