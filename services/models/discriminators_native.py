"""Runs discriminators on the CPU with our own kernels (services/models/kernels/discriminators.cpp).

PyTorch's convolutions are made for many channels; these have few, in many small groups, over large images, and most of
the time goes into laying data out anew. Here the data keeps one layout from the first layer to the last. Threads share
the work by window and sub-discriminator, so windows that come in together fill them.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional

from services.models.discriminators_layers import Conv, PeriodFront, SpectrumFront, SubDiscriminator, WaveFront
from services.models.kernels import build

LANES = 16
_PERIOD, _WAVE, _SPECTRUM = range(3)
_log = logging.getLogger("antiphon.kernels")


class _Unsupported(Exception):
    """A layer that the kernels do not run; PyTorch does."""


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("groups", "inputs", "outputs")),
        *((name, ctypes.c_int64) for name in ("taps", "dilation", "row_stride", "kernel", "stride")),
        *((name, ctypes.c_int64) for name in ("padding_rows", "padding_columns")),
        *((name, ctypes.c_int64) for name in ("packed", "panels", "length")),
    )


class _Sub(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("front", "parameter", "hop")),
        ("layers", ctypes.POINTER(_Layer)),
        ("layer_count", ctypes.c_int64),
        ("slope", ctypes.c_double),
    )


@cache
def _kernels() -> ctypes.CDLL | None:
    try:
        library = build.load("discriminators")
    except build.NoCompiler as error:
        _log.warning("discriminators run in PyTorch, which is slower", extra={"reason": str(error)})
        return None
    library.discriminators_listen.restype = ctypes.c_int64
    return library


class NativeDiscriminators:
    """All sub-discriminators as one call."""

    def __init__(self, library: ctypes.CDLL, subs: Sequence[SubDiscriminator]) -> None:
        self._library = library
        self._kept: list[torch.Tensor] = []
        self._fronts = [sub.front for sub in subs]
        self._layers = [(_Layer * len(sub.convs))(*self._pack(sub)) for sub in subs]
        self._subs = (_Sub * len(subs))(*map(_sub, subs, self._layers))

    @classmethod
    def build(cls, subs: Sequence[SubDiscriminator]) -> NativeDiscriminators | None:
        """Return them, or None where the kernels can't be built or do not run one of the layers."""
        library = _kernels()
        if library is None:
            return None
        try:
            return cls(library, subs)
        except _Unsupported as error:
            _log.warning("discriminators run in PyTorch, which is slower", extra={"reason": str(error)})
            return None

    def means(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean logits, and the mean sigmoids of the logits, ``[B, subs]`` of windows ``[B, T]``."""
        audio = audio.contiguous()
        windows, samples = audio.shape
        read = [front.spectrum(audio) if isinstance(front, SpectrumFront) else audio for front in self._fronts]
        pointers = (ctypes.c_void_p * (windows * len(read)))(
            *(each.data_ptr() + window * each.stride(0) * 4 for window in range(windows) for each in read)
        )
        logits, sigmoids = (torch.empty(windows, len(read), dtype=torch.float64) for _ in range(2))
        failed = self._library.discriminators_listen(
            self._subs,
            ctypes.c_int64(len(read)),
            pointers,
            ctypes.c_int64(windows),
            ctypes.c_int64(samples),
            ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_void_p(sigmoids.data_ptr()),
            ctypes.c_int64(torch.get_num_threads()),
        )
        if failed:
            raise MemoryError("no memory for a window")
        return logits, sigmoids

    def _pack(self, sub: SubDiscriminator) -> list[_Layer]:
        # Periods: the columns of the image become its rows, so that a kernel covers neighbours.
        convs = [_turned(conv) for conv in sub.convs] if sub.family == "mpd" else list(sub.convs)
        if any(conv.dilation[1] != 1 for conv in convs):
            raise _Unsupported(f"{sub.family}.{sub.index}: a kernel with gaps between its columns")
        if len(convs[-1].weight) != 1 or convs[-1].groups != 1:
            raise _Unsupported(f"{sub.family}.{sub.index}: more than one logit")
        return [self._layer(conv) for conv in convs[:-1]] + [self._last(convs[-1])]

    def _layer(self, conv: Conv) -> _Layer:
        groups, stride = conv.groups, conv.stride[1]
        total, inputs, taps, kernel = conv.weight.shape
        outputs = total // groups
        packed = max(1, LANES // outputs)
        panels = -(-outputs // LANES)
        length = (kernel + (packed - 1) * stride) * inputs
        # [groups, outputs, taps, kernel * inputs]: a stretch as it lies in memory.
        stretches = conv.weight.permute(0, 2, 3, 1).reshape(groups, outputs, taps, kernel * inputs)
        weights = torch.zeros(groups, panels * LANES, taps, length)
        bias = torch.zeros(groups, panels * LANES)
        offsets = torch.zeros(total) if conv.bias is None else conv.bias
        for column in range(packed):
            lanes = slice(column * outputs, (column + 1) * outputs)
            begin = column * stride * inputs
            weights[:, lanes, :, begin : begin + kernel * inputs] = stretches
            bias[:, lanes] = offsets.view(groups, outputs)
        weights = weights.view(groups, panels, LANES, taps, length).permute(0, 1, 3, 4, 2)
        return self._described(conv, weights, bias, packed, panels, length)

    def _last(self, conv: Conv) -> _Layer:
        _, inputs, taps, kernel = conv.weight.shape
        stretches = conv.weight.permute(0, 2, 3, 1).reshape(taps, kernel * inputs)
        padded = functional.pad(stretches, (0, -stretches.shape[1] % LANES))
        bias = torch.zeros(1) if conv.bias is None else conv.bias
        return self._described(conv, padded, bias, 1, 1, padded.shape[1])

    def _described(
        self, conv: Conv, weights: torch.Tensor, bias: torch.Tensor, packed: int, panels: int, length: int
    ) -> _Layer:
        return _Layer(
            weights=self._keep(weights),
            bias=self._keep(bias),
            groups=conv.groups,
            inputs=conv.weight.shape[1],
            outputs=len(conv.weight) // conv.groups,
            taps=conv.weight.shape[2],
            dilation=conv.dilation[0],
            row_stride=conv.stride[0],
            kernel=conv.weight.shape[3],
            stride=conv.stride[1],
            padding_rows=conv.padding[0],
            padding_columns=conv.padding[1],
            packed=packed,
            panels=panels,
            length=length,
        )

    def _keep(self, values: torch.Tensor) -> int:
        self._kept.append(values.contiguous().clone())
        return self._kept[-1].data_ptr()


def _turned(conv: Conv) -> Conv:
    def turned(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[1], pair[0]

    weight = conv.weight.transpose(2, 3)
    return Conv(weight, conv.bias, turned(conv.stride), turned(conv.padding), turned(conv.dilation), conv.groups)


def _sub(sub: SubDiscriminator, layers: ctypes.Array[_Layer]) -> _Sub:
    front = sub.front
    if isinstance(front, PeriodFront):
        return _Sub(_PERIOD, front.period, 0, layers, len(layers), sub.slope)
    if isinstance(front, SpectrumFront):
        return _Sub(_SPECTRUM, len(front.window), front.hop, layers, len(layers), sub.slope)
    assert isinstance(front, WaveFront)
    return _Sub(_WAVE, front.padding, 0, layers, len(layers), sub.slope)
