"""Random language models and the means to step them by hand, for the tests of executors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.models.conditions import Conditioner, Prompt
from services.models.patterns import Schedule
from services.models.sampling import Sampling, sample
from services.models.tiny.checkpoints import LM_CONFIG, build_lm
from services.models.transformer import TransformerExecutor, TransformerState

PROMPT = "a happy fast piano melody"


def random_lm(encoder: Path, config: str = LM_CONFIG) -> Any:
    """Random weights, made larger: fresh ones would repeat one token for ever."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_lm(encoder, config).eval()
    for embedding in model.emb:
        embedding.weight.data.mul_(8)
    for head in model.linears:
        head.weight.data.mul_(4)
    return model


class Piece:
    """A request that is stepped by hand."""

    def __init__(self, executor: TransformerExecutor, prompt: str, sampling: Sampling, frame_count: int) -> None:
        self.sampling = sampling
        self.schedule = Schedule(executor.lm.pattern_provider, frame_count)
        guided = bool(prompt) and sampling.cfg_coef != 1.0
        self.conditions = Conditioner(executor.lm).prepare([Prompt(prompt)], guided)
        self.state = executor.begin(self.conditions, self.schedule.step_count)
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


def step(executor: TransformerExecutor, states: Sequence[TransformerState], tokens: Sequence[torch.Tensor]) -> Any:
    return executor.step(states, tokens, [3.0] * len(states))


def some_tokens(executor: TransformerExecutor, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(executor.lm.card, (count, executor.lm.n_q), generator=generator)


def some_source(executor: TransformerExecutor, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, executor.lm.dim, generator=torch.Generator().manual_seed(seed))
