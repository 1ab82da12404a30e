"""Layers of a convolutional codec that keep their place in a stream.

Each takes the next positions, returns the outputs that they settle, and keeps what later outputs need: a convolution
the inputs under its kernel, a residual block the skipped values that its branch has not caught up with, an LSTM its
state. Nothing is computed twice, so a stream costs what the whole piece costs, and memory is constant. The ends of a
piece are padded as the model pads them offline. Padding by reflection looks at what follows the start, so there the
first output waits for the inputs that are reflected.

All data is ``[B, T, C]``: time, then channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from services.models.packed import PackedConv


class UnsupportedCodec(Exception):
    """A codec that can't be run in pieces; the message says why."""


@dataclass
class Place:
    """Where a layer stands in a stream.

    Attributes:
        tensors: what it keeps, each with the streams first.
        used: positions at the start of ``tensors[0]`` that no kernel needs any more, kept to be reflected at the end.
        received: inputs so far.
        started: the start has been padded.
        stream: what our own kernels keep (`services.models.native_codec`), while they run the stream.
    """

    tensors: tuple[torch.Tensor, ...] = ()
    used: int = 0
    received: int = 0
    started: bool = False
    inner: list[Place] = field(default_factory=list)
    stream: Any = None

    def flat(self) -> list[Place]:
        """Return this place and those inside it."""
        return [self, *(place for child in self.inner for place in child.flat())]


class Layer(Protocol):
    """A layer that runs in pieces."""

    def place(self) -> Place:
        """Return the place at the start of a stream."""

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        """Take the next inputs ``[B, n, C]``, return the outputs ``[B, m, D]`` that are settled; all when final."""

    def settled(self, count: int) -> int:
        """Return how many outputs ``count`` inputs settle, before the end."""


class Conv:
    """A convolution with the padding of a whole piece.

    Args:
        pad: positions to the left and to the right.
        reflects: pad by reflection, else by zeros.
        fills: pad the end further, so that the last window is full (EnCodec's extra padding).
        norm: a `GroupNorm` over all positions; such a layer runs only on a whole piece.
    """

    def __init__(
        self, conv: PackedConv, pad: tuple[int, int], reflects: bool, fills: bool, norm: nn.GroupNorm | None = None
    ) -> None:
        self.conv, self._norm = conv, norm
        self.is_normalised = norm is not None
        self._left, self._right = pad
        self._reflects, self._fills = reflects and sum(pad) > 0, fills
        self._need = self._left + 1 if self._reflects else 1
        # Reflection at the end reads this many of the last inputs.
        most = self._right + (conv.stride - 1 if fills else 0)
        self.history = most + 1 if self._reflects and most else 0

    def place(self) -> Place:
        return Place()

    def settled(self, count: int) -> int:
        if count < self._need:
            return 0
        return max(0, (count + self._left - self.conv.span) // self.conv.stride + 1)

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        place.received += inputs.shape[1]
        kept = torch.cat([*place.tensors, inputs], dim=1) if place.tensors else inputs
        if not place.received or not (final or place.started or place.received >= self._need):
            place.tensors = (kept,)
            return inputs.new_zeros(inputs.shape[0], 0, self.conv.channels)
        if final:
            kept = self._close(place, kept)
        elif not place.started:
            kept = self._padded(kept, self._left, 0)
        place.started = True
        stride, span = self.conv.stride, self.conv.span
        count = max(0, (kept.shape[1] - place.used - span) // stride + 1)
        end = place.used + count * stride
        outputs = inputs.new_zeros(inputs.shape[0], 0, self.conv.channels)
        if count:
            outputs = self.conv(kept[:, place.used : end - stride + span])
            if self._norm is not None:
                outputs = self._norm(outputs.transpose(1, 2)).transpose(1, 2).contiguous()
        begin = max(0, min(end, kept.shape[1] - self.history))
        # Cloned: what is kept must not hold the whole window in memory.
        place.tensors, place.used = (kept[:, begin:].clone(),), end - begin
        return outputs

    def _close(self, place: Place, kept: torch.Tensor) -> torch.Tensor:
        """Pad the end, and the start too where the whole piece is still here."""
        count, right, left = place.received, self._right, self._left
        if self._fills:
            stride, total = self.conv.stride, left + right
            ideal = -((self.conv.span - total - count) // stride) * stride + self.conv.span - total
            right += ideal - count
        if not place.started:
            return self._padded(kept, left, right)
        if not self._reflects or count > max(left, right):
            return self._padded(kept, 0, right)
        ending = self._padded(kept[:, -count:], left, right)[:, left + count :]
        return torch.cat([kept, ending], dim=1)

    def _padded(self, kept: torch.Tensor, left: int, right: int) -> torch.Tensor:
        if not self._reflects:
            return functional.pad(kept, (0, 0, left, right)) if left or right else kept
        # A piece shorter than its padding is lengthened by zeros first, as EnCodec does.
        missing = max(0, max(left, right) + 1 - kept.shape[1])
        kept = functional.pad(kept, (0, 0, 0, missing)) if missing else kept
        mirrored = [kept[:, 1 : left + 1].flip(1), kept, kept[:, kept.shape[1] - right - 1 : -1].flip(1)]
        return torch.cat(mirrored, dim=1)[:, : left + kept.shape[1] + right - missing]


class Transposed:
    """A transposed convolution, as a convolution that makes ``stride`` outputs at once.

    Args:
        weight: float32 ``[Cin, Cout, k]``.
        trim: outputs to drop at the start; of T inputs there are ``T * stride`` outputs.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, trim: int, norm: nn.GroupNorm | None = None
    ) -> None:
        fan_in, fan_out, kernel = weight.shape
        blocks = math.ceil(kernel / stride)
        weight = functional.pad(weight.detach(), (0, blocks * stride - kernel))
        # Output r of input t takes weight r + j * stride of input t - j.
        taps = weight.view(fan_in, fan_out, blocks, stride).flip(2).permute(3, 1, 0, 2)
        taps = taps.reshape(stride * fan_out, fan_in, blocks).contiguous()
        conv = PackedConv(taps, None if bias is None else bias.detach().repeat(stride), length=64)
        right = blocks - 1 if norm else math.ceil(trim / stride)
        self.conv = Conv(conv, (blocks - 1, right), reflects=False, fills=False)
        self.stride, self._trim, self._channels, self._norm = stride, trim, fan_out, norm
        self._excess = right * stride - trim
        self._padding = blocks * stride - kernel

    def place(self) -> Place:
        return Place(inner=[self.conv.place()])

    def settled(self, count: int) -> int:
        return max(0, self.conv.settled(count) * self.stride - self._trim)

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        outputs = self.conv.push(place.inner[0], inputs, final)
        outputs = outputs.reshape(outputs.shape[0], -1, self._channels)
        if self._norm is not None and outputs.shape[1]:
            # Over what is trimmed off too: there the model has it.
            outputs = outputs[:, : outputs.shape[1] - self._padding].transpose(1, 2)
            outputs = functional.pad(self._norm(outputs).transpose(1, 2), (0, 0, 0, self._padding))
        drop = min(self._trim - place.used, outputs.shape[1])
        place.used += drop
        last = outputs.shape[1] - self._excess if final else outputs.shape[1]
        # Contiguous, for the same arithmetic whether one stream runs or several.
        return outputs[:, drop : max(drop, last)].contiguous()


class Pointwise:
    """An activation."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def place(self) -> Place:
        return Place()

    def settled(self, count: int) -> int:
        return count

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        if not inputs.shape[1]:
            return inputs
        # Stream by stream: the last few numbers of a call go through other, differently rounded, arithmetic.
        return (
            torch.cat([self.module(row) for row in torch.split(inputs, 1)]) if len(inputs) > 1 else self.module(inputs)
        )


class Residual:
    """A branch of layers that is added to its input, which may pass a convolution of kernel 1."""

    def __init__(self, branch: list[Layer], shortcut: Layer | None) -> None:
        self.branch, self.shortcut = Chain(branch), shortcut

    def place(self) -> Place:
        shortcut = [self.shortcut.place()] if self.shortcut else []
        return Place(inner=[self.branch.place(), *shortcut])

    def settled(self, count: int) -> int:
        return self.branch.settled(count)

    @property
    def lag(self) -> int:
        """Inputs that the branch has not caught up with, once it has started."""
        return (1 << 20) - self.branch.settled(1 << 20)

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        outputs = self.branch.push(place.inner[0], inputs, final)
        if self.shortcut:
            inputs = self.shortcut.push(place.inner[1], inputs, final)
        skipped = torch.cat([*place.tensors, inputs], dim=1) if place.tensors else inputs
        count = outputs.shape[1]
        place.tensors = (skipped[:, count:].clone(),)
        return outputs.add_(skipped[:, :count]) if count else skipped[:, :0]


class Chain:
    """Layers one after another."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def place(self) -> Place:
        return Place(inner=[layer.place() for layer in self.layers])

    def settled(self, count: int) -> int:
        for layer in self.layers:
            count = layer.settled(count)
        return count

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        for layer, inner in zip(self.layers, place.inner, strict=True):
            inputs = layer.push(inner, inputs, final)
            if not inputs.shape[1] and not final:
                return inputs
        return inputs
