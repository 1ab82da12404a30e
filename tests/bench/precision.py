"""What bf16 and int8 change: each precision beside fp32, over the same tokens of the embedded model or another.

Pieces are generated in fp32 with guidance and sampling, as a server does; the same tokens are then given to each
precision one step at a time, and the guided logits compared wherever the piece has a code. Nothing is timed.

- ``top1_agreement``: how often both find the same token the likeliest.
- ``top1_agreement_clear``: the same where fp32's likeliest is more than 0.1 nats above the next.
- ``kl_mean``, ``kl_p99``: nats that fp32's distribution is from the other one.
- ``sampled_agreement``: how often the same noise draws the same token, at the model's default sampling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from services.models.conditions import Conditioner, Prompt, RowConditions
from services.models.execution import Precision, make_executor
from services.models.executor import Executor
from services.models.loader import load_generator
from services.models.patterns import Schedule
from services.models.sampling import Sampling, sample

SUMMARY = "Compare the logits of each precision to those of fp32, on the embedded model or another."
PROMPTS = ("a slow piano melody in C minor", "fast happy guitar with drums at 140 bpm")
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8")
STEPS = 500
CLEAR_NATS = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="name or folder (default: tiny)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each piece (default: {STEPS})")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")


def run(arguments: argparse.Namespace) -> None:
    """Compare, print a table and, as the last line, one JSON object."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    facts: dict[str, Any] = {"model": arguments.model, "pieces": len(PROMPTS), "steps": arguments.steps}
    facts |= measure(arguments.steps, model=arguments.model)
    Console().print(_table(facts))
    print(json.dumps(facts))


def measure(steps: int, prompts: Sequence[str] = PROMPTS, model: str = "tiny") -> dict[str, Any]:
    """Return what ran, ``predictions`` (the codes compared) and the figures of each precision."""
    lm = load_generator(model).lm
    schedule = Schedule(lm.pattern_provider, steps - lm.n_q + 1)
    pieces = [(Conditioner(lm).prepare([Prompt(text)], True), Sampling(seed=seed)) for seed, text in enumerate(prompts)]
    exact = make_executor(lm, "fp32")
    played = [_play(exact, schedule, *piece) for piece in pieces]
    facts: dict[str, Any] = {"executor": type(exact).__name__}
    facts["predictions"] = len(prompts) * int((schedule.frames >= 0).sum())
    for precision in PRECISIONS:
        executor = make_executor(lm, precision)
        assert executor.precision == precision
        followed = [
            _play(executor, schedule, *piece, tokens) for piece, (tokens, _, _) in zip(pieces, played, strict=True)
        ]
        facts[precision] = _compare([part[1:] for part in played], [part[1:] for part in followed])
    return facts


def _play(
    executor: Executor[Any],
    schedule: Schedule,
    conditions: Sequence[RowConditions],
    sampling: Sampling,
    given: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens of each step ``[S, K]``, what follows them: guided logits and draws of all codes of the piece.

    Args:
        given: take these tokens in instead of what was drawn.
    """
    state = executor.begin(conditions, schedule.step_count)
    tokens = torch.full(schedule.frames.shape, executor.start_token) if given is None else given
    logits, draws = [], []
    for step, frames in enumerate(schedule.frames):
        scores = executor.step([state], [tokens[step][None]], [sampling.cfg_coef])
        drawn, due = sample(scores, [sampling], frames[None])[0], torch.from_numpy(frames >= 0)
        if given is None and step + 1 < len(tokens):
            tokens[step + 1] = torch.where(due, drawn, executor.start_token)
        logits.append(scores[0][due])
        draws.append(drawn[due])
    executor.end(state)
    return tokens, torch.cat(logits), torch.cat(draws)


def _compare(
    exact: Sequence[tuple[torch.Tensor, torch.Tensor]], found: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, float]:
    ours, theirs = (torch.cat([logits for logits, _ in side]).double().log_softmax(-1) for side in (found, exact))
    same = ours.argmax(-1) == theirs.argmax(-1)
    best = theirs.topk(2).values
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    draws = [torch.cat([drawn for _, drawn in side]) for side in (found, exact)]
    return {
        "top1_agreement": round(float(same.double().mean()), 4),
        "top1_agreement_clear": round(float(same[best[:, 0] - best[:, 1] > CLEAR_NATS].double().mean()), 4),
        "kl_mean": float(np.format_float_scientific(divergence.mean().item(), 2)),
        "kl_p99": float(np.format_float_scientific(divergence.quantile(0.99).item(), 2)),
        "sampled_agreement": round(float((draws[0] == draws[1]).double().mean()), 4),
    }


def _table(facts: dict[str, Any]) -> Table:
    title = f"against fp32, {facts['pieces']} guided pieces of {facts['steps']} steps, {facts['predictions']} codes"
    table = Table(title=title)
    for heading in ("precision", *facts[PRECISIONS[0]]):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    for precision in PRECISIONS:
        table.add_row(precision, *(f"{figure:.4g}" for figure in facts[precision].values()))
    return table
