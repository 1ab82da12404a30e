"""Runs a language model on the CPU with our own kernels: weights of 32, 16 or 8 bits, caches of the same.

PyTorch's products are made for many rows; a decode step has few, and is bound by reading the weights and the caches.
The kernels (services/models/kernels) read each weight once for all rows, and hold keys and values at the weights'
precision. Every row is computed in a fixed order of its own, so its bits depend neither on its neighbours nor on how
many positions come in together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from services.models.conditions import RowConditions
from services.models.executor import guide
from services.models.kernels import build
from services.models.native_weights import LANES, PRECISIONS, PackedWeights
from services.models.weights import LinearWeights, read_weights

_CACHE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class _Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("key_scales", ctypes.c_void_p),
        ("value_scales", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
    )


class _Source(ctypes.Structure):
    _fields_ = (("cache", _Cache), ("length", ctypes.c_int64), ("weight", ctypes.c_double))


class _Run(ctypes.Structure):
    _fields_ = (
        ("cache", _Cache),
        ("sources", ctypes.POINTER(_Source)),
        ("source_count", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("count", ctypes.c_int64),
    )


@dataclass
class _Memory:
    """Keys and values of every layer and head for ``capacity`` positions; the tensors own what ``cache`` points at."""

    cache: _Cache
    tensors: tuple[torch.Tensor, ...]


@dataclass
class _Row:
    """The place of one row; ``heard`` is what it attends to, and owns what ``sources`` points at."""

    memory: _Memory
    room: int
    sources: ctypes.Array[_Source] = field(default_factory=_Source * 0)
    heard: list[tuple[torch.Tensor, _Memory]] = field(default_factory=list)
    filled: int = 0


@dataclass
class NativeState:
    """The place of one stream. ``position`` counts its steps."""

    rows: list[_Row] = field(default_factory=list)
    position: int = 0


class NativeExecutor:
    """The ``Executor`` of CPUs, at ``precision`` "fp32", "bf16" or "int8".

    int8 has a scale for each output of a weight, for each 64 inputs of a product, and for each position of a cache.

    Raises:
        UnsupportedModel: the model has a part, or a size, that the kernels do not run.
        NoCompiler: there is nothing to build the kernels with.
        ValueError: they do not run the precision.
    """

    def __init__(self, lm: Any, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision: {precision} can't be run by the kernels")
        weights = read_weights(lm)
        self._library = build.load()
        self.device = torch.device("cpu")
        self.precision = precision
        self.start_token = weights.start_token
        self._packed = PackedWeights(weights, precision)
        # The layers are packed: nothing here keeps the model's own alive.
        self._weights = replace(weights, layers=(), out_norm=None, heads=LinearWeights(torch.empty(0), None))
        self._embeddings = weights.embeddings.flatten(0, 1)
        self._offsets = torch.arange(weights.books) * (weights.card + 1)
        self._positions = weights.positions(2048)

    @torch.inference_mode()
    def begin(self, conditions: Sequence[RowConditions], length: int) -> NativeState:
        state = NativeState()
        for row in conditions:
            whole = length + (0 if row.prepend is None else len(row.prepend))
            state.rows.append(_Row(self._memory(whole), whole))
        self._attach(state, conditions)
        for own, row in zip(state.rows, conditions, strict=True):
            if row.prepend is not None:
                self._run([(own, row.prepend)], [])
        return state

    @torch.inference_mode()
    def recondition(self, state: NativeState, conditions: Sequence[RowConditions]) -> None:
        if len(conditions) != len(state.rows) or any(row.prepend is not None for row in conditions):
            raise ValueError("conditions: other rows than at the beginning, or some that stand before the first token")
        self._attach(state, conditions)

    @torch.inference_mode()
    def step(
        self, states: Sequence[NativeState], tokens: Sequence[torch.Tensor], guidance: Sequence[float]
    ) -> torch.Tensor:
        runs, lasts, count = [], [], 0
        for state, known in zip(states, tokens, strict=True):
            if any(row.filled + len(known) > row.room for row in state.rows):
                raise ValueError(f"tokens: {len(known)} after step {state.position} are more than the stream's length")
            embedded = self._embed(known)
            for row in state.rows:
                runs.append((row, embedded))
                count += len(known)
                lasts.append(count - 1)
        for state, known in zip(states, tokens, strict=True):
            state.position += len(known)
        logits = self._run(runs, lasts).view(len(lasts), self._weights.books, self._weights.card)
        return guide(logits, [len(state.rows) for state in states], guidance)

    def end(self, state: NativeState) -> None:
        state.rows.clear()

    def cache_bytes(self, length: int) -> int:
        """Return what one row of a stream of so many steps takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._memory(length).tensors)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        books = torch.nn.functional.embedding(tokens + self._offsets, self._embeddings).unbind(1)
        embedded = books[0]
        for book in books[1:]:
            embedded = embedded + book
        return embedded

    def _run(self, pieces: Sequence[tuple[_Row, torch.Tensor]], lasts: Sequence[int]) -> torch.Tensor:
        runs = (_Run * len(pieces))()
        inputs = []
        for run, (row, embedded) in zip(runs, pieces, strict=True):
            end = row.filled + len(embedded)
            if end > len(self._positions):
                self._positions = self._weights.positions(2 * end)
            inputs.append(embedded + self._positions[row.filled : end])
            run.cache, run.position, run.count = row.memory.cache, row.filled, len(embedded)
            run.sources, run.source_count = row.sources, len(row.sources)
            row.filled = end
        x = torch.cat(inputs)
        logits = torch.empty(len(lasts), self._packed.model.head.outputs)
        picked = (ctypes.c_int64 * len(lasts))(*lasts)
        failed = self._library.antiphon_step(
            ctypes.byref(self._packed.model),
            runs,
            ctypes.c_int64(len(runs)),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_int64(len(x)),
            picked,
            ctypes.c_int64(len(lasts)),
            ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_int64(torch.get_num_threads()),
        )
        if failed:
            raise MemoryError("no memory for a step")
        return logits

    def _attach(self, state: NativeState, conditions: Sequence[RowConditions]) -> None:
        if any(source.shape[1:] != (self._weights.dim,) for row in conditions for source, _ in row.cross):
            raise ValueError(f"conditions: a source is not [T, {self._weights.dim}]")
        if not self._packed.model.crossed and any(row.cross for row in conditions):
            raise ValueError("conditions: the model has no cross-attention")
        for row, new in zip(state.rows, conditions, strict=True):
            # While prompts fade, the same sources come with other weights at every step.
            known = {id(source): memory for source, memory in row.heard}
            heard = [(source, known.get(id(source)) or self._project(source)) for source, _ in new.cross]
            sources = (_Source * len(heard))()
            for entry, (source, memory), (_, weight) in zip(sources, heard, new.cross, strict=True):
                entry.cache, entry.length, entry.weight = memory.cache, len(source), weight
            row.sources, row.heard = sources, heard

    def _project(self, source: torch.Tensor) -> _Memory:
        """Return the keys and values of a source ``[T, dim]`` in each layer."""
        plain = source.float().contiguous()
        memory = self._memory(len(plain))
        failed = self._library.antiphon_project(
            ctypes.byref(self._packed.model),
            ctypes.c_void_p(plain.data_ptr()),
            ctypes.c_int64(len(plain)),
            ctypes.byref(memory.cache),
            ctypes.c_int64(torch.get_num_threads()),
        )
        if failed:
            raise MemoryError("no memory for a prompt")
        return memory

    def _memory(self, length: int) -> _Memory:
        capacity = -(-length // LANES) * LANES
        heads = self._packed.model.layer_count * self._weights.num_heads
        shape = (heads, capacity, self._weights.head_dim)
        keys, values = (torch.empty(shape, dtype=_CACHE_TYPES[self.precision]) for _ in range(2))
        if self.precision != "int8":
            return _Memory(_Cache(keys.data_ptr(), values.data_ptr(), None, None, capacity), (keys, values))
        key_scales, value_scales = (torch.empty(heads, capacity) for _ in range(2))
        tensors = (keys, values, key_scales, value_scales)
        return _Memory(_Cache(*(tensor.data_ptr() for tensor in tensors), capacity), tensors)
