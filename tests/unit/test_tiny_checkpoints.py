"""The shipped checkpoints: they load by name, fit into their room, and make sound that follows its seed."""

from __future__ import annotations

import hashlib
import re
from functools import cache

import pytest
import torch

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.checkpoint import CODEC_FILE, EMBEDDED, LM_FILE
from services.models.conditions import Prompt
from services.models.loader import LICENSES, load_generator
from services.models.sampling import Sampling

CARD = (EMBEDDED["tiny"].parent / "MODEL_CARD.md").read_text()
FRAMES = 75


@cache
def engine_of(name: str) -> GeneratorEngine:
    return GeneratorEngine(load_generator(name))


def make(name: str, text: str, seed: int) -> torch.Tensor:
    engine = engine_of(name)
    sequence = engine.begin(GenerationRequest(name, (Prompt(text),), FRAMES, Sampling(seed=seed)))
    parts = [engine.step([sequence])[0].audio for _ in range(engine.step_count(FRAMES))]
    engine.release(sequence)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("name", "kind", "rate", "seconds"), [("tiny", "music", 32_000, 20.0), ("tiny-sound", "sound", 16_000, 10.0)]
)
def test_they_load_by_name(name: str, kind: str, rate: int, seconds: float) -> None:
    info = engine_of(name).info
    assert (info.name, info.kind, info.sample_rate_hz) == (name, kind, rate)
    assert (info.max_duration_seconds, info.frame_rate_hz, info.license) == (seconds, 50.0, LICENSES[name])


@pytest.mark.parametrize(
    ("name", "text"), [("tiny", "a slow, sad piano piece in A minor, 70 bpm"), ("tiny-sound", "rain")]
)
def test_they_make_sound_that_follows_its_seed(name: str, text: str) -> None:
    one, again, other = make(name, text, 1), make(name, text, 1), make(name, text, 2)
    assert one.shape == (1, round(FRAMES / 50 * engine_of(name).info.sample_rate_hz))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert float(one.square().mean().sqrt()) > 1e-3 and bool(one.isfinite().all())


@pytest.mark.parametrize("name", ["tiny", "tiny-sound"])
@pytest.mark.parametrize("text", ["", "Quixotic zebras?! ÉTUDE №5, 3/4", "very " * 60])
def test_any_text_is_taken(name: str, text: str) -> None:
    made = make(name, text, 3)
    assert bool(made.isfinite().all()) and float(made.square().mean().sqrt()) > 1e-4


def test_they_fit_into_their_room_and_the_card_has_their_digests() -> None:
    size = 0
    for folder in EMBEDDED.values():
        for path in folder.rglob("*"):
            size += path.stat().st_size if path.is_file() else 0
        for name in (LM_FILE, CODEC_FILE):
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            assert re.search(rf"{folder.name}/{name}.*{digest}", CARD), f"{folder.name}/{name}: {digest}"
    assert size <= 40e6
