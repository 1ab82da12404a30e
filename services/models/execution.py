"""Chooses what a language model runs on, and at which precision."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch

from services.models.executor import Executor, UnsupportedModel
from services.models.kernels.build import NoCompiler
from services.models.native import NativeExecutor
from services.models.transformer import TransformerExecutor

_log = logging.getLogger("antiphon.models")

Precision = Literal["auto", "fp32", "bf16", "int8", "fp16"]
QUANTISED_PARAMETERS = 100_000_000
"""From here on a CPU is bound by reading the weights, and `auto` takes int8."""

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def resolve(precision: Precision, device: torch.device, parameter_count: int) -> str:
    """Return the precision to run at.

    Raises:
        ValueError: the device does not run it.
    """
    if device.type == "cuda":
        if precision == "auto":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        if precision == "int8":
            raise ValueError("precision: int8 runs on CPUs only; hint: auto, fp32, bf16 or fp16")
    elif precision == "auto":
        return "int8" if parameter_count >= QUANTISED_PARAMETERS else "fp32"
    elif precision == "fp16":
        raise ValueError("precision: fp16 runs on GPUs only; hint: auto, fp32, bf16 or int8")
    return precision


def make_executor(lm: Any, precision: Precision = "auto") -> Executor[Any]:
    """Return the fastest executor for an ``LMModel`` on its device.

    On a CPU our own kernels, and PyTorch's where there is no compiler to build them with.

    Raises:
        UnsupportedModel: no executor runs the model.
        ValueError: the device does not run the precision.
    """
    device = lm.emb[0].weight.device
    chosen = resolve(precision, device, sum(p.numel() for p in lm.parameters()))
    if device.type == "cpu":
        try:
            return NativeExecutor(lm, chosen)
        except (NoCompiler, UnsupportedModel) as error:
            _log.warning("the kernels can't run this model; PyTorch's do", extra={"reason": str(error)})
    return TransformerExecutor(lm, chosen)


def weight_bytes(lm: Any, precision: str) -> int:
    """Return what the layers of an ``LMModel`` and its heads take at a precision: what a step reads."""
    parameters = [*lm.transformer.parameters(), *lm.linears.parameters()]
    return _BYTES[precision] * sum(int(parameter.numel()) for parameter in parameters)


def release(lm: Any) -> None:
    """Let go of the layers of a model whose weights an executor holds in its own form."""
    lm.transformer = None
    lm.linears = None
