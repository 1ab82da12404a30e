"""AudioCraft's discriminators as listeners: multi-period, multi-scale and multi-scale STFT.

They take mono audio at the rate of their card, 24 kHz: the STFT hops of 120, 240 and 480 samples are then 5, 10 and
20 ms. Meta never released trained weights. Ours are a folder with `model.json` (`services.models.calibration`) and a
safetensors file, whose keys are AudioCraft's own with the family before them: ``mpd.discriminators.0...``. Without a
folder the weights come from a fixed seed: every replica gives the same scores, and the scores mean nothing.

The scales of AudioCraft's multi-scale discriminator all hear the full rate, because its `forward` drops the result of
the downsampling. Ours do the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import services.models.loader  # noqa: F401 - quiets what AudioCraft imports
from services.models.calibration import FAMILIES, WEIGHTS_FILE, CardError, ModelCard, load_card
from services.models.checkpoint import CheckpointError
from services.models.discriminators_layers import Family, fold
from services.models.discriminators_native import NativeDiscriminators

UNTRAINED_RATE_HZ, UNTRAINED_WINDOW_SECONDS = 24_000, 1.0
UNTRAINED: Mapping[str, Mapping[str, Any]] = {
    "mpd": {"periods": [2, 3, 5, 7, 11], "filters": 4, "max_filters": 64},
    "msd": {"filters": 16, "max_filters": 64},
    "msstftd": {
        "filters": 8,
        "n_ffts": [1024, 2048, 4096],
        "hop_lengths": [120, 240, 480],
        "win_lengths": [1024, 2048, 4096],
    },
}
"""How the networks without trained weights are built."""
_SEED = 20_240_501


@dataclasses.dataclass(frozen=True)
class AnalyzerInfo:
    """What a set of discriminators is."""

    name: str
    sample_rate_hz: int
    channel_count: int
    window_seconds: float
    parameter_count: int
    digest: str
    """SHA-256 of the file of weights, in hexadecimal."""
    is_trained: bool
    license: str
    training_sources: tuple[str, ...] = ()

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sample_rate_hz)


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """The activations of one layer, averaged over its channels: float32, on the CPU."""

    family: Family
    sub_discriminator: int
    layer: int
    values: torch.Tensor
    """``[T / period, period]`` (mpd), ``[T]`` (msd) or ``[frames, frequencies]`` (msstftd)."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Mean sigmoid of the logits of each family, 0 to 1; high means real."""

    mpd: float
    msd: float
    msstftd: float

    @property
    def mean(self) -> float:
        return (self.mpd + self.msd + self.msstftd) / 3


@dataclasses.dataclass(frozen=True)
class Hearing:
    """What the discriminators say of one window."""

    scores: Scores
    logits: Mapping[str, float]
    """Mean logit of each sub-discriminator, by names such as ``mpd.0``: what a calibration takes."""


class Discriminators:
    """The three families on one device, in one pass.

    On a CPU our own kernels run them where there is a compiler, elsewhere PyTorch does. Each window is scored by
    itself: with our kernels its bits do not depend on the windows beside it.

    Args:
        card: how to read the logits; None while the weights are not trained.
        kernels: False leaves our own kernels out.
    """

    def __init__(
        self,
        modules: Mapping[Family, Any],
        info: AnalyzerInfo,
        card: ModelCard | None = None,
        device: str = "cpu",
        kernels: bool = True,
    ) -> None:
        folded = [sub for family, module in modules.items() for sub in fold(family, module)]
        self.info, self.card, self.device = info, card, device
        self._subs = [sub.to(device) for sub in folded]
        self._names = [f"{sub.family}.{sub.index}" for sub in folded]
        self._least = max(sub.front.least for sub in folded)
        self._native = NativeDiscriminators.build(folded) if kernels and device == "cpu" else None
        missing = set(card.calibration.features) - set(self._names) if card else set()
        if missing:
            raise CheckpointError(f"{info.name}: the calibration wants {sorted(missing)}, which are not there")

    @property
    def is_native(self) -> bool:
        """Whether our own kernels run them."""
        return self._native is not None

    @torch.inference_mode()
    def listen(self, audio: torch.Tensor) -> list[Hearing]:
        """Score mono float32 windows ``[B, T]`` at the model's rate; shorter ones than a frame get silence."""
        windows = self._padded(audio)
        if self._native is not None:
            logits, sigmoids = self._native.means(windows)
        else:
            made = [sub.logits(windows) for sub in self._subs]
            logits = torch.stack([each.mean(dim=1) for each in made], dim=1).cpu()
            sigmoids = torch.stack([each.sigmoid().mean(dim=1) for each in made], dim=1).cpu()
        return [self._hearing(*rows) for rows in zip(logits.tolist(), sigmoids.tolist(), strict=True)]

    @torch.inference_mode()
    def maps(self, audio: torch.Tensor) -> list[FeatureMap]:
        """Return the feature maps of one window, mono float32 ``[1, T]``."""
        window = self._padded(audio)
        return [
            FeatureMap(sub.family, sub.index, layer, values)
            for sub in self._subs
            for layer, values in enumerate(sub.maps(window))
        ]

    def _padded(self, audio: torch.Tensor) -> torch.Tensor:
        return functional.pad(audio, (0, max(0, self._least - audio.shape[1]))).to(self.device)

    def _hearing(self, logits: list[float], sigmoids: list[float]) -> Hearing:
        shares: dict[str, list[float]] = {family: [] for family in FAMILIES}
        for sub, value in zip(self._subs, sigmoids, strict=True):
            shares[sub.family].append(value)
        scores = Scores(**{family: sum(values) / len(values) for family, values in shares.items()})
        return Hearing(scores, dict(zip(self._names, logits, strict=True)))


def load(folder: Path, device: str = "cpu") -> Discriminators:
    """Load trained discriminators. Raises `CheckpointError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = load_card(folder)
        state = load_file(folder / WEIGHTS_FILE)
    except (CardError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: no analyzer can be loaded: {error}") from error
    try:
        modules = build_modules(card.architecture, state)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit the architecture: {error}") from error
    info = AnalyzerInfo(
        name=card.name,
        sample_rate_hz=card.sample_rate_hz,
        channel_count=1,
        window_seconds=card.window_seconds,
        parameter_count=_count(modules),
        digest=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
        is_trained=True,
        license=card.license,
        training_sources=card.training_sources,
    )
    return Discriminators(modules, info, card, device)


def build_untrained(device: str = "cpu") -> Discriminators:
    """Build small discriminators with weights from a fixed seed."""
    modules = build_untrained_modules()
    digest = hashlib.sha256()
    for family, module in modules.items():
        for key, value in module.state_dict().items():
            digest.update(f"{family}.{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
    info = AnalyzerInfo(
        name="untrained",
        sample_rate_hz=UNTRAINED_RATE_HZ,
        channel_count=1,
        window_seconds=UNTRAINED_WINDOW_SECONDS,
        parameter_count=_count(modules),
        digest=digest.hexdigest(),
        is_trained=False,
        license="MIT",
    )
    return Discriminators(modules, info, None, device)


def build_untrained_modules() -> dict[Family, Any]:
    """Build AudioCraft's own modules with the weights of the fixed seed."""
    # The generator's state is put back: nobody else's random numbers change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return build_modules(UNTRAINED)


def build_modules(
    architecture: Mapping[str, Mapping[str, Any]], state: Mapping[str, torch.Tensor] | None = None
) -> dict[Family, Any]:
    """Build AudioCraft's own modules, in evaluation mode, from their arguments by family.

    Args:
        state: their weights, each key with the family before it; None leaves them as AudioCraft draws them.

    Raises:
        TypeError, RuntimeError: the arguments or the weights do not fit.
    """
    from audiocraft.adversarial import discriminators

    modules: dict[Family, Any] = {
        "mpd": discriminators.MultiPeriodDiscriminator(**architecture["mpd"]).eval(),
        "msd": discriminators.MultiScaleDiscriminator(**architecture["msd"]).eval(),
        "msstftd": discriminators.MultiScaleSTFTDiscriminator(**architecture["msstftd"]).eval(),
    }
    if state is None:
        return modules
    for family, module in modules.items():
        prefix = f"{family}."
        module.load_state_dict({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})
    return modules


def _count(modules: Mapping[Family, Any]) -> int:
    return sum(parameter.numel() for module in modules.values() for parameter in module.parameters())
