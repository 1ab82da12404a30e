"""Matrix products in the precisions that the torch executor runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from services.models.weights import LinearWeights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
"""What a precision keeps between its products. int8 is that of the weights alone, a scale an output channel."""

DEVICES = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}


@dataclass(frozen=True)
class Matrix:
    """A linear layer: ``weight`` ``[out, in]``, with ``scale`` ``[out]`` where it is int8, ``bias`` or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor | None = None

    @classmethod
    def of(cls, source: LinearWeights, precision: str) -> Matrix:
        """Return the layer in one of ``DTYPES``; in fp32 it shares the memory of its source."""
        dtype = DTYPES[precision]
        bias = None if source.bias is None else source.bias.to(dtype)
        # torch's int8 kernel reads columns in blocks of sixteen, and checks nothing.
        if precision != "int8" or source.weight.shape[1] % 16:
            return cls(source.weight.to(dtype), bias)
        # The kernel takes scales in bf16: quantised by the rounded ones, the weights lose nothing to that.
        scale = (source.weight.abs().amax(1) / 127).bfloat16().clamp(min=torch.finfo(torch.bfloat16).tiny)
        weight = (source.weight / scale.float()[:, None]).round().clamp(-127, 127)
        return cls(weight.to(torch.int8), bias, scale)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``[R, out]`` for ``[R, in]``, added to ``residual`` where there is one."""
        if self.scale is not None:
            # In bf16: its fp32 variant is not vectorised.
            result = torch._weight_int8pack_mm(x.bfloat16(), self.weight, self.scale).to(x.dtype)
            result = result if self.bias is None else result + self.bias
        elif residual is not None and self.bias is None:
            # One kernel instead of two.
            return torch.addmm(residual, x, self.weight.T)
        else:
            result = linear(x, self.weight, self.bias)
        return result if residual is None else residual + result
