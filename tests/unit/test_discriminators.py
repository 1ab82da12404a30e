"""Our discriminators against AudioCraft's modules with the same weights, in our kernels and in PyTorch's calls."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from services.models import discriminators, discriminators_native
from services.models.calibration import CARD_FILE, WEIGHTS_FILE
from services.models.checkpoint import CheckpointError
from services.models.discriminators import Discriminators, build_modules, build_untrained, build_untrained_modules
from tests import analyzer_models

RATE = 24_000
SHAPES: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "default": discriminators.UNTRAINED,
    # Other numbers of channels: some fill a vector, some do not, some need several; strides over frames.
    "odd": {
        "mpd": {"periods": [3, 4], "filters": 3, "max_filters": 40, "n_layers": 4, "kernel_sizes": [7, 3]},
        "msd": {"filters": 8, "max_filters": 48, "downsample_scales": [2, 4], "scale_norms": ["weight_norm", "none"]},
        "msstftd": {
            "filters": 12,
            "n_ffts": [512, 1024],
            "hop_lengths": [128, 300],
            "win_lengths": [512, 800],
            "stride": [2, 2],
            "activation_params": {"negative_slope": 0.3},
        },
    },
}


def noise(count: int, samples: int = RATE, seed: int = 0) -> torch.Tensor:
    times = torch.arange(samples) / RATE
    tone = torch.sin(2 * torch.pi * torch.linspace(200, 900, count)[:, None] * times)
    return 0.3 * tone + 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def reference(modules: Mapping[Any, Any], window: torch.Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Scores by family and mean logits by sub-discriminator, of a window ``[T]``, from AudioCraft's forward."""
    scores: dict[str, float] = {}
    logits: dict[str, float] = {}
    for family, module in modules.items():
        made, _ = module(window[None, None])
        scores[family] = sum(float(logit.sigmoid().mean()) for logit in made) / len(made)
        logits |= {f"{family}.{index}": float(logit.mean()) for index, logit in enumerate(made)}
    return scores, logits


def ours(shapes: Mapping[str, Mapping[str, Any]], kernels: bool) -> tuple[Discriminators, dict[Any, Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        modules = build_modules(shapes)
        for module in modules.values():
            for name, parameter in module.named_parameters():
                # Norms and biases as training leaves them: not the ones that the weights began with.
                if name.endswith(("weight_g", "bias")):
                    parameter.data += 0.3 * torch.randn_like(parameter)
    return Discriminators(modules, build_untrained().info, kernels=kernels), modules


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [RATE, 5_003])
def test_scores_are_those_of_audiocraft(shape: str, kernels: bool, samples: int) -> None:
    model, modules = ours(SHAPES[shape], kernels)
    assert model.is_native == kernels
    windows = noise(3, samples)
    for window, hearing in zip(windows, model.listen(windows), strict=True):
        scores, logits = reference(modules, window)
        assert dataclasses.asdict(hearing.scores) == pytest.approx(scores, abs=1e-5)
        assert dict(hearing.logits) == pytest.approx(logits, abs=1e-5, rel=1e-5)
        assert len({round(value, 4) for value in hearing.logits.values()}) == len(logits)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_window_has_the_same_bits_in_any_batch(threads: int) -> None:
    model, _ = ours(discriminators.UNTRAINED, True)
    windows = noise(5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = model.listen(windows)
        # Longer ones between them: nothing of what a thread held before may be left.
        alone = [(model.listen(noise(1, 2 * RATE, seed=9)), model.listen(window[None])[0])[1] for window in windows]
    finally:
        torch.set_num_threads(before)
    assert alone == together


@pytest.mark.parametrize("shape", SHAPES)
def test_feature_maps_are_those_of_audiocraft(shape: str) -> None:
    model, modules = ours(SHAPES[shape], True)
    window = noise(1)
    maps = model.maps(window)
    with torch.inference_mode():
        expected = [
            (family, sub, layer, values[0].mean(dim=0))
            for family, module in modules.items()
            for sub, layers in enumerate(module(window[None])[1])
            for layer, values in enumerate(layers)
        ]
    assert [(one.family, one.sub_discriminator, one.layer) for one in maps] == [each[:3] for each in expected]
    for one, (*_, values) in zip(maps, expected, strict=True):
        assert one.values.shape == values.shape
        assert torch.allclose(one.values, values, atol=1e-5, rtol=1e-4)


def test_short_audio_gets_silence() -> None:
    model = build_untrained()
    window = noise(1, 500)
    (short,) = model.listen(window)
    (padded,) = model.listen(torch.nn.functional.pad(window, (0, 4_096 - 500)))
    assert short == padded


def test_silence_and_loud_noise_are_finite() -> None:
    model = build_untrained()
    for window in (torch.zeros(1, RATE), 65_536 * noise(1)):
        (hearing,) = model.listen(window)
        assert all(0 <= score <= 1 for score in dataclasses.astuple(hearing.scores))


def test_untrained_weights_are_the_same_everywhere() -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    one = build_untrained()
    torch.manual_seed(2)
    assert build_untrained().info == one.info
    assert not one.info.is_trained
    assert one.card is None
    torch.random.set_rng_state(state)
    expected, _ = reference(build_untrained_modules(), noise(1)[0])
    assert dataclasses.asdict(one.listen(noise(1))[0].scores) == pytest.approx(expected, abs=1e-5)


def test_without_a_compiler_pytorch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discriminators_native, "_kernels", lambda: None)
    assert not build_untrained().is_native


def test_a_folder_is_loaded_with_its_card(tmp_path: Path) -> None:
    card = analyzer_models.save(tmp_path)
    model = discriminators.load(tmp_path)
    info = model.info
    assert (info.name, info.is_trained, info.license) == (card.name, True, "MIT")
    assert (info.window_samples, info.training_sources) == (RATE, analyzer_models.SOURCES)
    assert model.card == card
    modules = build_modules(card.architecture, analyzer_models.some_state(card))
    assert info.parameter_count == sum(p.numel() for module in modules.values() for p in module.parameters())
    _, logits = reference(modules, noise(1)[0])
    assert tuple(logits) == analyzer_models.NAMES
    assert dict(model.listen(noise(1))[0].logits) == pytest.approx(logits, abs=1e-5)
    digest = info.digest
    analyzer_models.save(tmp_path, seed=4)
    assert discriminators.load(tmp_path).info.digest != digest


def spoil(folder: Path, case: str) -> None:
    card = folder / CARD_FILE
    if case == "no card":
        card.unlink()
    elif case == "no weights":
        (folder / WEIGHTS_FILE).unlink()
    elif case == "cut weights":
        (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:1000])
    elif case == "pickled weights":
        torch.save({}, folder / WEIGHTS_FILE)
    elif case == "not JSON":
        card.write_text("{")
    else:
        values = json.loads(card.read_text())
        if case == "another shape":
            values["architecture"]["mpd"]["filters"] = 5
        elif case == "unknown argument":
            values["architecture"]["mpd"]["colour"] = 5
        elif case == "unknown feature":
            values["calibration"]["features"][0] = "mpd.9"
        elif case == "another activation":
            values["architecture"]["msd"] |= {"activation": "ELU", "activation_params": {}}
        card.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "case",
    [
        "no card",
        "no weights",
        "cut weights",
        "pickled weights",
        "not JSON",
        "another shape",
        "unknown argument",
        "unknown feature",
        "another activation",
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    analyzer_models.save(tmp_path)
    spoil(tmp_path, case)
    with pytest.raises(CheckpointError):
        discriminators.load(tmp_path)
