"""Runs AudioCraft's language model one step at a time for many streams, from its own weights, in torch.

AudioCraft grows its cache by concatenation and projects the text anew at every step. Here each row of a stream has a
slot of a static arena for its keys, values and projected text, and a step of all streams is a fixed sequence of
batched kernels over it: a CUDA graph on a GPU, the same calls one after the other elsewhere.

A stream's logits depend neither on its neighbours nor on how its tokens are cut into calls: in fp32 on a CPU to the
bit, for rows are padded to a multiple of four, lengths to one of sixteen, and masked positions add exact zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from services.models.conditions import RowConditions
from services.models.executor import guide
from services.models.graphs import CUDAGraphed
from services.models.matrices import DEVICES, DTYPES, Matrix
from services.models.slots import Arena, Lanes, arrange, round_rows
from services.models.weights import CrossWeights, LayerWeights, NormWeights, read_weights

PREFILL_ROWS = 64
"""Known tokens that are taken in at once; each reads a copy of its row's cache."""


@dataclass
class RowState:
    """The place of one row.

    Attributes:
        room: positions that it may fill, prepended ones included.
        sources: what it attends to.
        filled: positions that are in the cache.
    """

    slot: int
    room: int
    sources: tuple[torch.Tensor, ...] = ()
    filled: int = 0


@dataclass
class TransformerState:
    """The place of one stream."""

    rows: list[RowState]
    position: int = 0


class TransformerExecutor:
    """The decode step of an ``LMModel`` (MusicGen, AudioGen).

    Args:
        precision: fp32, bf16, int8 (weights; CPU only) or fp16 (CUDA only).
        slots, length: rows and positions to make room for at once; more is found when it is needed, at the price of
            a copy, and on a GPU of new graphs.

    Raises:
        UnsupportedModel: the model has a part that the executor does not run.
        ValueError: the device does not run the precision.
    """

    def __init__(self, lm: Any, precision: str = "fp32", slots: int = 4, length: int = 64) -> None:
        weights = read_weights(lm)
        self.lm = lm
        self.device = weights.embeddings.device
        if precision not in DEVICES.get(self.device.type, ()):
            raise ValueError(f"precision: {precision} can't be run on {self.device.type}")
        self.precision = precision
        self.start_token = weights.start_token
        self._dtype = DTYPES[precision]
        self._weights = weights
        self._embeddings = weights.embeddings.to(self._dtype)
        self._layers = [_Layer(layer, precision) for layer in weights.layers]
        self._out_norm = None if weights.out_norm is None else _Norm(weights.out_norm, self._dtype)
        self._heads = Matrix.of(weights.heads, precision)
        self._activation = functional.gelu if weights.activation == "gelu" else functional.relu
        self._rows: dict[int, RowState] = {}
        self._arena = Arena(weights, self._dtype, slots, length)
        self._forward = CUDAGraphed(self._predict, self.device)
        self._generation = -1
        self._refresh()

    @torch.inference_mode()
    def begin(self, conditions: Sequence[RowConditions], length: int) -> TransformerState:
        prefixes = [0 if row.prepend is None else len(row.prepend) for row in conditions]
        slots = self._arena.take(len(conditions), length + max(prefixes))
        rows = [RowState(slot, length + prefix) for slot, prefix in zip(slots, prefixes, strict=True)]
        self._rows.update((row.slot, row) for row in rows)
        state = TransformerState(rows)
        try:
            self._attach(state, conditions)
            self._prepend(state, conditions)
        except BaseException:
            self.end(state)
            raise
        return state

    @torch.inference_mode()
    def recondition(self, state: TransformerState, conditions: Sequence[RowConditions]) -> None:
        if len(conditions) != len(state.rows) or any(row.prepend is not None for row in conditions):
            raise ValueError("conditions: other rows than at the beginning, or some that stand before the first token")
        self._attach(state, conditions)

    @torch.inference_mode()
    def step(
        self, states: Sequence[TransformerState], tokens: Sequence[torch.Tensor], guidance: Sequence[float]
    ) -> torch.Tensor:
        rows, known, last = [], [], []
        for state, given in zip(states, tokens, strict=True):
            if any(row.filled + len(given) > row.room for row in state.rows):
                raise ValueError(f"tokens: {len(given)} after step {state.position} are more than the stream's length")
            rows += state.rows
            known += [given[:-1].cpu()] * len(state.rows)
            last += [given[-1:].cpu()] * len(state.rows)
        self._refresh()
        for lanes, places in self._chunks(rows, [len(part) for part in known]):
            self._call(lanes, torch.stack([known[row][index] for row, index in places]))
        logits = torch.empty(0)
        for lanes, _ in self._chunks(rows, [1] * len(rows), whole=True):
            logits = self._call(lanes, torch.cat(last))
        for state, given in zip(states, tokens, strict=True):
            state.position += len(given)
        return guide(logits, [len(state.rows) for state in states], guidance)

    @torch.inference_mode()
    def end(self, state: TransformerState) -> None:
        for row in state.rows:
            self._arena.give(row.slot, row.filled)
            del self._rows[row.slot]
        state.rows.clear()
        # Close the gaps, so that the rows which are left are read in place.
        while self._rows and round_rows(max(self._rows) + 1) > round_rows(len(self._rows)):
            row = self._rows.pop(max(self._rows))
            row.slot = self._arena.move(row.slot, row.filled)
            self._rows[row.slot] = row

    def _attach(self, state: TransformerState, conditions: Sequence[RowConditions]) -> None:
        if not self._weights.crossed and any(row.cross for row in conditions):
            raise ValueError("conditions: the model has no cross-attention")
        for row, new in zip(state.rows, conditions, strict=True):
            sources, weights = tuple(source for source, _ in new.cross), [weight for _, weight in new.cross]
            same = len(sources) == len(row.sources) and all(a is b for a, b in zip(sources, row.sources, strict=True))
            if not same:
                projected = [self._project(source) for source in sources]
                self._arena.attach(row.slot, projected)
                row.sources = sources
            self._arena.reweight(row.slot, weights)

    def _project(self, source: torch.Tensor) -> torch.Tensor:
        """Return keys and values of a source ``[T, dim]`` in each layer, ``[layers, 2, heads, T, head_dim]``."""
        source = source.to(self.device, self._dtype)
        parts = [layer.cross.key_value(source) for layer in self._layers if layer.cross is not None]
        shape = (len(parts), len(source), 2, self._weights.num_heads, self._weights.head_dim)
        return torch.stack(parts).view(shape).permute(0, 2, 3, 1, 4)

    def _prepend(self, state: TransformerState, conditions: Sequence[RowConditions]) -> None:
        """Take in the embeddings that stand before the first token."""
        self._refresh()
        given = [row.prepend for row in conditions]
        for lanes, places in self._chunks(state.rows, [0 if part is None else len(part) for part in given]):
            x = torch.stack([part[index] for row, index in places if (part := given[row]) is not None])
            x = torch.cat([x, x[:1].expand(len(lanes.slots) - len(x), -1)]).to(self.device)
            self._transform(
                x,
                torch.tensor(lanes.positions, device=self.device),
                torch.tensor(lanes.slots, device=self.device),
                lanes.length,
                lanes.dense,
                *self._arena.source_shape,
            )

    def _chunks(
        self, rows: Sequence[RowState], counts: Sequence[int], whole: bool = False
    ) -> Iterator[tuple[Lanes, list[tuple[int, int]]]]:
        """Advance each row by its count; yield lanes and the (row, index) of each of their entries.

        Without ``whole`` there are ``PREFILL_ROWS`` at most, gathered even where they could be read in place.
        """
        places = [(row, index) for row, count in enumerate(counts) for index in range(count)]
        size = len(places) if whole else PREFILL_ROWS
        for start in range(0, len(places), max(size, 1)):
            part = places[start : start + size]
            positions = []
            for row, _ in part:
                positions.append(rows[row].filled)
                rows[row].filled += 1
            yield arrange([rows[row].slot for row, _ in part], positions, self._arena.length), part

    def _refresh(self) -> None:
        """Follow the arena, when it grew."""
        if self._generation != self._arena.generation:
            self._forward.clear()
            self._table = self._weights.positions(self._arena.length + 1)
            self._range = torch.arange(self._arena.length, device=self.device)
            self._generation = self._arena.generation

    def _call(self, lanes: Lanes, tokens: torch.Tensor) -> torch.Tensor:
        """Take tokens ``[R, K]`` into their lanes; return logits float32 ``[R, K, card]``."""
        inputs = torch.full((len(lanes.slots), self._weights.books + 2), self.start_token)
        inputs[lanes.places, :-2] = tokens
        inputs[:, -2], inputs[:, -1] = torch.tensor(lanes.positions), torch.tensor(lanes.slots)
        logits = self._forward(inputs, lanes.length, lanes.dense, *self._arena.source_shape)
        return logits[torch.tensor(lanes.places, device=self.device)]

    def _predict(self, inputs: torch.Tensor, length: int, dense: bool, sources: int, tokens: int) -> torch.Tensor:
        """Return logits float32 for ``[R, K + 2]``: the tokens, the position and the slot of each lane."""
        x = functional.embedding(inputs[:, 0], self._embeddings[0])
        for book in range(1, self._weights.books):
            x = x + functional.embedding(inputs[:, book], self._embeddings[book])
        x = self._transform(x, inputs[:, -2], inputs[:, -1], length, dense, sources, tokens)
        x = x if self._out_norm is None else self._out_norm(x)
        return self._heads(x).float().view(len(x), self._weights.books, self._weights.card)

    def _transform(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        length: int,
        dense: bool,
        sources: int,
        tokens: int,
    ) -> torch.Tensor:
        """Run all layers over embeddings ``[R, dim]``, each lane at its position of its slot."""
        arena, heads = self._arena, self._weights.num_heads
        x = (x + self._table[positions]).to(self._dtype)
        hidden = self._range[:length] > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self.device).masked_fill(hidden, -torch.inf)
        others = [arena.source_masks(index, slots, tokens, dense) for index in range(sources)]
        for index, layer in enumerate(self._layers):
            projected = layer.qkv(layer.norm1(x)).view(len(x), 3, heads, -1)
            arena.write(index, slots, positions, projected[:, 1:])
            attended = _attend(projected[:, 0], *arena.read(index, slots, length, dense), mask)
            x = layer.out(attended, residual=x)
            if layer.cross is not None:
                queries = layer.cross.query(layer.cross.norm(x)).view(len(x), heads, -1)
                mixed = torch.zeros_like(x)
                # One after the other: a sum over a dimension would round by the number of sources.
                for source, (covered, weight) in enumerate(others):
                    pair = arena.read_source(index, source, slots, tokens, dense)
                    mixed = torch.addcmul(mixed, weight[:, None], _attend(queries, *pair, covered))
                x = layer.cross.out(mixed, residual=x)
            x = layer.down(self._activation(layer.up(layer.norm2(x))), residual=x)
        return x


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the attention of one query a row, ``[R, heads * head_dim]``.

    Args:
        queries: ``[R, heads, head_dim]``.
        keys, values: ``[R, heads, L, head_dim]``.
        mask: ``[R, L]``, added to the scores.
    """
    rows, heads, length, size = keys.shape
    if queries.dtype != torch.float32:
        result = functional.scaled_dot_product_attention(queries[:, :, None], keys, values, mask[:, None, None])
        return result.reshape(rows, heads * size)
    # torch's fused kernel splits the work over threads by the number of rows, and rounds accordingly.
    batch = rows * heads
    bias = mask[:, None].expand(rows, heads, length).reshape(batch, 1, length)
    transposed = keys.reshape(batch, length, size).transpose(1, 2)
    scores = torch.baddbmm(bias, queries.reshape(batch, 1, size), transposed, alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), values.reshape(batch, length, size)).view(rows, heads * size)


class _Norm:
    def __init__(self, source: NormWeights, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.eps = source.weight.to(dtype), source.bias.to(dtype), source.eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Cross:
    def __init__(self, source: CrossWeights, precision: str) -> None:
        self.norm = _Norm(source.norm, DTYPES[precision])
        self.query, self.key_value = Matrix.of(source.query, precision), Matrix.of(source.key_value, precision)
        self.out = Matrix.of(source.out, precision)


class _Layer:
    """A layer in the executor's precision; its parts are named as in ``LayerWeights``."""

    def __init__(self, source: LayerWeights, precision: str) -> None:
        self.norm1, self.norm2 = _Norm(source.norm1, DTYPES[precision]), _Norm(source.norm2, DTYPES[precision])
        self.qkv, self.out = Matrix.of(source.qkv, precision), Matrix.of(source.out, precision)
        self.cross = None if source.cross is None else _Cross(source.cross, precision)
        self.up, self.down = Matrix.of(source.up, precision), Matrix.of(source.down, precision)
