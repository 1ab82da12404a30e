"""The CPU kernels against AudioCraft's own loop, the torch executor, and themselves in other company."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from audiocraft.modules.conditioners import ConditioningAttributes

from services.models.conditions import Conditioner, Prompt, RowConditions
from services.models.executor import Executor, UnsupportedModel
from services.models.native import NativeExecutor, NativeState
from services.models.native_weights import PRECISIONS
from services.models.patterns import Schedule
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG
from services.models.transformer import TransformerExecutor
from tests.language_models import PROMPT, random_lm

LAYERS = LM_CONFIG.replace("num_layers: 6", "num_layers: 2")
PREPENDING = LAYERS.replace("prepend: []\n  cross: [description]", "prepend: [description]\n  cross: []")
BOOKS, CARD, DIM = 4, 512, 192


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "encoder"
    text_encoder.build(folder)
    return folder


@pytest.fixture(scope="module")
def lm(encoder: Path) -> Any:
    return random_lm(encoder, LAYERS)


@pytest.fixture(scope="module", params=PRECISIONS)
def executor(lm: Any, request: pytest.FixtureRequest) -> NativeExecutor:
    return NativeExecutor(lm, request.param)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def some_tokens(count: int, seed: int = 0, card: int = CARD) -> torch.Tensor:
    return torch.randint(card, (count, BOOKS), generator=torch.Generator().manual_seed(seed))


def some_source(length: int, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    return torch.randn(length, dim, generator=torch.Generator().manual_seed(seed))


def rows_of(*lengths: int) -> list[RowConditions]:
    """Return a row for each length, with a source of that length."""
    return [RowConditions(((some_source(length, length), 1.0),)) for length in lengths]


def follow(
    executor: Executor[Any], conditions: Sequence[RowConditions], tokens: torch.Tensor, guidance: float = 3.0
) -> torch.Tensor:
    """Return the logits ``[S, K, card]`` after each of the tokens, taken in one by one."""
    state = executor.begin(conditions, len(tokens))
    logits = [executor.step([state], [token[None]], [guidance])[0] for token in tokens]
    executor.end(state)
    return torch.stack(logits)


def greedy(executor: Executor[Any], lm: Any, prompt: str, guidance: float, frame_count: int) -> torch.Tensor:
    """Return the likeliest codes ``[K, T]``."""
    schedule = Schedule(lm.pattern_provider, frame_count)
    state = executor.begin(Conditioner(lm).prepare([Prompt(prompt)], guidance != 1.0), schedule.step_count)
    codes, tokens = torch.full((lm.n_q, frame_count), -1), torch.full((lm.n_q,), executor.start_token)
    for due in torch.from_numpy(schedule.frames):
        likeliest = executor.step([state], [tokens[None]], [guidance])[0].argmax(-1)
        valid = due >= 0
        tokens = torch.where(valid, likeliest, executor.start_token)
        codes[valid, due[valid]] = likeliest[valid]
    executor.end(state)
    return codes


@pytest.mark.parametrize(("guidance", "config"), [(3.0, LAYERS), (1.0, LAYERS), (3.0, PREPENDING)])
def test_greedy_tokens_are_those_of_audiocraft(encoder: Path, guidance: float, config: str) -> None:
    lm = random_lm(encoder, config)
    attributes = [ConditioningAttributes(text={"description": PROMPT})]
    with torch.no_grad():
        expected = lm.generate(None, attributes, max_gen_len=500, use_sampling=False, cfg_coef=guidance)[0]
    assert torch.equal(greedy(NativeExecutor(lm), lm, PROMPT, guidance, 500), expected)
    assert expected.unique().numel() > 30, "a few repeated tokens would prove little"


@pytest.mark.parametrize(
    ("heads", "size", "more"),
    [
        (4, 16, ""),
        (6, 32, "activation: relu"),
        (4, 48, "bias_attn: true, bias_ff: true, bias_proj: true"),
        (1, 64, "card: 500"),
        (4, 80, "hidden_scale: 3"),
        (2, 96, "custom: true, memory_efficient: false"),
        (1, 128, "card: 12"),
    ],
)
def test_logits_are_those_of_the_torch_executor(encoder: Path, heads: int, size: int, more: str) -> None:
    """Every size of head that the kernels know; odd numbers of blocks of outputs; each option of a layer."""
    config = LAYERS.replace("num_heads: 6", f"num_heads: {heads}").replace("dim: 192", f"dim: {heads * size}")
    for option in filter(None, more.split(", ")):
        name = option.split(":")[0]
        (line,) = (line for line in config.splitlines() if line.strip().startswith(f"{name}:"))
        config = config.replace(line, f"  {option}")
    lm = random_lm(encoder, config)
    for name, parameter in lm.named_parameters():
        if name.endswith("bias"):  # fresh ones are zero
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3
    tokens = some_tokens(40, card=lm.card)
    conditions = [RowConditions(((some_source(length, length, lm.dim), 1.0),)) for length in (21, 5)]
    found, expected = (follow(made, conditions, tokens) for made in (NativeExecutor(lm), TransformerExecutor(lm)))
    assert float((found - expected).abs().max()) < 1e-4
    assert float(expected.std()) > 0.1
    for precision in ("bf16", "int8"):
        close = follow(NativeExecutor(lm, precision), conditions, tokens)
        assert 0 < float((close - expected).square().mean() / expected.square().mean()) < 1e-2


def test_a_stream_does_not_depend_on_its_neighbours(executor: NativeExecutor, threads: int) -> None:
    """Eight streams of different prompts, lengths and positions join, change places and leave."""
    lengths = [(12 + 5 * index) // threads for index in range(8)]
    plans = [(some_tokens(lengths[i], i), rows_of(1 + 9 * i, 4)[: 1 + i % 2]) for i in range(8)]
    alone = [follow(executor, conditions, tokens) for tokens, conditions in plans]
    states: list[NativeState] = []
    while not states or any(state.position < len(tokens) for state, (tokens, _) in zip(states, plans, strict=False)):
        if len(states) < len(plans):
            tokens, conditions = plans[len(states)]
            states.append(executor.begin(conditions, len(tokens)))
        live = [index for index, state in enumerate(states) if state.position < len(plans[index][0])]
        live = live[::-1] if len(live) % 2 else live
        given = [plans[index][0][states[index].position][None] for index in live]
        logits = executor.step([states[index] for index in live], given, [3.0] * len(live))
        for index, found in zip(live, logits, strict=True):
            assert torch.equal(found, alone[index][states[index].position - 1])


def test_the_number_of_threads_does_not_matter(executor: NativeExecutor) -> None:
    tokens, found = some_tokens(12), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(follow(executor, rows_of(23, 7), tokens))
    torch.set_num_threads(1)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("cuts", [[90], [1, 70, 19], [7, 8, 9, 16, 17, 33], [3] * 30])
def test_known_tokens_together_leave_the_same_bits_as_one_by_one(executor: NativeExecutor, cuts: list[int]) -> None:
    tokens, conditions = some_tokens(100), rows_of(20, 5)
    expected = follow(executor, conditions, tokens)
    state, neighbour = executor.begin(conditions, 100), executor.begin(rows_of(9), 100)
    done = 0
    for cut in cuts:
        # A neighbour that is taken in along with it, in pieces of another length.
        pieces = [some_tokens(2, seed=done), tokens[done : done + cut]]
        done += cut
        assert torch.equal(executor.step([neighbour, state], pieces, [3.0] * 2)[1], expected[done - 1])
    assert state.position == done == 90
    for position in range(done, 100):
        assert torch.equal(executor.step([state], [tokens[position][None]], [3.0])[0], expected[position])


def test_what_stands_before_the_first_token_is_heard(encoder: Path, threads: int) -> None:
    lm = random_lm(encoder, PREPENDING)
    rows = [RowConditions((), some_source(9, 1)), RowConditions((), some_source(4, 2)), RowConditions(())]
    tokens = some_tokens(30)
    for conditions in (rows[:1], rows[:2], rows[1:]):
        expected = follow(TransformerExecutor(lm), conditions, tokens)
        ours = NativeExecutor(lm)
        found = follow(ours, conditions, tokens)
        assert float((found - expected).abs().max()) < 1e-4
        state = ours.begin(conditions, 30)
        assert [row.filled for row in state.rows] == [
            len(r.prepend) if r.prepend is not None else 0 for r in conditions
        ]
        assert torch.equal(ours.step([state], [tokens], [3.0])[0], found[-1])
    with pytest.raises(ValueError, match="before the first token"):
        ours.recondition(state, conditions)
    with pytest.raises(ValueError, match="no cross-attention"):
        ours.begin(rows_of(3), 10)


def test_sources_are_mixed_by_their_weights(lm: Any, executor: NativeExecutor) -> None:
    source, other, third = some_source(17, 1), some_source(40, 2), some_source(5, 3)
    tokens = some_tokens(10)

    def heard(*parts: tuple[torch.Tensor, float], by: Executor[Any] = executor) -> torch.Tensor:
        return follow(by, [RowConditions(parts)], tokens)

    plain, last = heard((source, 1.0)), heard((other, 1.0))
    assert torch.equal(heard((source, 1.0), (other, 0.0)), plain)
    assert torch.equal(heard((source, 0.0), (other, 1.0)), last)
    assert torch.equal(heard((source, 0.5), (source.clone(), 0.5)), plain)
    assert not torch.allclose(plain, last, atol=1e-2)
    parts = ((source, 0.5), (other, 0.3), (third, 0.2))
    reference = heard(*parts, by=TransformerExecutor(lm))
    error = float((heard(*parts) - reference).abs().max())
    assert error < {"fp32": 1e-4, "bf16": 0.1, "int8": 0.3}[executor.precision]
    assert float((plain - heard(*parts)).abs().max()) > 2 * error


def test_new_conditions_take_effect_at_the_next_step_and_only_for_their_stream(executor: NativeExecutor) -> None:
    tokens, first, second = some_tokens(12), rows_of(20, 6), rows_of(33, 8)
    kept = follow(executor, first, tokens)
    changed, neighbour = executor.begin(first, 12), executor.begin(first, 12)
    for index in range(12):
        if index == 6:
            executor.recondition(changed, second)
        both = executor.step([changed, neighbour], [tokens[index][None]] * 2, [3.0] * 2)
        assert torch.equal(both[1], kept[index])
        assert torch.equal(both[0], both[1]) == (index < 6)
    with pytest.raises(ValueError, match="conditions"):
        executor.recondition(changed, second[:1])


def test_a_fade_is_what_each_mix_gives(executor: NativeExecutor) -> None:
    """The same sources at every step, with other weights; at its end one leaves."""
    source, other, tokens = some_source(17, 1), some_source(40, 2), some_tokens(7)
    fading = executor.begin([RowConditions(((source, 1.0),))], 7)
    mixes = [((source, 1.0),), *(((source, 1 - w), (other, w)) for w in (0.2, 0.4, 0.6, 0.8, 1.0)), ((other, 1.0),)]
    for index, mix in enumerate(mixes):
        executor.recondition(fading, [RowConditions(mix)])
        found = executor.step([fading], [tokens[index][None]], [1.0])
        # A stream that heard the same until now, its sources given anew at each step.
        again = executor.begin([RowConditions(((source.clone(), 1.0),))], 7)
        for step in range(index + 1):
            executor.recondition(again, [RowConditions(tuple((part.clone(), weight) for part, weight in mixes[step]))])
            expected = executor.step([again], [tokens[step][None]], [1.0])
        assert torch.equal(found, expected)


def test_a_stream_keeps_to_its_length(executor: NativeExecutor) -> None:
    state, neighbour = executor.begin(rows_of(3), 5), executor.begin(rows_of(3), 9)
    executor.step([state], [some_tokens(4)], [1.0])
    with pytest.raises(ValueError, match="tokens: 2 after step 4"):
        executor.step([neighbour, state], [some_tokens(2)] * 2, [1.0] * 2)
    assert (state.position, neighbour.position) == (4, 0), "a step that was refused has moved nobody"
    executor.step([neighbour, state], [some_tokens(1)] * 2, [1.0] * 2)
    undisturbed = follow(executor, rows_of(3), torch.cat([some_tokens(1), some_tokens(8)]), 1.0)
    assert torch.equal(executor.step([neighbour], [some_tokens(8)], [1.0])[0], undisturbed[-1])


def test_sources_of_another_width_are_refused(executor: NativeExecutor) -> None:
    """The kernels would read past their end."""
    for wrong in (torch.zeros(3, DIM - 1), torch.zeros(3, DIM + 1), torch.zeros(DIM)):
        with pytest.raises(ValueError, match="conditions"):
            executor.begin([RowConditions(((wrong, 1.0),))], 10)


def test_streams_give_back_what_they_held(executor: NativeExecutor) -> None:
    """Each holds a megabyte or more; two hundred leave nothing behind."""
    tokens, process = some_tokens(3), psutil.Process()

    def live(count: int) -> int:
        for _ in range(count):
            state = executor.begin(rows_of(300), 8)
            executor.recondition(state, rows_of(310))
            executor.step([state], [tokens], [1.0])
            executor.end(state)
            executor.end(state)
        gc.collect()
        return int(process.memory_info().rss)

    before = live(20)
    assert live(200) - before < 20e6
    assert executor.cache_bytes(310) * 200 > 40e6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_heads: 6", "num_heads: 8"),  # heads of 24
        ("dim: 192\n  num_heads: 6", "dim: 160\n  num_heads: 5"),  # groups of 64 do not fit
        ("card: 512", "card: 510"),  # blocks of 16 outputs do not fit
        ("hidden_scale: 4", "hidden_scale: 0.5"),
        ("dim: 192\n  num_heads: 6", "dim: 448\n  num_heads: 4"),  # heads of 112
        ("positional_embedding: sin", "positional_embedding: rope"),
    ],
)
def test_sizes_and_parts_that_the_kernels_do_not_run_are_refused(encoder: Path, old: str, new: str) -> None:
    assert old in LAYERS
    with pytest.raises(UnsupportedModel, match="language model"):
        NativeExecutor(random_lm(encoder, LAYERS.replace(old, new)))


def test_a_precision_that_the_kernels_do_not_know_is_refused(lm: Any) -> None:
    with pytest.raises(ValueError, match="precision: fp16"):
        NativeExecutor(lm, "fp16")


def test_caches_are_as_small_as_their_precision(lm: Any) -> None:
    sizes = {precision: NativeExecutor(lm, precision).cache_bytes(500) for precision in PRECISIONS}
    assert sizes["fp32"] == 2 * 2 * 512 * DIM * 4  # layers, keys and values, positions in sixteens
    assert sizes["bf16"] == sizes["fp32"] // 2
    assert sizes["int8"] == sizes["fp32"] // 4 + 2 * 2 * 512 * 6 * 4  # and a scale a head
