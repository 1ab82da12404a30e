"""Convolutions and matrix products whose weights are laid out once, when they are loaded.

On a CPU they run through oneDNN over channels-last data, in the layout that it chose for the weights: about twice as
fast as PyTorch's own calls, which lay the weights out anew at every call. These kernels also give a stream the same
bits whatever other streams share the call. That is measured, in tests/unit/test_packed.py, and not promised by oneDNN.
Elsewhere PyTorch's own calls run, and results may differ in their last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_OPS = torch.ops.mkldnn


def is_packable(device: torch.device) -> bool:
    """Tell whether this build of PyTorch can lay weights out for oneDNN on the device."""
    has_onednn = bool(torch._C._has_mkldnn) and hasattr(_OPS, "_convolution_pointwise")
    return device.type == "cpu" and has_onednn


class PackedConv:
    """A convolution over time without padding.

    Args:
        weight: float32 ``[Cout, Cin, k]``.
        bias: float32 ``[Cout]``.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, stride: int = 1, dilation: int = 1, length: int = 256
    ) -> None:
        self.kernel, self.stride, self.dilation = int(weight.shape[2]), stride, dilation
        self.channels = int(weight.shape[0])
        self.span = (self.kernel - 1) * dilation + 1
        self.bias = None if bias is None else bias.detach()
        self._weight = weight.detach()[:, :, None]
        self._packed = is_packable(weight.device)
        if self._packed:
            flat = self._weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
            form = [1, int(weight.shape[1]), 1, (length - 1) * stride + self.span]
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._weight = reorder(flat, [0, 0], [1, stride], [1, dilation], 1, form)

    @property
    def plain(self) -> torch.Tensor:
        """The weight as it was given."""
        return torch.as_tensor(self._weight.to_dense() if self._packed else self._weight)[:, :, 0]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[B, n, Cout]`` of ``[B, T, Cin]``, T at least the span of the kernel."""
        image = inputs.contiguous().transpose(1, 2)[:, :, None]
        stride, dilation = [1, self.stride], [1, self.dilation]
        if self._packed:
            run = _OPS._convolution_pointwise
            outputs = run(image, self._weight, self.bias, [0, 0], stride, dilation, 1, "none", [], None)
        else:
            outputs = functional.conv2d(image, self._weight, self.bias, stride, 0, dilation)
        return torch.as_tensor(outputs[:, :, 0].transpose(1, 2)).contiguous()


class PackedLinear:
    """A matrix product: float32 ``weight`` of ``[out, in]``, ``bias`` of ``[out]``.

    oneDNN takes other kernels, which round otherwise, for few rows of some shapes. Which, is tried when it is made, and
    fewer rows than that are padded; ``is_shared=False`` leaves that out, where streams never share a call.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, is_shared: bool = True) -> None:
        self.bias = None if bias is None else bias.detach()
        self._packed = is_packable(weight.device)
        self._least = 1
        self._weight = weight.detach().contiguous()
        if self._packed:
            self._weight = _OPS._reorder_linear_weight(self._weight, None)
        if self._packed and is_shared:
            rows = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                whole = self(rows)
                for count in (1, 2, 4, 8, 15, 31):
                    if not torch.equal(self(rows[:count]), whole[:count]):
                        self._least = count + 1

    @property
    def plain(self) -> torch.Tensor:
        """The weight as it was given."""
        return torch.as_tensor(self._weight.to_dense() if self._packed else self._weight)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[n, out]`` of ``[n, in]``."""
        if not self._packed:
            return functional.linear(inputs, self._weight, self.bias)
        count = inputs.shape[0]
        if count < self._least:
            inputs = functional.pad(inputs, (0, 0, 0, self._least - count))
        outputs = _OPS._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")
        return torch.as_tensor(outputs[:count])
