"""Models that no executor runs: AudioCraft's own loop, step by step, gives AudioCraft's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from audiocraft.models.magnet import MAGNeT

from services.generator.engine import GeneratorEngine
from services.generator.output import Output
from services.generator.plain import PlainEngine
from services.generator.requests import Change
from services.models.conditions import Prompt, UnsupportedConditions
from services.models.executor import UnsupportedModel
from services.models.loader import LoadedGenerator, load_generator
from services.models.sampling import Sampling
from tests import generator_models
from tests.unit.test_generation_modes import TEXT, audio, check, reference, request, run, tokens, tune


@pytest.fixture(scope="module")
def rope(tmp_path_factory: pytest.TempPathFactory) -> LoadedGenerator:
    torch.set_num_threads(1)
    return load_generator(str(generator_models.build(tmp_path_factory.mktemp("models") / "rope", "rope")))


def test_the_engine_refuses_the_model(rope: LoadedGenerator) -> None:
    with pytest.raises(UnsupportedModel, match="positional_embedding"):
        GeneratorEngine(rope)


@pytest.mark.parametrize(("frames", "seconds"), [(60, 1.2), (100, 2.0), (260, 5.2)])
def test_tokens_are_those_of_audiocraft(rope: LoadedGenerator, frames: int, seconds: float) -> None:
    _, expected = reference(rope, duration=seconds).generate([TEXT], return_tokens=True)
    engine = PlainEngine(rope)
    (outputs,) = run(engine, request(rope, frames))
    check(outputs, rope, expected[0])
    assert outputs[-1].steps == engine.step_count(frames) == max(output.steps for output in outputs)
    assert all(not output.audio.numel() for output in outputs if output.steps < engine.step_count(frames))


def test_a_seed_draws_what_it_draws_in_audiocraft(rope: LoadedGenerator) -> None:
    """Whatever others draw meanwhile from PyTorch's generator, and without changing what they draw."""
    torch.manual_seed(7)
    _, expected = reference(rope, duration=1.0, use_sampling=True, top_k=50).generate([TEXT], return_tokens=True)
    engine = PlainEngine(rope)
    sequence = engine.begin(request(rope, 50, sampling=Sampling(seed=7, top_k=50)))
    torch.manual_seed(99)
    undisturbed = torch.rand(5)
    torch.manual_seed(99)
    outputs: list[Output] = []
    drawn: list[torch.Tensor] = []
    while not (outputs and outputs[-1].final):
        outputs += engine.step([sequence])
        drawn.append(torch.rand(1))
    engine.release(sequence)
    assert torch.equal(tokens(outputs), expected[0])
    assert torch.equal(torch.cat(drawn[:5]), undisturbed)


def test_a_continuation(rope: LoadedGenerator) -> None:
    prompt = tune(0.7, 32000)
    _, expected = reference(rope, duration=2.0).generate_continuation(prompt, 32000, [TEXT], return_tokens=True)
    (outputs,) = run(PlainEngine(rope), request(rope, 100, continuation=prompt))
    check(outputs, rope, expected[0])


def test_a_piece_that_is_left_leaves_the_model_as_it_was(rope: LoadedGenerator) -> None:
    engine = PlainEngine(rope)
    (whole,) = run(engine, request(rope, 40))
    left = engine.begin(request(rope, 100))
    for _ in range(10):
        engine.step([left])
    last = engine.finish(left)
    assert last.final and not last.audio.numel()
    engine.release(left)
    (again,) = run(engine, request(rope, 40))
    assert torch.equal(tokens(again), tokens(whole))


def test_a_failure_in_the_loop_is_raised(rope: LoadedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no logits")

    engine = PlainEngine(rope)
    sequence = engine.begin(request(rope, 40))
    engine.step([sequence])
    monkeypatch.setattr(rope.lm, "_sample_next_token", fail)
    with pytest.raises(ValueError, match="no logits"):
        for _ in range(3):
            engine.step([sequence])
    engine.release(sequence)
    monkeypatch.undo()
    run(engine, request(rope, 20))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": (Prompt("a"), Prompt("b"))},
        {"frame_count": None},
        {"melody": torch.zeros(1, 100)},
    ],
)
def test_what_the_loop_can_not_do_is_refused(rope: LoadedGenerator, fields: dict[str, Any]) -> None:
    from dataclasses import replace

    with pytest.raises(UnsupportedConditions):
        PlainEngine(rope).prepare(replace(request(rope, 40), **fields))


def test_no_change_in_mid_stream(rope: LoadedGenerator) -> None:
    with pytest.raises(UnsupportedConditions, match="update"):
        PlainEngine(rope).prepare_change(Change((Prompt("other"),)))


@pytest.mark.parametrize("use_sampling", [True, False])
def test_magnet(tmp_path: Path, use_sampling: bool) -> None:
    """Twelve seconds are whole spans and need no padding of the masks: AudioCraft's plain attention takes them."""
    loaded = load_generator(str(generator_models.build(tmp_path / "magnet", "magnet", window=12)))
    with pytest.raises(UnsupportedModel):
        GeneratorEngine(loaded)
    model = MAGNeT(name="reference", compression_model=loaded.codec, lm=loaded.lm)
    model.set_generation_params(use_sampling=use_sampling)
    torch.manual_seed(3)
    _, expected = model.generate([TEXT], return_tokens=True)
    assert expected.shape[-1] == 600
    engine, sampling = PlainEngine(loaded), loaded.info.sampling
    sampling = Sampling(**{**vars(sampling), "seed": 3, "use_sampling": use_sampling})
    (outputs,) = run(engine, request(loaded, 600, sampling=sampling))
    assert torch.equal(tokens(outputs), expected[0])
    assert outputs[-1].steps == engine.step_count(600) == 50
    (cut,) = run(engine, request(loaded, 77, sampling=sampling))
    assert torch.equal(tokens(cut), expected[0][:, :77])
    assert audio(cut).shape == (1, 77 * 640)


def test_a_magnet_whose_length_is_no_whole_span(tmp_path: Path) -> None:
    loaded = load_generator(str(generator_models.build(tmp_path / "magnet", "magnet")))
    assert loaded.info.window_frames == 99
    (outputs,) = run(PlainEngine(loaded), request(loaded, 99, sampling=loaded.info.sampling))
    assert tokens(outputs).shape == (4, 99)
    assert (tokens(outputs) < 64).all()
