"""Which executor a model gets, at which precision, and what the smaller precisions change."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from services.models.conditions import Conditioner, Prompt
from services.models.execution import QUANTISED_PARAMETERS, make_executor, release, resolve, weight_bytes
from services.models.executor import Executor, UnsupportedModel
from services.models.native import NativeExecutor
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG
from services.models.transformer import TransformerExecutor
from tests.bench import __main__ as bench
from tests.language_models import PROMPT, random_lm

LAYERS = LM_CONFIG.replace("num_layers: 6", "num_layers: 2")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return folder


@pytest.fixture
def lm(encoder: Path) -> Any:
    return random_lm(encoder, LAYERS)


def likeliest(executor: Executor[Any], lm: Any, steps: int = 60) -> list[list[int]]:
    """Return the greedy tokens of each step."""
    state = executor.begin(Conditioner(lm).prepare([Prompt(PROMPT)], True), steps)
    tokens = [torch.full((lm.n_q,), executor.start_token)]
    for _ in range(steps):
        tokens.append(executor.step([state], [tokens[-1][None]], [3.0])[0].argmax(-1))
    executor.end(state)
    return [token.tolist() for token in tokens]


@pytest.mark.parametrize(
    ("asked", "parameters", "expected"),
    [
        ("auto", QUANTISED_PARAMETERS - 1, "fp32"),
        ("auto", QUANTISED_PARAMETERS, "int8"),
        ("fp32", QUANTISED_PARAMETERS, "fp32"),
        ("bf16", 1, "bf16"),
        ("int8", 1, "int8"),
    ],
)
def test_a_cpu_quantises_what_it_would_wait_for(asked: Any, parameters: int, expected: str) -> None:
    assert resolve(asked, CPU, parameters) == expected


@pytest.mark.parametrize(("asked", "bf16", "expected"), [("auto", True, "bf16"), ("auto", False, "fp16")])
def test_a_gpu_takes_what_it_supports(asked: Any, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert resolve(asked, CUDA, QUANTISED_PARAMETERS) == expected
    for explicit in ("fp32", "bf16", "fp16"):
        assert resolve(explicit, CUDA, QUANTISED_PARAMETERS) == explicit


@pytest.mark.parametrize(("asked", "device"), [("fp16", CPU), ("int8", CUDA)])
def test_what_a_device_does_not_run_is_refused_with_a_hint(asked: Any, device: torch.device) -> None:
    with pytest.raises(ValueError, match=f"precision: {asked} runs on .* only; hint: auto, "):
        resolve(asked, device, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_cpu_runs_the_kernels(lm: Any, precision: Any) -> None:
    executor = make_executor(lm, precision)
    assert isinstance(executor, NativeExecutor)
    assert executor.precision == precision
    expected = likeliest(executor, lm)
    conditions = Conditioner(lm).prepare([Prompt(PROMPT)], True)
    layers = sum(part.numel() for module in (lm.transformer, lm.linears) for part in module.parameters())
    assert weight_bytes(lm, precision) == layers * {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    # What the executor holds is its own: the model's layers may go.
    release(lm)
    state = executor.begin(conditions, 2)
    assert executor.step([state], [torch.tensor(expected[:1])], [3.0])[0].argmax(-1).tolist() == expected[1]


def test_auto_takes_fp32_for_a_small_model_and_fp16_is_refused(lm: Any) -> None:
    assert make_executor(lm).precision == "fp32"
    with pytest.raises(ValueError, match="fp16 runs on GPUs only"):
        make_executor(lm, "fp16")


def test_without_a_compiler_torch_gives_the_same_tokens(
    lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = likeliest(make_executor(lm), lm)
    monkeypatch.setenv("ANTIPHON_KERNELS", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING, "antiphon.models"):
        executor = make_executor(lm)
    assert isinstance(executor, TransformerExecutor)
    (record,) = (record for record in caplog.records if record.name == "antiphon.models")
    assert record.message == "the kernels can't run this model; PyTorch's do"
    assert record.__dict__["reason"].startswith("false -std=c++17 ")
    assert likeliest(executor, lm) == expected
    assert len({token for step in expected for token in step}) > 20, "a few repeated tokens would prove little"
    for precision in ("bf16", "int8"):
        assert make_executor(lm, precision).precision == precision


def test_a_size_that_the_kernels_refuse_runs_on_torch(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = random_lm(encoder, LAYERS.replace("num_heads: 6", "num_heads: 8"))
    with caplog.at_level(logging.WARNING, "antiphon.models"):
        assert isinstance(make_executor(lm), TransformerExecutor)
    assert "heads of 24" in caplog.records[-1].__dict__["reason"]


def test_a_part_that_nothing_runs_is_refused(encoder: Path) -> None:
    lm = random_lm(encoder, LAYERS.replace("positional_embedding: sin", "positional_embedding: rope"))
    with pytest.raises(UnsupportedModel, match="positional_embedding"):
        make_executor(lm)


def test_smaller_precisions_stay_close_on_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark's figures, over fewer steps; unrelated distributions are whole nats apart."""
    monkeypatch.setattr("sys.argv", ["bench", "precision", "--steps", "120", "--threads", "1"])
    assert bench.main() == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["executor"] == "NativeExecutor"
    assert facts["predictions"] == 2 * 4 * 117
    bf16, int8 = facts["bf16"], facts["int8"]
    assert 0 < bf16["kl_mean"] < 2e-3
    assert bf16["kl_mean"] < int8["kl_mean"] < 3e-2
    assert int8["kl_p99"] < 0.15
    assert bf16["top1_agreement"] > 0.96
    assert int8["top1_agreement"] > 0.92
    assert bf16["top1_agreement_clear"] > 0.99
    assert int8["top1_agreement_clear"] > 0.95
    assert bf16["sampled_agreement"] > 0.97
    assert int8["sampled_agreement"] > 0.92
