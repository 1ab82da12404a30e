"""CUDA graphs where there is a GPU, plain calls where there is none, behind one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

MAX_GRAPHS = 128
"""Graphs kept; the one that was longest out of use makes room."""


class CUDAGraphed:
    """Runs ``function(inputs, *shape)`` on ``device``, as a captured graph where that is a GPU.

    There is one graph for each shape of the inputs and each ``shape``, captured when it is first needed. The
    function must be safe to run several times on the same inputs, reach no other tensors than static ones, and not
    synchronise. What it returns is overwritten by the next call of any graph.

    Idea: ``CUDAGraphed`` of moshi (Kyutai), disabled by ``device.type != "cuda"``.
    """

    def __init__(self, function: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graphs: OrderedDict[Hashable, tuple[Any, torch.Tensor, torch.Tensor]] = OrderedDict()
        self._pool: Any = None

    def __call__(self, inputs: torch.Tensor, *shape: Hashable) -> torch.Tensor:
        """Return the function's result for ``inputs``, which lie on the CPU."""
        if self._device.type != "cuda":
            return self._function(inputs.to(self._device), *shape)
        key = (tuple(inputs.shape), shape)
        if key not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                torch.cuda.synchronize(self._device)
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(inputs.to(self._device), *shape)
        self._graphs.move_to_end(key)
        graph, static, output = self._graphs[key]
        static.copy_(inputs)
        graph.replay()
        return output

    def clear(self) -> None:
        """Forget all graphs: the static tensors that they reach were replaced."""
        if self._graphs:
            torch.cuda.synchronize(self._device)
            self._graphs.clear()
            self._pool = None

    def _capture(self, static: torch.Tensor, *shape: Hashable) -> tuple[Any, torch.Tensor, torch.Tensor]:
        with torch.cuda.device(self._device):
            # Libraries make their workspaces on the first run, which a capture may not.
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._function(static, *shape)
            torch.cuda.current_stream().wait_stream(side)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # thread_local: the codec of another thread may allocate meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._function(static, *shape)
        return graph, static, output
