"""Runs a codec's layers on the CPU with our own kernels, from the start of a stream up to its end.

A chunk of six frames is a few rows at most layers. PyTorch's calls then cost more than the arithmetic: about sixty
microseconds for each of eighty, and weights that are laid out for many rows. Here one call takes a chunk through all
layers (services/models/kernels/codec.cpp). The start and the end of a piece, with their padding, are left to the
layers of `services.models.layers`, whose places a stream is taken from and given back to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from services.models.layers import Chain, Conv, Layer, Place, Pointwise, Residual, Transposed
from services.models.native_products import LANES, Memory, Product, Unsupported, kernels, pack
from services.models.recurrent import Recurrent

_CONVOLVE, _ACTIVATE, _ADD, _RECUR = range(4)


class _Op(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "source", "target", "slot")),
        *((name, ctypes.c_int64) for name in ("stride", "upsample", "history", "elu")),
        ("product", Product),
        ("state", Product),
    )


class _Buffer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("channels", "slot", "room"))


class _Network(ctypes.Structure):
    _fields_ = (
        ("ops", ctypes.POINTER(_Op)),
        ("op_count", ctypes.c_int64),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_int64),
        ("slots", ctypes.POINTER(ctypes.c_int64)),
        ("slot_count", ctypes.c_int64),
        ("room_count", ctypes.c_int64),
    )


@dataclass
class Stream:
    """What a stream keeps: the slots one after another, and for each how much of it is kept, used and received."""

    memory: torch.Tensor
    counts: torch.Tensor

    def key(self) -> bytes:
        """Return what two streams must share to run in one call."""
        return self.counts.numpy()[:, :2].tobytes()


class NativeNetwork:
    """The layers of a chain as one call.

    Raises:
        Unsupported: the kernels do not run one of them.
    """

    def __init__(self, chain: Chain) -> None:
        library, first = kernels(), chain.layers[0]
        if library is None or not isinstance(first, Conv) or first.conv.plain.device.type != "cpu":
            raise Unsupported("no kernels, or another device")
        self._library = library
        self._ops: list[_Op] = []
        self._buffers: list[_Buffer] = []
        self._sizes: list[int] = []
        self._weights = Memory()
        self._layers = chain
        last = self._emit(chain, self._buffer(first.conv.plain.shape[1]), fuses=False)
        # The last buffer is what comes out.
        if last != len(self._buffers) - 1 or not last:
            raise Unsupported("a chain that ends in its input")
        self.channels = int(self._buffers[last].channels)
        self._share_rooms()
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        self._op_array = (_Op * len(self._ops))(*self._ops)
        self._buffer_array = (_Buffer * len(self._buffers))(*self._buffers)
        slots = self._starts.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        rooms = max(buffer.room for buffer in self._buffers) + 1
        self._network = _Network(
            self._op_array, len(self._ops), self._buffer_array, len(self._buffers), slots, len(self._sizes), rooms
        )
        self._address = ctypes.addressof(self._network)

    def enter(self, place: Place) -> Stream:
        """Take a stream over from its place, once every layer has made an output."""
        stream = Stream(torch.zeros(int(self._starts[-1])), torch.zeros(len(self._sizes), 3, dtype=torch.int64))
        for slot, (layer, part) in enumerate(_stateful(self._layers, place)):
            values = [tensor.reshape(-1) for tensor in _kept_of(layer, part)]
            flat = torch.cat(values) if values else torch.zeros(0)
            begin = int(self._starts[slot])
            stream.memory[begin : begin + len(flat)] = flat
            kept = part.tensors[0].shape[1] if part.tensors else 0
            stream.counts[slot] = torch.tensor([kept, part.used, part.received])
            if not isinstance(layer, tuple):
                part.tensors = tuple(tensor[:, :0].clone() for tensor in part.tensors)
        return stream

    def leave(self, stream: Stream, place: Place) -> None:
        """Give a stream back to its place."""
        for slot, (layer, part) in enumerate(_stateful(self._layers, place)):
            kept, used, received = (int(count) for count in stream.counts[slot])
            begin = int(self._starts[slot])
            if isinstance(layer, tuple):
                recurrent, index = layer
                pair = stream.memory[begin : begin + 2 * recurrent.width].view(2, 1, -1).clone()
                part.tensors = (*part.tensors[: 2 * index], pair[0], pair[1], *part.tensors[2 * index + 2 :])
                continue
            channels = part.tensors[0].shape[2]
            block = stream.memory[begin : begin + kept * channels].view(1, kept, channels).clone()
            part.tensors, part.used, part.received = (block,), used, received

    def push(self, streams: Sequence[Stream], inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Take inputs ``[1, n, C]`` of streams with the same key, return outputs ``[B, m, D]``."""
        inputs = [block.contiguous() for block in inputs]
        rows, count = inputs[0].shape[1], len(streams)
        made = self._library.codec_rows(self._address, streams[0].counts.data_ptr(), rows)
        outputs = torch.empty(count, made, self.channels)
        pointers = ctypes.c_void_p * count
        self._library.codec_push(
            self._address,
            count,
            pointers(*[stream.memory.data_ptr() for stream in streams]),
            pointers(*[stream.counts.data_ptr() for stream in streams]),
            pointers(*[block.data_ptr() for block in inputs]),
            rows,
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        return outputs

    def _buffer(self, channels: int) -> int:
        self._buffers.append(_Buffer(channels, -1, 0))
        return len(self._buffers) - 1

    def _slot(self, size: int) -> int:
        self._sizes.append(size)
        return len(self._sizes) - 1

    def _emit(self, layer: Layer, source: int, fuses: bool) -> int:
        """Write the ops of a layer; return the buffer of its outputs. ``fuses``: only this layer reads the source."""
        if isinstance(layer, Chain):
            for index, part in enumerate(layer.layers):
                source = self._emit(part, source, fuses or index > 0)
            return source
        if isinstance(layer, Conv):
            return self._convolve(layer, source, 1)
        if isinstance(layer, Transposed):
            return self._convolve(layer.conv, source, layer.stride)
        if isinstance(layer, Pointwise):
            return self._activate(layer, source, fuses)
        if isinstance(layer, Residual):
            return self._residual(layer, source)
        if isinstance(layer, Recurrent):
            return self._recur(layer, source)
        raise Unsupported(type(layer).__name__)

    def _convolve(self, layer: Conv, source: int, upsample: int) -> int:
        if layer.is_normalised or self._buffers[source].slot >= 0:
            raise Unsupported("a norm over time, or two readers that keep inputs")
        conv = layer.conv
        product = pack(conv.plain, conv.bias, self._weights, conv.dilation)
        slot = self._slot(max(conv.span - 1, layer.history) * product.fan_in)
        self._buffers[source].slot = slot
        target = self._buffer(product.fan_out // upsample)
        self._ops.append(_Op(_CONVOLVE, source, target, slot, conv.stride, upsample, layer.history, 0, product))
        return target

    def _activate(self, layer: Pointwise, source: int, fuses: bool) -> int:
        module = layer.module
        if not isinstance(module, nn.ELU) or module.alpha != 1.0:
            raise Unsupported(type(module).__name__)
        if fuses and self._ops and self._ops[-1].kind == _CONVOLVE and self._ops[-1].target == source:
            self._ops[-1].elu = 1
            return source
        target = self._buffer(self._buffers[source].channels)
        self._ops.append(_Op(_ACTIVATE, source, target, -1))
        return target

    def _residual(self, layer: Residual, source: int) -> int:
        skipped = source if layer.shortcut is None else self._emit(layer.shortcut, source, False)
        target = self._emit(layer.branch, source, False)
        if self._buffers[skipped].slot >= 0 or target == source:
            raise Unsupported("two readers that keep inputs")
        slot = self._slot(layer.lag * self._buffers[skipped].channels)
        self._buffers[skipped].slot = slot
        self._ops.append(_Op(_ADD, skipped, target, slot))
        return target

    def _recur(self, layer: Recurrent, source: int) -> int:
        if layer.width % LANES:
            raise Unsupported("an LSTM of a width that is no multiple of 16")
        first = source
        for from_input, from_state in layer.layers:
            product = pack(from_input.plain[:, :, None], from_input.bias, self._weights)
            state = pack(from_state.plain[:, :, None], None, self._weights)
            target = self._buffer(layer.width)
            self._ops.append(_Op(_RECUR, source, target, self._slot(2 * layer.width), 0, 0, 0, 0, product, state))
            source = target
        if layer.skips:
            self._ops.append(_Op(_ADD, first, source, -1))
        return source

    def _share_rooms(self) -> None:
        """Give a room to each buffer; one is free again two ops after its last reader."""
        last = {0: 0}
        for index, op in enumerate(self._ops):
            last[op.source] = last[op.target] = index
        free_from: list[int] = []
        for number, buffer in enumerate(self._buffers):
            made = next((index for index, op in enumerate(self._ops) if op.target == number), -1)
            rooms = [room for room, until in enumerate(free_from) if until < made]
            buffer.room = rooms[0] if rooms else len(free_from)
            if not rooms:
                free_from.append(0)
            free_from[buffer.room] = last[number] + 1


def _stateful(layer: Layer, place: Place) -> list[tuple[Any, Place]]:
    """Return the places of a layer in the order of their slots."""
    if isinstance(layer, Chain):
        return [pair for part, inner in zip(layer.layers, place.inner, strict=True) for pair in _stateful(part, inner)]
    if isinstance(layer, Transposed):
        return _stateful(layer.conv, place.inner[0])
    if isinstance(layer, Residual):
        shortcut = _stateful(layer.shortcut, place.inner[1]) if layer.shortcut else []
        return [*shortcut, *_stateful(layer.branch, place.inner[0]), (layer, place)]
    if isinstance(layer, Recurrent):
        return [((layer, index), place) for index in range(len(layer.layers))]
    return [(layer, place)] if isinstance(layer, Conv) else []


def _kept_of(layer: Any, place: Place) -> tuple[torch.Tensor, ...]:
    if isinstance(layer, tuple):
        index = layer[1]
        return place.tensors[2 * index : 2 * index + 2]
    return place.tensors
