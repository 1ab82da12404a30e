"""AudioCraft's three discriminators as the recipe trains and measures them: their shapes, scores and file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

import services.models.loader  # noqa: F401 - quiets what AudioCraft imports
from services.models.calibration import FAMILIES, WEIGHTS_FILE

SHAPES: dict[str, dict[str, Any]] = {
    "mpd": {"periods": [2, 3, 5, 7, 11], "filters": 8, "max_filters": 64},
    "msd": {"scale_norms": ["weight_norm"] * 3, "filters": 8, "max_filters": 64},
    "msstftd": {
        "filters": 8,
        "n_ffts": [1024, 2048, 4096],
        "hop_lengths": [120, 240, 480],
        "win_lengths": [1024, 2048, 4096],
        "stride": [2, 2],
    },
}

_WINDOWS_AT_ONCE = 2
"""More do not fit into a core's cache."""


def build(shapes: Mapping[str, Mapping[str, Any]]) -> nn.ModuleDict:
    """Return untrained discriminators by family. `shapes` are the arguments of AudioCraft's constructors."""
    return nn.ModuleDict({family: build_family(family, shapes[family]) for family in FAMILIES})


def build_family(family: str, shape: Mapping[str, Any]) -> Any:
    """Return one untrained family. Raises `KeyError` for an unknown one."""
    from audiocraft.adversarial import discriminators

    kinds = {
        "mpd": discriminators.MultiPeriodDiscriminator,
        "msd": discriminators.MultiScaleDiscriminator,
        "msstftd": discriminators.MultiScaleSTFTDiscriminator,
    }
    return kinds[family](**shape)


def feature_names(networks: nn.ModuleDict) -> tuple[str, ...]:
    """Return the name of each sub-discriminator, in the order of `mean_logits`: "mpd.0", …"""
    return tuple(f"{family}.{index}" for family in FAMILIES for index in range(networks[family].num_discriminators))  # type: ignore[arg-type]


def mean_logits(networks: nn.ModuleDict, audio: torch.Tensor) -> torch.Tensor:
    """Return ``[B, sub-discriminators]`` mean logits of ``[B, 1, T]`` at 24 kHz; high for real."""
    return torch.cat([family_logits(networks[family], audio) for family in FAMILIES], dim=1)


def family_logits(family: nn.Module, audio: torch.Tensor) -> torch.Tensor:
    """Return the same of one family."""
    logits, _ = family(audio)
    return torch.stack([logit.flatten(1).mean(dim=1) for logit in logits], dim=1)


@torch.inference_mode()
def score_windows(networks: nn.ModuleDict, audio: np.ndarray, window_seconds: float = 1.0) -> np.ndarray:
    """Return float64 ``[N, windows, sub-discriminators]`` of int16 ``[N, T]`` at 24 kHz, cut into whole windows."""
    size = round(window_seconds * 24_000)
    count = audio.shape[1] // size
    rows = []
    for row in audio:
        windows = torch.from_numpy(row[: count * size].astype(np.float32) / 32768.0).reshape(count, 1, size)
        parts = [mean_logits(networks, part) for part in torch.split(windows, _WINDOWS_AT_ONCE)]
        rows.append(torch.cat(parts).double().numpy())
    return np.stack(rows)


def save(folder: Path, networks: nn.ModuleDict) -> None:
    """Write the weights in half precision, under AudioCraft's names behind the family's.

    The STFT's windows, which AudioCraft keeps among them, stay exact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value if key.endswith(".window") else value.half()).detach().contiguous()
        for key, value in networks.state_dict().items()
    }
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)


def load(folder: Path, shapes: Mapping[str, Mapping[str, Any]]) -> nn.ModuleDict:
    """Return the discriminators of a folder, ready to listen. Raises `FileNotFoundError`, `RuntimeError`."""
    networks = build(shapes)
    networks.load_state_dict({key: value.float() for key, value in _tensors(folder).items()})
    return networks.eval()


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    return tensors
