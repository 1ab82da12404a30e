"""AudioCraft's discriminators as listeners: multi-period, multi-scale and multi-scale STFT.

All three take mono audio at 24 kHz, the rate that the STFT hops of 120, 240 and 480 samples (5, 10 and 20 ms)
are made for. Meta never released trained weights. Those here come from a fixed seed: every replica gives the
same scores, and the scores mean nothing.

The scales of AudioCraft's multi-scale discriminator all hear the full rate, because its `forward` drops the
result of the downsampling. It is called as it stands.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Literal

import torch

import services.models.loader  # noqa: F401 - quiets what AudioCraft imports

SAMPLE_RATE_HZ = 24_000
MINIMUM_SAMPLES = 4_096
"""The longest STFT window: shorter audio has no frame."""
_SEED = 20_240_501

Family = Literal["mpd", "msd", "msstftd"]


@dataclasses.dataclass(frozen=True)
class AnalyzerInfo:
    """What a set of discriminators is."""

    name: str
    sample_rate_hz: int
    channel_count: int
    parameter_count: int
    digest: str
    """SHA-256 of the weights, in hexadecimal."""
    is_trained: bool
    license: str
    training_sources: tuple[str, ...] = ()


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


class Discriminators:
    """The three families on one device."""

    def __init__(self, families: dict[Family, Any], info: AnalyzerInfo, device: str) -> None:
        self.families = {name: family.to(device).eval() for name, family in families.items()}
        self.info = info
        self.device = device

    @torch.inference_mode()
    def listen(self, audio: torch.Tensor, keep_maps: bool = False) -> tuple[Scores, list[FeatureMap]]:
        """Score mono float32 ``[1, T]`` at the model's rate.

        Audio shorter than `MINIMUM_SAMPLES` is padded with silence. A family's score is the mean over its
        sub-discriminators of the mean sigmoid of the logits. The feature maps are empty unless asked for.
        """
        missing = max(0, MINIMUM_SAMPLES - audio.shape[1])
        batch = torch.nn.functional.pad(audio, (0, missing))[None].to(self.device)
        scores: dict[Family, float] = {}
        maps: list[FeatureMap] = []
        for name, family in self.families.items():
            logits, features = family(batch)
            scores[name] = float(torch.stack([logit.sigmoid().mean() for logit in logits]).mean())
            if keep_maps:
                maps += [
                    FeatureMap(name, index, layer, values[0].mean(dim=0).float().cpu())
                    for index, layers in enumerate(features)
                    for layer, values in enumerate(layers)
                ]
        return Scores(**scores), maps


def build_untrained(device: str = "cpu") -> Discriminators:
    """Build small discriminators with weights from a fixed seed."""
    from audiocraft.adversarial import discriminators

    families: dict[Family, Any]
    # The generator's state is put back: nobody else's random numbers change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        families = {
            "mpd": discriminators.MultiPeriodDiscriminator(periods=[2, 3, 5, 7, 11], filters=4, max_filters=64),
            "msd": discriminators.MultiScaleDiscriminator(filters=16, max_filters=64),
            "msstftd": discriminators.MultiScaleSTFTDiscriminator(
                filters=8,
                n_ffts=[1024, 2048, 4096],
                hop_lengths=[120, 240, 480],
                win_lengths=[1024, 2048, 4096],
            ),
        }
    info = AnalyzerInfo(
        name="untrained",
        sample_rate_hz=SAMPLE_RATE_HZ,
        channel_count=1,
        parameter_count=sum(p.numel() for family in families.values() for p in family.parameters()),
        digest=_digest(families),
        is_trained=False,
        license="MIT",
    )
    return Discriminators(families, info, device)


def _digest(families: dict[Family, Any]) -> str:
    digest = hashlib.sha256()
    for name, family in families.items():
        for key, value in family.state_dict().items():
            digest.update(f"{name}.{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
