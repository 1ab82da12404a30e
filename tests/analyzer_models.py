"""Small discriminators in the layout of the shipped ones, with a calibration that is made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from services.models.calibration import WEIGHTS_FILE, Calibration, ModelCard, Thresholds, save_card
from services.models.discriminators import UNTRAINED, build_modules

RATE = 24_000
SOURCES = ("recordings of nothing", "the same through a decoder")
_COUNTS = {"mpd": 5, "msd": 3, "msstftd": 3}
NAMES = tuple(f"{family}.{index}" for family, count in _COUNTS.items() for index in range(count))


def some_card(**changes: Any) -> ModelCard:
    """A card by which `some_state` finds loud audio generated and soft audio real."""
    calibration = Calibration(
        features=("mpd.1", "msd.0"),
        mean=(0.62, 0.0),
        scale=(0.08, 1.0),
        coef=(1.0, -0.1),
        intercept=0.05,
        file_gain=0.5,
    )
    card = ModelCard(
        name="made-up-1",
        sample_rate_hz=RATE,
        window_seconds=1.0,
        license="MIT",
        training_sources=SOURCES,
        architecture=UNTRAINED,
        calibration=calibration,
        thresholds=Thresholds(generated=0.9, real=0.2),
        figures={},
    )
    return dataclasses.replace(card, **changes)


def some_state(card: ModelCard, seed: int = 3) -> dict[str, torch.Tensor]:
    """Weights for its architecture, in the layout of the file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = build_modules(card.architecture)
    # As they are drawn, the weights are so small that the biases decide, whatever the audio.
    return {
        f"{family}.{key}": (3 * value if key.endswith("weight_g") else value).contiguous()
        for family, module in modules.items()
        for key, value in module.state_dict().items()
    }


def save(folder: Path, card: ModelCard | None = None, seed: int = 3) -> ModelCard:
    """Write a folder of weights; return its card."""
    card = card or some_card()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(some_state(card, seed), folder / WEIGHTS_FILE)
    save_card(folder, card)
    return card
