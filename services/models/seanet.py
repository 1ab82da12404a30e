"""The networks of a codec, from the weights of either library, as layers that run in pieces.

Weight norm is folded: the plain weights are computed once, where the libraries compute them at every call. Outputs
differ from theirs by float rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from services.models.layers import (
    Chain,
    Conv,
    Layer,
    Place,
    Pointwise,
    Residual,
    Transposed,
    UnsupportedCodec,
)
from services.models.native_codec import NativeNetwork
from services.models.native_products import Unsupported
from services.models.packed import PackedConv
from services.models.recurrent import Recurrent

_MANY = 1 << 20
_PIECE_FRAMES = 24


class Network:
    """A chain of layers for many streams.

    Attributes:
        is_whole: it normalises over time, and so runs on whole pieces only.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self.is_whole = any(isinstance(part, nn.GroupNorm) for module in modules for part in module.modules())
        self._chain = Chain([_layer(module) for module in modules])
        self._native = None if self.is_whole else _native(self._chain)
        # Every layer has made an output as soon as the last one has.
        self._start = 0 if self.is_whole else first(lambda count: self._chain.settled(count) > 0)
        self._piece = _PIECE_FRAMES * max(1, _MANY // max(1, self.settled(_MANY)))

    def begin(self) -> Place:
        """Return the place at the start of a stream."""
        return self._chain.place()

    def settled(self, count: int) -> int:
        """Return how many outputs ``count`` inputs settle, before the end of the stream."""
        return 0 if self.is_whole else self._chain.settled(count)

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[B, m, D]`` of whole pieces ``[B, n, C]``."""
        return self._chain.push(self.begin(), inputs, True)

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        """Take the next inputs ``[1, n, C]`` of a stream, return the outputs ``[1, m, D]`` that they settle."""
        if self._native is None:
            return self._chain.push(place, inputs, final)
        (made,) = self.push_many([place], [inputs])
        if not final:
            return made
        if place.stream is not None:
            self._native.leave(place.stream, place)
            place.stream = None
        rest = self._chain.push(place, inputs[:, :0], True)
        return torch.cat([made, rest], dim=1) if made.shape[1] else rest

    def push_many(self, places: list[Place], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Do `push` for several streams, none at its end; streams at like places share each call."""
        return self._push_together(places, inputs) if self._native is None else self._push_native(places, inputs)

    def _push_native(self, places: list[Place], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Start each stream alone, with as little as that takes, and run the rest in our kernels."""
        assert self._native is not None
        inputs, parts = inputs.copy(), [list[torch.Tensor]() for _ in places]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, place in enumerate(places):
            block = inputs[index]
            if place.stream is None and block.shape[1]:
                head = block[:, : self._start - place.received]
                place.received += head.shape[1]
                parts[index].append(self._chain.push(place, head, False))
                inputs[index] = block[:, head.shape[1] :]
                place.stream = self._native.enter(place) if place.received == self._start else None
            if place.stream is not None and inputs[index].shape[1]:
                key = place.stream.key() if len(places) > 1 else b""
                groups.setdefault((inputs[index].shape[1], key), []).append(index)
        for members in groups.values():
            streams = [places[index].stream for index in members]
            # Piece by piece: what passes between the layers stays in the caches.
            for pieces in zip(*(torch.split(inputs[index], self._piece, dim=1) for index in members), strict=True):
                made = self._native.push(streams, pieces)
                for index, rows in zip(members, torch.split(made, 1), strict=True):
                    parts[index].append(rows)
        return [_joined(made, self._native.channels) for made in parts]

    def _push_together(self, places: list[Place], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, (place, block) in enumerate(zip(places, inputs, strict=True)):
            groups.setdefault((block.shape[1], *_shape(place)), []).append(index)
        outputs = inputs.copy()
        for members in groups.values():
            merged = _merged([places[index] for index in members]) if len(members) > 1 else places[members[0]]
            made = self._chain.push(merged, torch.cat([inputs[index] for index in members]), False)
            for row, index in enumerate(members):
                outputs[index] = made[row : row + 1]
                if len(members) > 1:
                    _take(places[index], merged, row)
        return outputs


def _joined(parts: list[torch.Tensor], channels: int) -> torch.Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=1) if parts else torch.zeros(1, 0, channels)


def first(holds: Callable[[int], bool]) -> int:
    """Return the least count from 1 for which a condition that stays true becomes true."""
    high = 1
    while not holds(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _native(chain: Chain) -> NativeNetwork | None:
    """Return the layers in our own kernels, where these run them."""
    try:
        return NativeNetwork(chain)
    except Unsupported:
        return None


def _shape(place: Place) -> tuple[Any, ...]:
    """Return what two streams must share to run in one call; before the start, also how far they are."""
    return tuple(
        (part.used, part.started, part.started or part.received, *(tensor.shape[1:] for tensor in part.tensors))
        for part in place.flat()
    )


def _merged(places: list[Place]) -> Place:
    first = places[0]
    tensors = tuple(torch.cat(parts) for parts in zip(*(place.tensors for place in places), strict=True))
    inner = [_merged(list(parts)) for parts in zip(*(place.inner for place in places), strict=True)]
    # Counted from 0: streams that have started need not be equally far.
    return Place(tensors, first.used, 0 if first.started else first.received, first.started, inner)


def _take(place: Place, merged: Place, row: int) -> None:
    place.tensors = tuple(tensor[row : row + 1].clone() for tensor in merged.tensors)
    place.received = place.received + merged.received if place.started else merged.received
    place.used, place.started = merged.used, merged.started
    for part, other in zip(place.inner, merged.inner, strict=True):
        _take(part, other, row)


def plain_weight(module: Any) -> torch.Tensor:
    """Return the weight of a convolution, weight norm folded. AudioCraft keeps the older form of it."""
    if hasattr(module, "weight_g"):
        return torch.as_tensor(torch._weight_norm(module.weight_v, module.weight_g, 0)).detach()
    return torch.as_tensor(module.weight).detach()


def _layer(module: Any) -> Layer:
    from audiocraft.modules.conv import StreamableConv1d, StreamableConvTranspose1d
    from audiocraft.modules.lstm import StreamableLSTM
    from audiocraft.modules.seanet import SEANetResnetBlock
    from transformers.models.encodec.modeling_encodec import (
        EncodecConv1d,
        EncodecConvTranspose1d,
        EncodecLSTM,
        EncodecResnetBlock,
    )

    if isinstance(module, StreamableConv1d | EncodecConv1d):
        # AudioCraft wraps convolution and norm once more; transformers has no norm where there is none.
        inner = module.conv if isinstance(module, StreamableConv1d) else module
        return _conv(inner.conv, getattr(inner, "norm", None), module.causal, module.pad_mode)
    if isinstance(module, StreamableConvTranspose1d | EncodecConvTranspose1d):
        is_wrapped = isinstance(module, StreamableConvTranspose1d)
        inner, conv = (module.convtr, module.convtr.convtr) if is_wrapped else (module, module.conv)
        return _transposed(conv, getattr(inner, "norm", None), module.causal, module.trim_right_ratio)
    if isinstance(module, SEANetResnetBlock | EncodecResnetBlock):
        shortcut = None if isinstance(module.shortcut, nn.Identity) else _layer(module.shortcut)
        return Residual([_layer(child) for child in module.block], shortcut)
    if isinstance(module, StreamableLSTM | EncodecLSTM):
        return Recurrent(module.lstm, bool(getattr(module, "skip", True)))
    if not list(module.children()) and not isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        return Pointwise(module)
    raise UnsupportedCodec(f"codec: a layer of type {type(module).__name__}")


def _conv(conv: nn.Conv1d, norm: nn.Module | None, causal: bool, pad_mode: str) -> Layer:
    if conv.groups != 1:
        raise UnsupportedCodec("codec: a grouped convolution")
    if pad_mode not in ("reflect", "constant"):
        raise UnsupportedCodec(f"codec: padding of the kind {pad_mode!r}")
    stride, dilation = conv.stride[0], conv.dilation[0]
    total = (conv.kernel_size[0] - 1) * dilation + 1 - stride
    right = 0 if causal else total // 2
    packed = PackedConv(plain_weight(conv), conv.bias, stride, dilation)
    return Conv(packed, (total - right, right), pad_mode == "reflect", fills=True, norm=_group_norm(norm))


def _transposed(conv: nn.ConvTranspose1d, norm: nn.Module | None, causal: bool, trim_right_ratio: float) -> Layer:
    stride = conv.stride[0]
    total = conv.kernel_size[0] - stride
    right = math.ceil(total * trim_right_ratio) if causal else total // 2
    return Transposed(plain_weight(conv), conv.bias, stride, total - right, _group_norm(norm))


def _group_norm(norm: nn.Module | None) -> nn.GroupNorm | None:
    return norm if isinstance(norm, nn.GroupNorm) else None
