"""The architectures of the briefly trained decoders, at 24 kHz, after the papers, in small.

`seanet` is AudioCraft's own (EnCodec, arXiv 2210.13438), `dac` has the periodic activations and dilated residual
units of the Descript Audio Codec (arXiv 2306.06546), `hifigan` makes audio of a mel spectrogram with transposed
convolutions and several kernel sizes at once (arXiv 2010.05646), and `vocos` with ConvNeXt blocks at the frame rate
and an inverse STFT (arXiv 2306.00814).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torchaudio
from torch import nn

SAMPLE_RATE_HZ = 24_000


@dataclasses.dataclass(frozen=True)
class Variant:
    """What distinguishes one decoder from the next."""

    name: str
    architecture: str
    ratios: tuple[int, ...]
    width: int
    latent: int
    causal: bool = False
    seed: int = 0
    mel_weight: float = 0.15
    waveform_weight: float = 1.0
    orthogonal_start: bool = True


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("seanet-320", "seanet", (8, 5, 4, 2), width=8, latent=32, causal=True, seed=1),
        Variant("seanet-128", "seanet", (8, 4, 4), width=8, latent=16, causal=False, seed=2),
        Variant("dac-256", "dac", (8, 8, 4), width=8, latent=24, seed=3),
        Variant("hifigan-256", "hifigan", (8, 8, 4), width=64, latent=80, seed=4, mel_weight=1.0, waveform_weight=0.0),
        Variant(
            "vocos-240", "vocos", (240,), width=96, latent=24, seed=5, mel_weight=0.3, orthogonal_start=False
        ),
    )
}  # fmt: skip


def round_latent(latents: torch.Tensor, levels: int) -> torch.Tensor:
    """Squash to -1..1 and round to `levels` values, gradients passed through; 0 levels: only squash."""
    bounded = torch.tanh(latents)
    if not levels:
        return bounded
    step = 2.0 / (levels - 1)
    return bounded + (torch.round((bounded + 1) / step) * step - 1 - bounded).detach()


class Autoencoder(nn.Module):
    """An encoder and a decoder; `rounds` says whether the latent between them may be rounded."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, rounds: bool = True) -> None:
        super().__init__()
        self.encoder, self.decoder, self.rounds = encoder, decoder, rounds


class Snake(nn.Module):
    """``x + sin²(ax) / a`` with an `a` for each channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.rate * x).sin().pow(2) / (self.rate + 1e-9)


class ResidualUnit(nn.Module):
    """A dilated convolution and a pointwise one beside the identity."""

    def __init__(self, channels: int, kernel: int, dilation: int, activation: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.block = nn.Sequential(
            activation(channels),
            _convolution(channels, channels, kernel, dilation=dilation),
            activation(channels),
            _convolution(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


class Merged(nn.Module):
    """The mean of several residual units: HiFi-GAN's fusion of receptive fields."""

    def __init__(self, channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(channels, kernel, 3, _leaky) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([unit(x) for unit in self.units]).mean(dim=0)


class LogMel(nn.Module):
    """Log mel spectrogram ``[B, mels, frames]``, a frame every `hop` samples."""

    def __init__(self, mels: int, hop: int) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE_HZ, 1024, hop_length=hop, n_mels=mels, power=1)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        frames = audio.shape[-1] // self.mel.hop_length
        return self.mel(audio[:, 0]).clamp(min=1e-4).log()[..., :frames]  # type: ignore[no-any-return]


class ConvNextBlock(nn.Module):
    """A depthwise convolution and two pointwise ones with a norm between (arXiv 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pointwise = nn.Sequential(nn.Linear(channels, 3 * channels), nn.GELU(), nn.Linear(3 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.pointwise(self.norm(self.depthwise(x).transpose(1, 2)))
        return x + inner.transpose(1, 2)  # type: ignore[no-any-return]


class InverseStftHead(nn.Module):
    """Magnitude and phase of each frame from its channels, then an inverse STFT: ``[B, 1, frames * hop]``."""

    def __init__(self, channels: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.projection = nn.Conv1d(channels, 2 * (2 * hop + 1), 1)
        self.register_buffer("window", torch.hann_window(4 * hop), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        magnitude, phase = self.projection(x).chunk(2, dim=1)
        spectrum = torch.polar(magnitude.clamp(max=5.0).exp(), phase)
        spectrum = torch.nn.functional.pad(spectrum, (0, 1))
        return torch.istft(spectrum, 4 * self.hop, self.hop, window=self.window)[:, None]  # type: ignore[arg-type]


def _leaky(_: int) -> nn.Module:
    return nn.LeakyReLU(0.1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = (kernel - 1) * dilation // 2 if stride == 1 else (kernel - stride + 1) // 2
    layer = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation)
    return nn.utils.weight_norm(layer)


def _upsampling(inputs: int, outputs: int, ratio: int) -> nn.Module:
    layer = nn.ConvTranspose1d(
        inputs, outputs, 2 * ratio, stride=ratio, padding=(ratio + 1) // 2, output_padding=ratio % 2
    )
    return nn.utils.weight_norm(layer)


def _seanet(variant: Variant) -> Autoencoder:
    from audiocraft.modules.seanet import SEANetDecoder, SEANetEncoder

    shape: dict[str, Any] = {
        "dimension": variant.latent,
        "n_filters": variant.width,
        "n_residual_layers": 1,
        "ratios": list(variant.ratios),
        "norm": "weight_norm",
        "causal": variant.causal,
        "pad_mode": "constant" if variant.causal else "reflect",
    }
    return Autoencoder(SEANetEncoder(**shape), SEANetDecoder(**shape))


def _dac(variant: Variant) -> Autoencoder:
    return Autoencoder(_strided_encoder(variant), _units_decoder(variant, Snake, lambda c: _dilated(c, Snake)))


def _hifigan(variant: Variant) -> Autoencoder:
    hop = 1
    for ratio in variant.ratios:
        hop *= ratio
    decoder = _units_decoder(variant, _leaky, lambda channels: [Merged(channels, (3, 7, 11))], doubling=False)
    return Autoencoder(LogMel(variant.latent, hop), decoder, rounds=False)


def _vocos(variant: Variant) -> Autoencoder:
    (hop,) = variant.ratios
    width = variant.width
    encoder = nn.Sequential(
        nn.Conv1d(1, width, 2 * hop, stride=hop, padding=hop // 2),
        ConvNextBlock(width),
        ConvNextBlock(width),
        nn.Conv1d(width, variant.latent, 1),
    )
    decoder = nn.Sequential(
        nn.Conv1d(variant.latent, 2 * width, 7, padding=3),
        *[ConvNextBlock(2 * width) for _ in range(4)],
        InverseStftHead(2 * width, hop),
    )
    return Autoencoder(encoder, decoder)


def _dilated(channels: int, activation: Callable[[int], nn.Module]) -> list[nn.Module]:
    return [ResidualUnit(channels, 7, dilation, activation) for dilation in (1, 3)]


def _strided_encoder(variant: Variant) -> nn.Module:
    channels = variant.width
    layers = [_convolution(1, channels, 7)]
    for ratio in reversed(variant.ratios):
        layers += [ResidualUnit(channels, 7, 1, Snake), Snake(channels)]
        layers.append(_convolution(channels, 2 * channels, 2 * ratio, stride=ratio))
        channels *= 2
    return nn.Sequential(*layers, Snake(channels), _convolution(channels, variant.latent, 3))


def _units_decoder(
    variant: Variant,
    activation: Callable[[int], nn.Module],
    units: Callable[[int], list[nn.Module]],
    doubling: bool = True,
) -> nn.Module:
    """Halve the channels at each upsampling, with residual units after it.

    With `doubling`, `width` is that of the last stage, else of the first.
    """
    channels = variant.width * 2 ** len(variant.ratios) if doubling else variant.width
    layers = [_convolution(variant.latent, channels, 7)]
    for ratio in variant.ratios:
        layers += [activation(channels), _upsampling(channels, channels // 2, ratio)]
        channels //= 2
        layers += units(channels)
    return nn.Sequential(*layers, activation(channels), _convolution(channels, 1, 7))


ARCHITECTURES: dict[str, Callable[[Variant], Autoencoder]] = {
    "seanet": _seanet,
    "dac": _dac,
    "hifigan": _hifigan,
    "vocos": _vocos,
}
