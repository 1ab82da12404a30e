"""The torch executor on a GPU against itself on the CPU: the one part that a machine without a GPU can't test."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from services.models.conditions import RowConditions
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import build_lm
from services.models.transformer import TransformerExecutor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return build_lm(folder).eval()


def conditions(lm: Any, length: int, seed: int) -> list[RowConditions]:
    generator = torch.Generator().manual_seed(seed)
    return [RowConditions(((torch.randn(length, lm.dim, generator=generator), 1.0),)) for _ in range(2)]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.25), ("fp16", 0.05)])
def test_a_gpu_says_what_the_cpu_says(lm: Any, precision: str, tolerance: float) -> None:
    """Streams of several lengths join, prefill, are given other conditions, make the arena grow, and leave."""
    tokens = torch.randint(lm.card, (300, lm.n_q), generator=torch.Generator().manual_seed(0))
    logits = []
    for executor in (TransformerExecutor(lm), TransformerExecutor(copy.deepcopy(lm).to(CUDA), precision)):
        found = []
        states = [executor.begin(conditions(lm, 20, 0), 200)]
        for index in range(150):
            if index in (10, 20, 30):
                states.append(executor.begin(conditions(lm, 20 * index, index), 20 * index))
            if index == 40:
                executor.recondition(states[0], conditions(lm, 9, 99))
            if index == 100:
                executor.end(states.pop(1))
            given = [tokens[index : index + (70 if index == 50 and at == 0 else 1)] for at in range(len(states))]
            found.append(executor.step(states, given, [3.0] * len(states)).cpu())
            if states[0].position == 200:
                break
        logits.append(torch.cat(found))
    assert logits[1].dtype == torch.float32
    assert torch.allclose(logits[0], logits[1], atol=tolerance * float(logits[0].abs().max()))


def test_a_graph_replays_what_the_kernels_do(lm: Any) -> None:
    model = copy.deepcopy(lm).to(CUDA)
    graphed, plain = TransformerExecutor(model), TransformerExecutor(model)
    plain._forward = lambda inputs, *shape: plain._predict(inputs.to(CUDA), *shape)  # type: ignore[assignment]
    tokens = torch.randint(lm.card, (80, lm.n_q), generator=torch.Generator().manual_seed(0))
    one, other = (executor.begin(conditions(lm, 20, 0), 80) for executor in (graphed, plain))
    for index in range(80):
        given = [tokens[index : index + 1]]
        assert torch.equal(graphed.step([one], given, [3.0]), plain.step([other], given, [3.0]))
    assert len(graphed._forward._graphs) == 2
