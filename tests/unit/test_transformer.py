"""The step-by-step executor against AudioCraft's own generation loop, and against itself in other company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from audiocraft.modules.conditioners import ConditioningAttributes

from services.models.conditions import RowConditions
from services.models.executor import UnsupportedModel
from services.models.sampling import Sampling
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG, build_lm
from services.models.transformer import TransformerExecutor
from tests.language_models import PROMPT, Piece, advance, generate, random_lm, some_source


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return folder


@pytest.fixture(scope="module")
def lm(encoder: Path) -> Any:
    return random_lm(encoder)


@pytest.fixture(scope="module")
def executor(lm: Any) -> TransformerExecutor:
    return TransformerExecutor(lm)


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


@pytest.fixture(scope="module")
def prepending(encoder: Path) -> TransformerExecutor:
    """A model that hears its text before the first token, as the melody checkpoints do."""
    config = LM_CONFIG.replace("prepend: []\n  cross: [description]", "prepend: [description]\n  cross: []")
    return TransformerExecutor(random_lm(encoder, config))


@torch.no_grad()
def test_a_model_without_cross_attention_hears_what_stands_before_the_first_token(
    prepending: TransformerExecutor,
) -> None:
    lm = prepending.lm
    attributes = [ConditioningAttributes(text={"description": PROMPT})]
    expected = lm.generate(None, attributes, max_gen_len=80, use_sampling=False, cfg_coef=3.0)[0]
    piece = Piece(prepending, PROMPT, Sampling(use_sampling=False), 80)
    prepended = piece.conditions[0].prepend
    assert prepended is not None
    assert [row.filled for row in piece.state.rows] == [len(prepended)] * 2
    others = [Piece(prepending, prompt, Sampling(seed=1), 80) for prompt in ("piano", "organ and a longer text")]
    while not piece.done:
        advance(prepending, [others[0], piece, others[1]])
    assert torch.equal(piece.codes, expected)
    assert len(set(piece.codes.flatten().tolist())) > 15, "a few repeated tokens would prove little"
    with pytest.raises(ValueError, match="before the first token"):
        prepending.recondition(piece.state, piece.conditions)
    with pytest.raises(ValueError, match="no cross-attention"):
        prepending.begin([RowConditions(((some_source(prepending, 3), 1.0),))], 10)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("positional_embedding", "positional_embedding: sin", "positional_embedding: rope"),
        ("norm_first", "norm_first: true", "norm_first: false"),
        ("layer_scale", "layer_scale: null", "layer_scale: 0.1"),
        ("activation", "activation: gelu", "activation: geglu"),
        ("past_context", "past_context: null", "past_context: 10"),
        ("fuser", "sum: []", "sum: [description]"),
    ],
)
def test_a_part_that_it_does_not_run_is_named(encoder: Path, name: str, old: str, new: str) -> None:
    assert old in LM_CONFIG
    with pytest.raises(UnsupportedModel, match=name):
        TransformerExecutor(build_lm(encoder, LM_CONFIG.replace(old, new)))
