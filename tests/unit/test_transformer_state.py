"""What the executor keeps of a stream: known tokens together, conditions that change, slots, and other precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from services.models.conditions import Conditioner, Prompt, RowConditions
from services.models.matrices import Matrix
from services.models.tiny import text_encoder
from services.models.transformer import TransformerExecutor
from services.models.weights import LinearWeights
from tests.language_models import PROMPT, random_lm, some_source, some_tokens, step


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


@pytest.mark.parametrize("cuts", [[90], [1, 70, 19], [3] * 30])
def test_known_tokens_together_leave_the_same_bits_as_one_by_one(
    executor: TransformerExecutor, cuts: list[int]
) -> None:
    conditions = Conditioner(executor.lm).prepare([Prompt(PROMPT)], True)
    tokens = some_tokens(executor, 120)
    one, other, neighbour = (executor.begin(conditions, 120) for _ in range(3))
    for position in range(120):
        expected = step(executor, [one], [tokens[position : position + 1]])
        if position == sum(cuts) - 1:
            break
    done = 0
    for cut in cuts:
        # A neighbour that is taken in along with it, in pieces of another length.
        company = some_tokens(executor, 2, seed=done)
        found = step(executor, [neighbour, other], [company, tokens[done : done + cut]])[1:]
        done += cut
    assert torch.equal(found, expected)
    for position in range(done, 120):
        both = step(executor, [one, other], [tokens[position : position + 1]] * 2)
        assert torch.equal(both[0], both[1])
    for state in (one, other, neighbour):
        executor.end(state)


def test_new_conditions_take_effect_at_the_next_step_and_only_for_their_stream(executor: TransformerExecutor) -> None:
    first, second = ([RowConditions(((some_source(executor, 20, seed), 1.0),))] for seed in (1, 2))
    tokens = some_tokens(executor, 12)
    changed, kept, alone = (executor.begin(first, 12) for _ in range(3))
    for index in range(12):
        if index == 6:
            executor.recondition(changed, second)
        token = tokens[index : index + 1]
        both = step(executor, [changed, kept], [token, token])
        assert torch.equal(both[1:], step(executor, [alone], [token]))
        assert torch.equal(both[0], both[1]) == (index < 6)
    with pytest.raises(ValueError, match="conditions"):
        executor.recondition(changed, second * 2)
    for state in (changed, kept, alone):
        executor.end(state)


def test_sources_are_mixed_by_their_weights(executor: TransformerExecutor) -> None:
    """A mix of a source with itself is that source; one of weight 0 is silent."""
    source, other, token = some_source(executor, 17, 1), some_source(executor, 40, 2), some_tokens(executor, 1)
    rows = [
        ((source, 1.0),),
        ((source, 0.3), (source.clone(), 0.7)),
        ((source, 1.0), (other, 0.0)),
        ((source, 0.5), (other, 0.3), (some_source(executor, 5, 3), 0.2)),
        ((source, 0.0), (other, 1.0)),
        ((other, 1.0),),
    ]
    states = [executor.begin([RowConditions(row)], 8) for row in rows]
    plain, twice, silent, mixed, faded, last = step(executor, states, [token] * len(rows))
    assert torch.allclose(plain, twice, atol=1e-4)
    assert torch.equal(plain, silent)
    assert torch.equal(faded, last)
    assert not torch.allclose(plain, mixed, atol=1e-2)
    # The same sources again with other weights: nothing is projected, and the mix is that of a new stream.
    executor.recondition(states[2], [RowConditions(((source, 0.0), (other, 1.0)))])
    executor.recondition(states[4], [RowConditions(((source, 0.0), (other, 1.0)))])
    again = step(executor, [states[2], states[4]], [token] * 2)
    assert torch.isfinite(again).all()
    fresh = executor.begin([RowConditions(((other, 1.0),))], 8)
    assert torch.equal(step(executor, [fresh], [token])[0], last)
    for state in [*states, fresh]:
        executor.end(state)


def test_a_mix_is_what_separate_attentions_give(executor: TransformerExecutor, lm: Any) -> None:
    """The first layer's cross-attention of AudioCraft itself, over each source, is the oracle."""
    parts = [(some_source(executor, 17, 1), 0.6), (some_source(executor, 33, 2), 0.4)]
    layer, token = lm.transformer.layers[0], some_tokens(executor, 1)
    state = executor.begin([RowConditions(tuple(parts))], 8)
    heard: list[torch.Tensor] = []
    cross = executor._layers[0].cross
    assert cross is not None
    original = type(cross.out).__call__

    def listen(matrix: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if matrix is cross.out:
            heard.append(original(matrix, x))
        if matrix is cross.query:
            heard.append(x)
        return original(matrix, x, residual)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cross.out), "__call__", listen)
        step(executor, [state], [token])
    queries, result = heard
    with torch.no_grad():
        expected = sum(
            weight * layer.cross_attention(queries[None, :1], source[None], source[None], need_weights=False)[0]
            for source, weight in parts
        )
    assert torch.allclose(result[:1], expected[0], atol=1e-5)
    executor.end(state)


def test_streams_that_begin_later_may_need_more_of_everything(lm: Any) -> None:
    """Slots, positions, sources and their length grow under a stream that goes on, bit for bit as alone."""
    growing, alone = TransformerExecutor(lm), TransformerExecutor(lm)
    conditions = [RowConditions(((some_source(growing, 32, 1), 1.0),))]
    tokens = some_tokens(growing, 20)
    state, other = growing.begin(conditions, 20), alone.begin(conditions, 20)
    sizes, company = set(), []
    for index in range(20):
        if index in (3, 7, 11):
            newcomer = RowConditions(
                tuple((some_source(growing, 30 * index, part), 1 / index) for part in range(index // 3))
            )
            company += [growing.begin([newcomer, newcomer], 40 * index) for _ in range(3)]
        token = tokens[index : index + 1]
        found = step(growing, [*company, state], [token] * (len(company) + 1))[-1]
        assert torch.equal(found, step(alone, [other], [token])[0])
        sizes.add((growing._arena.slots, growing._arena.length, *growing._arena.source_shape))
    assert len(sizes) == 4


def test_a_slot_is_given_back_empty(lm: Any) -> None:
    executor = TransformerExecutor(lm)
    conditions = Conditioner(lm).prepare([Prompt(PROMPT)], True)
    tokens = some_tokens(executor, 70)
    first = executor.begin(conditions, 70)
    expected = step(executor, [first], [tokens])
    slots = [row.slot for row in first.rows]
    executor.end(first)
    executor.end(first)
    length = executor._arena.length
    assert not executor._arena.cache[..., :length, :].any()
    assert not executor._arena.sources.any()
    again = executor.begin(conditions, 70)
    assert [row.slot for row in again.rows] == slots
    assert torch.equal(step(executor, [again], [tokens]), expected)


def test_streams_close_ranks_when_others_leave(lm: Any) -> None:
    """A row that moves to another slot says what it would have said."""
    executor = TransformerExecutor(lm)
    tokens = some_tokens(executor, 16)
    conditions = [[RowConditions(((some_source(executor, 5 + seed, seed), 1.0),))] * 2 for seed in range(10)]
    states = [executor.begin(rows, 16) for rows in conditions]
    for index in range(8):
        step(executor, states, [tokens[index : index + 1]] * 10)
    for gone in states[:8]:
        executor.end(gone)
    left = [row.slot for state in states[8:] for row in state.rows]
    assert sorted(left) == [0, 1, 2, 3]
    assert not executor._arena.cache[:, :, 4:, :, : executor._arena.length].any()
    alone = executor.begin(conditions[9], 16)
    step(executor, [alone], [tokens[:8]])
    for index in range(8, 16):
        both = step(executor, states[8:], [tokens[index : index + 1]] * 2)
        assert torch.equal(both[1], step(executor, [alone], [tokens[index : index + 1]])[0])


def test_a_stream_keeps_to_its_length(executor: TransformerExecutor) -> None:
    state = executor.begin(Conditioner(executor.lm).prepare([Prompt("")], False), 5)
    step(executor, [state], [some_tokens(executor, 4)])
    with pytest.raises(ValueError, match="tokens: 2 after step 4"):
        step(executor, [state], [some_tokens(executor, 2)])
    step(executor, [state], [some_tokens(executor, 1)])
    executor.end(state)


def test_conditions_that_can_not_be_taken_leave_no_slot_behind(lm: Any) -> None:
    executor = TransformerExecutor(lm)
    with pytest.raises(RuntimeError):
        executor.begin([RowConditions(((torch.zeros(3, lm.dim + 1), 1.0),))], 10)
    assert executor._arena.take(1, 10) == [0]


@pytest.mark.parametrize(("precision", "divergence"), [("bf16", 2e-2), ("int8", 2e-2)])
def test_other_precisions_stay_close(lm: Any, executor: TransformerExecutor, precision: str, divergence: float) -> None:
    """Mean KL divergence from fp32's distribution; unrelated rows are whole units apart."""
    fast = TransformerExecutor(lm, precision)
    assert fast.precision == precision
    conditions = Conditioner(lm).prepare([Prompt(PROMPT)], True)
    tokens = some_tokens(executor, 60)
    states = executor.begin(conditions, 60), fast.begin(conditions, 60)
    pairs = []
    for index in range(60):
        given = tokens[index : index + 1]
        pairs.append(
            [run.step([state], [given], [1.0])[0] for run, state in zip((executor, fast), states, strict=True)]
        )
    exact, close = (torch.stack(part).log_softmax(-1) for part in zip(*pairs, strict=True))
    assert close.dtype == torch.float32
    assert float((exact.exp() * (exact - close)).sum(-1).mean()) < divergence
    assert float((exact.exp() * (exact - close.roll(1, 0))).sum(-1).mean()) > 0.5
    executor.end(states[0])


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_a_precision_that_the_device_does_not_run_is_refused(lm: Any, precision: str) -> None:
    with pytest.raises(ValueError, match=f"precision: {precision} can't be run on cpu"):
        TransformerExecutor(lm, precision)


@pytest.mark.parametrize("shape", [(40, 64), (33, 50), (7, 16)], ids=["whole blocks", "odd columns", "few rows"])
@pytest.mark.parametrize("biased", [False, True])
def test_quantised_weights_multiply_as_their_source(shape: tuple[int, int], biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * torch.logspace(-3, 3, shape[0])[:, None]
    bias = torch.randn(shape[0], generator=generator) if biased else None
    x, residual = torch.randn(5, shape[1], generator=generator), torch.randn(5, shape[0], generator=generator)
    weight[3] = 0
    expected = torch.nn.functional.linear(x, weight, bias)
    found = Matrix.of(LinearWeights(weight, bias), "int8")
    size = weight.norm(dim=1) * x.norm(dim=1, keepdim=True)
    assert (found.weight.dtype == torch.int8) == (shape[1] % 16 == 0)
    assert bool(((found(x) - expected).abs() <= 0.01 * size + 1e-6).all())
    assert bool(((found(x, residual) - expected - residual).abs() <= 0.01 * size + 1e-5).all())
