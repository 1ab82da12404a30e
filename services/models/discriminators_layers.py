"""The layers of AudioCraft's discriminators, weight norm folded, as one plain form: images and convolutions over them.

AudioCraft computes each weight anew at every call, from its direction and its length. Here that is done once. All
three families become a front, which turns audio into an image, and convolutions with a leaky ReLU between them:

    mpd      ``[B, 1, T / period, period]``, kernels over the first dimension
    msd      ``[B, 1, 1, T]``, grouped kernels over time
    msstftd  ``[B, 2, frames, frequencies]``, the real and the imaginary part

Outputs differ from AudioCraft's by float rounding only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from services.models.checkpoint import CheckpointError

Family = Literal["mpd", "msd", "msstftd"]


class Front(Protocol):
    """Turns audio ``[B, T]`` into an image ``[B, C, H, W]``."""

    @property
    def least(self) -> int:
        """Samples that it needs."""

    def __call__(self, audio: torch.Tensor) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True)
class PeriodFront:
    """Samples that are a period apart, in columns; the rest is mirrored."""

    period: int

    @property
    def least(self) -> int:
        return self.period + 1

    def __call__(self, audio: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(audio[:, None], (0, -audio.shape[1] % self.period), "reflect")
        return padded.view(len(audio), 1, -1, self.period)


@dataclasses.dataclass(frozen=True)
class WaveFront:
    """The samples in a row, mirrored at both ends."""

    padding: int

    @property
    def least(self) -> int:
        return self.padding + 1

    def __call__(self, audio: torch.Tensor) -> torch.Tensor:
        return functional.pad(audio[:, None], (self.padding, self.padding), "reflect")[:, :, None]


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumFront:
    """A short-time Fourier transform without padding; `window` ``[n]`` holds the norm as well."""

    window: torch.Tensor
    hop: int

    @property
    def least(self) -> int:
        return len(self.window)

    def __call__(self, audio: torch.Tensor) -> torch.Tensor:
        return self.spectrum(audio).permute(0, 3, 1, 2)

    def spectrum(self, audio: torch.Tensor) -> torch.Tensor:
        """Return ``[B, frames, frequencies, 2]``, contiguous: of an image, the channels come last."""
        frames = audio.unfold(1, len(self.window), self.hop) * self.window
        return torch.view_as_real(torch.fft.rfft(frames))


@dataclasses.dataclass(frozen=True, eq=False)
class Conv:
    """A convolution over images: float32 `weight` ``[O, I / groups, kh, kw]``, pairs for the two dimensions."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(image, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@dataclasses.dataclass(frozen=True, eq=False)
class SubDiscriminator:
    """One period, scale or window of a family; `slope` is that of the leaky ReLU after each layer but the last."""

    family: Family
    index: int
    front: Front
    convs: tuple[Conv, ...]
    slope: float

    def logits(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the logits ``[B, n]`` of audio ``[B, T]``."""
        image = self.front(audio)
        for conv in self.convs[:-1]:
            image = functional.leaky_relu_(conv(image), self.slope)
        return self.convs[-1](image).flatten(1)

    def maps(self, audio: torch.Tensor) -> list[torch.Tensor]:
        """Return what each layer makes of one piece ``[1, T]``, averaged over its channels.

        As AudioCraft has them: the families of waveforms count the logits as a map, that of spectra does not.
        """
        maps, image = [], self.front(audio)
        for conv in self.convs[:-1]:
            image = functional.leaky_relu(conv(image), self.slope)
            maps.append(image)
        if self.family != "msstftd":
            maps.append(self.convs[-1](image))
        means = [image[0].mean(dim=0).float().cpu() for image in maps]
        return [mean[0] for mean in means] if self.family == "msd" else means

    def to(self, device: str) -> SubDiscriminator:
        """Return the same on a device."""
        front = self.front
        if isinstance(front, SpectrumFront):
            front = SpectrumFront(front.window.to(device), front.hop)
        convs = tuple(
            dataclasses.replace(
                conv, weight=conv.weight.to(device), bias=None if conv.bias is None else conv.bias.to(device)
            )
            for conv in self.convs
        )
        return dataclasses.replace(self, front=front, convs=convs)


def fold(family: Family, module: Any) -> list[SubDiscriminator]:
    """Return the sub-discriminators of one of AudioCraft's multi-discriminators.

    Raises:
        CheckpointError: it has a norm, an activation or a padding that it does not have by default.
    """
    return [_fold(family, index, each) for index, each in enumerate(module.discriminators)]


def _fold(family: Family, index: int, module: Any) -> SubDiscriminator:
    where = f"{family}.{index}"
    if not isinstance(module.activation, nn.LeakyReLU):
        raise CheckpointError(f"{where}: the activation {type(module.activation).__name__} can't be run")
    layers = list(module.convs)
    front: Front
    if family == "mpd":
        front = PeriodFront(module.period)
    elif family == "msd":
        padding, layers[0] = layers[0]
        if not isinstance(padding, nn.ReflectionPad1d) or padding.padding[0] != padding.padding[1]:
            raise CheckpointError(f"{where}: padding of the kind {type(padding).__name__} can't be run")
        front = WaveFront(int(padding.padding[0]))
    else:
        front = _spectrum(module.spec_transform)
    convs = tuple(_conv(layer, where) for layer in (*layers, module.conv_post))
    return SubDiscriminator(family, index, front, convs, float(module.activation.negative_slope))


def _spectrum(transform: Any) -> SpectrumFront:
    window = transform.window.detach().float()
    if transform.normalized:
        window = window / window.pow(2).sum().sqrt()
    missing = int(transform.n_fft) - len(window)
    return SpectrumFront(functional.pad(window, (missing // 2, missing - missing // 2)), int(transform.hop_length))


def _conv(layer: Any, where: str) -> Conv:
    conv = layer.conv
    if not isinstance(layer.norm, nn.Identity) or hasattr(conv, "weight_orig"):
        raise CheckpointError(f"{where}: only weight norm, or none, can be run")
    weight = conv.weight
    if hasattr(conv, "weight_g"):
        weight = torch._weight_norm(conv.weight_v, conv.weight_g, 0)
    weight = torch.as_tensor(weight).detach().float()
    bias = None if conv.bias is None else conv.bias.detach().float()
    stride, padding, dilation = tuple(conv.stride), tuple(conv.padding), tuple(conv.dilation)
    if weight.dim() == 3:
        weight = weight[:, :, None]
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    return Conv(weight, bias, stride, padding, dilation, int(conv.groups))
