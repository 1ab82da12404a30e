"""Packed weights: the results of PyTorch's own calls, and a stream's bits whatever shares the call."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from services.models.packed import PackedConv, PackedLinear

CONVS = [
    # channels in, out, kernel, stride, dilation: those of EnCodec with 32 and 64 filters
    (1, 32, 7, 1, 1),
    (2, 32, 7, 1, 1),
    (32, 16, 3, 1, 1),
    (16, 32, 1, 1, 1),
    (32, 64, 4, 2, 1),
    (64, 32, 3, 1, 2),
    (64, 128, 8, 4, 1),
    (128, 256, 10, 5, 1),
    (256, 512, 16, 8, 1),
    (512, 128, 7, 1, 1),
    (1024, 128, 7, 1, 1),
    (128, 512, 7, 1, 1),
    (512, 2048, 2, 1, 1),
    (32, 1, 7, 1, 1),
]
LINEARS = [(512, 2048), (1024, 4096), (256, 1024), (128, 1024), (128, 2048), (64, 512), (64, 256)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", CONVS)
@torch.inference_mode()
def test_a_convolution(shape: tuple[int, int, int, int, int]) -> None:
    fan_in, fan_out, kernel, stride, dilation = shape
    weight, bias = torch.randn(fan_out, fan_in, kernel) / kernel, torch.randn(fan_out)
    conv = PackedConv(weight, bias, stride, dilation)
    for count in (1, 6, 40):
        inputs = torch.randn(5, (count - 1) * stride + conv.span, fan_in)
        together = conv(inputs)
        expected = functional.conv1d(inputs.transpose(1, 2), weight, bias, stride, 0, dilation).transpose(1, 2)
        assert torch.allclose(together, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(together, torch.cat([conv(row[None]) for row in inputs]))
        assert torch.equal(together[1:4], conv(inputs[1:4]))


@pytest.mark.parametrize("shape", LINEARS)
@torch.inference_mode()
def test_a_matrix_product(shape: tuple[int, int]) -> None:
    fan_in, fan_out = shape
    weight, bias = torch.randn(fan_out, fan_in), torch.randn(fan_out)
    for linear, term in ((PackedLinear(weight, bias), bias), (PackedLinear(weight), None)):
        inputs = torch.randn(80, fan_in)
        together = linear(inputs)
        assert torch.allclose(together, functional.linear(inputs, weight, term), rtol=1e-4, atol=1e-3)
        for count in (1, 2, 3, 5, 8, 13, 16, 31):
            assert torch.equal(linear(inputs[:count]), together[:count])
            assert torch.equal(linear(inputs[40 : 40 + count]), together[40 : 40 + count])
