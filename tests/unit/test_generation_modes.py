"""The engine against AudioCraft's own generation, in every mode: the same greedy tokens on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from audiocraft.models.musicgen import MusicGen

from services.generator.engine import GeneratorEngine
from services.generator.output import Output
from services.generator.requests import GenerationRequest
from services.models.conditions import Prompt
from services.models.loader import LoadedGenerator, load_generator
from services.models.sampling import Sampling
from tests import generator_models

TEXT = "a happy fast piano melody"
GREEDY = Sampling(use_sampling=False)
Load = Callable[..., LoadedGenerator]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    torch.set_num_threads(1)

    @cache
    def load(kind: str, window: int = 2) -> LoadedGenerator:
        folder = generator_models.build(tmp_path_factory.mktemp("models") / kind, kind, window=window)
        return load_generator(str(folder))

    return load


def reference(loaded: LoadedGenerator, **parameters: Any) -> MusicGen:
    """Return AudioCraft's own model over the same weights, with windows as short as ours."""
    stereo = loaded.info.channel_count == 2
    model = MusicGen("reference", loaded.codec.model if stereo else loaded.codec, loaded.lm, max_duration=30)
    model.max_duration = loaded.info.max_duration_seconds
    model.set_generation_params(**{"use_sampling": False, "extend_stride": 1.2, **parameters})
    return model


def request(loaded: LoadedGenerator, frames: int, text: str = TEXT, **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        loaded.info.name, (Prompt(text),), frames, **{"sampling": GREEDY, "include_codes": True, **fields}
    )


def run(engine: Any, *requests: GenerationRequest) -> list[list[Output]]:
    """Run requests together, a newcomer every third step."""
    sequences = [engine.begin(one) for one in requests]
    outputs: list[list[Output]] = [[] for _ in requests]
    rounds = 0
    while not all(made and made[-1].final for made in outputs):
        rounds += 1
        going = [i for i in range(1 + rounds // 3) if i < len(requests) and not (outputs[i] and outputs[i][-1].final)]
        for index, output in zip(going, engine.step([sequences[i] for i in going]) if going else [], strict=True):
            outputs[index].append(output)
    for sequence in sequences:
        engine.release(sequence)
    return outputs


def tokens(outputs: list[Output]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([o.codes for o in outputs if o.codes.size], axis=1)).long()


def audio(outputs: list[Output]) -> torch.Tensor:
    return torch.cat([output.audio for output in outputs if output.audio.numel()], dim=1)


def check(outputs: list[Output], loaded: LoadedGenerator, codes: torch.Tensor) -> None:
    """Compare codes with AudioCraft's, and the audio with what its codec makes of them."""
    assert len(set(codes.flatten().tolist())) > 20, "a few repeated tokens would prove little"
    assert torch.equal(tokens(outputs), codes)
    with torch.no_grad():
        decoded = loaded.codec.decode(codes[None])[0]
    torch.testing.assert_close(audio(outputs), decoded, atol=1e-4, rtol=1e-4)
    assert [o.steps for o in outputs] == sorted(o.steps for o in outputs)


def tune(seconds: float, rate: int, channels: int = 1) -> torch.Tensor:
    torch.manual_seed(0)
    time = torch.arange(int(seconds * rate)) / rate
    notes = torch.tensor([220.0, 277.2, 329.6, 440.0])[(time * 4).long() % 4]
    wave = 0.5 * torch.sin(2 * torch.pi * notes * time) + 0.01 * torch.randn(len(time))
    return torch.stack([wave.roll(100 * channel) for channel in range(channels)])


@pytest.mark.parametrize("kind", ["text", "lut", "stereo", "sound", "melody"])
@pytest.mark.parametrize(("cfg_coef", "two_step"), [(3.0, False), (1.0, False), (3.0, True)])
def test_text(load: Load, kind: str, cfg_coef: float, two_step: bool) -> None:
    loaded = load(kind, 10)
    model = reference(loaded, duration=1.6, cfg_coef=cfg_coef, two_step_cfg=two_step)
    _, expected = model.generate([TEXT], return_tokens=True)
    sampling = Sampling(use_sampling=False, cfg_coef=cfg_coef)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, 80, sampling=sampling, two_step=two_step))
    check(outputs, loaded, expected[0])


LONG: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # The kind of model, what AudioCraft is asked for, and what the engine is.
    "guided": ("text", {}, {}),
    "unguided": ("text", {"cfg_coef": 1.0}, {"sampling": Sampling(use_sampling=False, cfg_coef=1.0)}),
    "two-step": ("text", {"two_step_cfg": True}, {"two_step": True}),
    "stereo": ("stereo", {}, {}),
    "sound": ("sound", {}, {}),
    "prepended": ("melody", {}, {}),
}


@pytest.mark.parametrize("mode", LONG)
def test_500_steps(load: Load, mode: str) -> None:
    kind, parameters, fields = LONG[mode]
    loaded = load(kind, 12)
    _, expected = reference(loaded, duration=10.4, **parameters).generate([TEXT], return_tokens=True)
    engine = GeneratorEngine(loaded)
    (outputs,) = run(engine, request(loaded, 520, **fields))
    check(outputs, loaded, expected[0])
    assert outputs[-1].steps == engine.step_count(520) > 500


@pytest.mark.parametrize("kind", ["text", "stereo"])
def test_500_steps_after_a_prompt(load: Load, kind: str) -> None:
    loaded = load(kind, 12)
    prompt, rate = tune(1.3, loaded.info.sample_rate_hz, loaded.info.channel_count), loaded.info.sample_rate_hz
    _, expected = reference(loaded, duration=11.8).generate_continuation(prompt, rate, [TEXT], return_tokens=True)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, 590, continuation=prompt))
    check(outputs, loaded, expected[0])
    assert outputs[-1].steps > 500


def test_500_steps_with_a_melody(load: Load) -> None:
    loaded, melody = load("melody", 12), tune(10.4, 32000)
    _, expected = reference(loaded, duration=10.4).generate_with_chroma([TEXT], melody, 32000, return_tokens=True)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, 520, melody=melody))
    check(outputs, loaded, expected[0])
    assert outputs[-1].steps > 500


@pytest.mark.parametrize("kind", ["text", "stereo", "sound", "melody"])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 1.7])
def test_continuation(load: Load, kind: str, seconds: float) -> None:
    loaded = load(kind)
    prompt = tune(seconds, loaded.info.sample_rate_hz, loaded.info.channel_count)
    model = reference(loaded, duration=2.0)
    _, expected = model.generate_continuation(prompt, loaded.info.sample_rate_hz, [TEXT], return_tokens=True)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, 100, continuation=prompt))
    check(outputs, loaded, expected[0])


@pytest.mark.parametrize("kind", ["text", "stereo", "melody"])
@pytest.mark.parametrize(("frames", "stride"), [(101, 60), (520, 60), (110, 1), (320, 99)])
def test_longer_than_the_window(load: Load, kind: str, frames: int, stride: int) -> None:
    """Of other lengths AudioCraft's last window may be off by a frame: it counts in seconds, as floats."""
    loaded = load(kind)
    model = reference(loaded, duration=frames / 50, extend_stride=stride / 50)
    _, expected = model.generate([TEXT], return_tokens=True)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, frames, stride_frames=stride))
    check(outputs, loaded, expected[0])


def test_a_continuation_that_is_longer_than_the_window(load: Load) -> None:
    loaded = load("text")
    prompt = tune(1.9, 32000)
    _, expected = reference(loaded, duration=4.4).generate_continuation(prompt, 32000, [TEXT], return_tokens=True)
    (outputs,) = run(GeneratorEngine(loaded), request(loaded, 220, continuation=prompt))
    check(outputs, loaded, expected[0])


@pytest.mark.parametrize(("frames", "melody_seconds"), [(80, 1.6), (100, 0.5), (260, 1.3), (160, 7.0)])
@pytest.mark.parametrize("text", [TEXT, ""])
def test_melody(load: Load, frames: int, melody_seconds: float, text: str) -> None:
    loaded = load("melody")
    melody = tune(melody_seconds, 32000)
    model = reference(loaded, duration=frames / 50)
    _, expected = model.generate_with_chroma([text or None], melody, 32000, return_tokens=True)
    engine = GeneratorEngine(loaded)
    (outputs,) = run(engine, request(loaded, frames, text, melody=melody))
    check(outputs, loaded, expected[0])
    (without,) = run(engine, request(loaded, frames, text))
    assert not torch.equal(tokens(without), expected[0])


def test_mixed_requests_that_join_at_different_steps(load: Load) -> None:
    """Eight, each what it is alone: AudioCraft's tokens."""
    loaded = load("text", 12)
    prompt = tune(1.2, 32000)
    mixed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"frames": 500}, {"duration": 10.0}),
        ({"frames": 40, "text": "organ"}, {"duration": 0.8}),
        ({"frames": 70, "text": ""}, {"duration": 1.4}),
        ({"frames": 540, "continuation": prompt}, {"duration": 10.8}),
        ({"frames": 512, "sampling": Sampling(use_sampling=False, cfg_coef=1.0)}, {"duration": 10.24, "cfg_coef": 1.0}),
        ({"frames": 650, "stride_frames": 300}, {"duration": 13.0, "extend_stride": 6.0}),
        ({"frames": 520, "two_step": True, "text": "a"}, {"duration": 10.4, "two_step_cfg": True}),
        ({"frames": 100, "continuation": prompt[:, :9000], "text": "drums"}, {"duration": 2.0}),
    ]
    requests = [request(loaded, **fields) for fields, _ in mixed]
    together = run(GeneratorEngine(loaded), *requests)
    for (fields, parameters), outputs in zip(mixed, together, strict=True):
        model = reference(loaded, **parameters)
        text = [fields.get("text", TEXT) or None]
        if "continuation" in fields:
            _, expected = model.generate_continuation(fields["continuation"], 32000, text, return_tokens=True)
        else:
            _, expected = model.generate(text, return_tokens=True)
        check(outputs, loaded, expected[0])
