"""The weights of a language model, laid out for the decoder's kernels (services/models/kernels/linear.h)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from services.models.executor import UnsupportedModel
from services.models.weights import LinearWeights, NormWeights, Weights

PRECISIONS = {"fp32": 0, "bf16": 1, "int8": 2}
LANES = 16
GROUP = 64
_HEAD_DIMS = (16, 32, 48, 64, 80, 96, 128)


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_double))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("norm1", _Norm),
        ("qkv", _Linear),
        ("out", _Linear),
        ("norm_cross", _Norm),
        ("query", _Linear),
        ("key_value", _Linear),
        ("cross_out", _Linear),
        ("norm2", _Norm),
        ("up", _Linear),
        ("down", _Linear),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("layer_count", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("precision", ctypes.c_int64),
        ("crossed", ctypes.c_int64),
        ("relu", ctypes.c_int64),
        ("out_norm", _Norm),
        ("head", _Linear),
    )


class PackedWeights:
    """A language model's weights as the decoder's kernels read them; ``model`` is what they are given.

    int8 has a scale for each output of a weight.

    Raises:
        UnsupportedModel: the model has a size that the kernels do not run.
    """

    def __init__(self, weights: Weights, precision: str) -> None:
        _check(weights)
        self.precision = precision
        self._kept: list[Any] = []
        self.model = self._pack(weights)

    def _pack(self, weights: Weights) -> _Model:
        layers = (_Layer * len(weights.layers))()
        for packed, layer in zip(layers, weights.layers, strict=True):
            packed.norm1, packed.norm2 = self._norm(layer.norm1), self._norm(layer.norm2)
            packed.qkv, packed.out = self._linear(layer.qkv), self._linear(layer.out)
            packed.up, packed.down = self._linear(layer.up), self._linear(layer.down)
            if layer.cross is not None:
                packed.norm_cross = self._norm(layer.cross.norm)
                packed.query, packed.cross_out = self._linear(layer.cross.query), self._linear(layer.cross.out)
                packed.key_value = self._linear(layer.cross.key_value)
        self._kept.append(layers)
        return _Model(
            layers=layers,
            layer_count=len(layers),
            dim=weights.dim,
            heads=weights.num_heads,
            hidden=weights.layers[0].up.weight.shape[0],
            precision=PRECISIONS[self.precision],
            crossed=weights.crossed,
            relu=weights.activation == "relu",
            out_norm=_Norm() if weights.out_norm is None else self._norm(weights.out_norm),
            head=self._linear(weights.heads),
        )

    def _norm(self, norm: NormWeights) -> _Norm:
        return _Norm(self._keep(norm.weight.clone()), self._keep(norm.bias.clone()), norm.eps)

    def _linear(self, linear: LinearWeights) -> _Linear:
        outputs, inputs = linear.weight.shape
        weight, scales = linear.weight, None
        if self.precision == "fp32":
            packed = weight.view(-1, LANES, inputs).transpose(1, 2)
        elif self.precision == "bf16":
            packed = weight.bfloat16().view(-1, LANES, inputs // 2, 2).transpose(1, 2)
        else:
            scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            quantised = (weight / scale).round().add(128).to(torch.uint8)
            packed = quantised.view(-1, LANES, inputs // 4, 4).transpose(1, 2)
            scales = self._keep(scale[:, 0].contiguous())
        bias = None if linear.bias is None else self._keep(linear.bias.clone())
        return _Linear(self._keep(packed.contiguous()), scales, bias, outputs, inputs)

    def _keep(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


def _check(weights: Weights) -> None:
    sizes = [weights.dim, weights.layers[0].up.weight.shape[0]]
    if (
        any(size % GROUP for size in sizes)
        or weights.head_dim not in _HEAD_DIMS
        or weights.heads.weight.shape[0] % LANES
    ):
        raise UnsupportedModel(f"language model: layers of {sizes} and heads of {weights.head_dim} can't be run")
