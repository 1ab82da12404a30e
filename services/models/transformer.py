"""Runs AudioCraft's language model one step at a time for many streams, from its own weights.

AudioCraft grows its cache by concatenation and projects the text anew at every step. Here each stream owns a
static key/value cache of its length and the projected text, and all streams share the matrix products of a step.
The attention of a stream is computed over its own cache alone, and rows are padded to a multiple of four, where
the CPU's matrix product gives a row the same bits whatever the other rows hold: so a stream's logits do not depend
on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from services.models.conditions import RowConditions
from services.models.executor import UnsupportedModel, guide

ROW_MULTIPLE = 4


@dataclass
class RowState:
    """The cache of one row.

    Attributes:
        keys, values: ``[layers, heads, length, head_dim]``.
        cross: keys and values ``[layers, heads, T, head_dim]`` of each source, and its weight.
        filled: positions that are in the cache, prepended ones included.
    """

    keys: torch.Tensor
    values: torch.Tensor
    cross: list[tuple[torch.Tensor, torch.Tensor, float]]
    filled: int = 0


@dataclass
class TransformerState:
    """The place of one stream."""

    rows: list[RowState]
    position: int = 0


@dataclass(frozen=True)
class _Layer:
    norm1: nn.LayerNorm
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: nn.Linear
    norm_cross: nn.LayerNorm
    cross_in: torch.Tensor
    cross_bias: torch.Tensor | None
    cross_out: nn.Linear
    norm2: nn.LayerNorm
    linear1: nn.Linear
    linear2: nn.Linear


class TransformerExecutor:
    """The decode step of an ``LMModel`` with cross-attention to text (MusicGen, AudioGen).

    Raises:
        UnsupportedModel: the model has a part that the executor does not run.
    """

    def __init__(self, lm: Any) -> None:
        _check(lm)
        self.lm = lm
        self.heads = lm.transformer.layers[0].self_attn.num_heads
        self.activation = lm.transformer.layers[0].activation
        self.layers = [_layer(layer) for layer in lm.transformer.layers]
        self.device = lm.emb[0].weight.device
        self.start_token = lm.special_token_id
        self.precision = "fp32"

    @torch.inference_mode()
    def begin(self, conditions: Sequence[RowConditions], length: int) -> TransformerState:
        rows = []
        for row in conditions:
            whole = length + (0 if row.prepend is None else len(row.prepend))
            shape = (len(self.layers), self.heads, whole, self.lm.dim // self.heads)
            keys, values = torch.empty(shape, device=self.device), torch.empty(shape, device=self.device)
            rows.append(RowState(keys, values, self._project(row)))
        for state, row in zip(rows, conditions, strict=True):
            if row.prepend is not None:
                self._run([(state, row.prepend)])
        return TransformerState(rows)

    @torch.inference_mode()
    def recondition(self, state: TransformerState, conditions: Sequence[RowConditions]) -> None:
        if len(conditions) != len(state.rows) or any(row.prepend is not None for row in conditions):
            raise ValueError("conditions: other rows than at the beginning, or some that stand before the first token")
        for row, new in zip(state.rows, conditions, strict=True):
            row.cross = self._project(new)

    @torch.inference_mode()
    def step(
        self, states: Sequence[TransformerState], tokens: Sequence[torch.Tensor], guidance: Sequence[float]
    ) -> torch.Tensor:
        pieces, lasts, count = [], [], 0
        for state, known in zip(states, tokens, strict=True):
            books = known.to(self.device).T
            embedded = self.lm.emb[0](books[0])
            for embedding, book in zip(self.lm.emb[1:], books[1:], strict=True):
                embedded = embedded + embedding(book)
            for row in state.rows:
                pieces.append((row, embedded))
                count += len(known)
                lasts.append(count - 1)
            state.position += len(known)
        x = self._run(pieces)
        if self.lm.out_norm is not None:
            x = _norm(self.lm.out_norm, x)
        x = x[lasts + [0] * (-len(lasts) % ROW_MULTIPLE)]
        logits = torch.stack([head(x) for head in self.lm.linears], dim=1)[: len(lasts)]
        return guide(logits, [len(state.rows) for state in states], guidance)

    def end(self, state: TransformerState) -> None:
        state.rows.clear()

    def _project(self, conditions: RowConditions) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Return the keys and values of each source in each layer."""
        projected = []
        for source, weight in conditions.cross:
            tokens, dim = source.shape
            parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
            for layer in self.layers:
                for part, start in zip(parts, (dim, 2 * dim), strict=True):
                    bias = None if layer.cross_bias is None else layer.cross_bias[start : start + dim]
                    part.append(linear(source, layer.cross_in[start : start + dim], bias))
            keys, values = (
                torch.stack(part).view(len(self.layers), tokens, self.heads, -1).transpose(1, 2).contiguous()
                for part in parts
            )
            projected.append((keys, values, weight))
        return projected

    def _run(self, pieces: Sequence[tuple[RowState, torch.Tensor]]) -> torch.Tensor:
        """Take embeddings ``[S, dim]`` into each row; return the last layer's output of all, padded."""
        owners, positions = [], []
        for state, embedded in pieces:
            for _ in embedded:
                owners.append(state)
                positions.append(state.filled)
                state.filled += 1
        padding = -len(owners) % ROW_MULTIPLE
        x = torch.cat([embedded for _, embedded in pieces])
        x = x + self._positions(positions, x.shape[-1])
        x = torch.cat([x, x[:1].expand(padding, -1)])
        for index, layer in enumerate(self.layers):
            x = self._layer_step(index, layer, x, owners, positions)
        return x

    def _layer_step(
        self, index: int, layer: _Layer, x: torch.Tensor, owners: Sequence[RowState], positions: Sequence[int]
    ) -> torch.Tensor:
        total, dim = x.shape
        head_dim = dim // self.heads
        projected = linear(_norm(layer.norm1, x), layer.qkv, layer.qkv_bias).view(total, 3, self.heads, 1, head_dim)
        attended = torch.zeros_like(x)
        for i, (row, position) in enumerate(zip(owners, positions, strict=True)):
            row.keys[index, :, position] = projected[i, 1, :, 0]
            row.values[index, :, position] = projected[i, 2, :, 0]
            keys, values = row.keys[None, index, :, : position + 1], row.values[None, index, :, : position + 1]
            attended[i] = scaled_dot_product_attention(projected[i : i + 1, 0], keys, values).reshape(dim)
        x = x + layer.out(attended)
        cross_bias = None if layer.cross_bias is None else layer.cross_bias[:dim]
        queries = linear(_norm(layer.norm_cross, x), layer.cross_in[:dim], cross_bias).view(
            total, self.heads, 1, head_dim
        )
        attended = torch.zeros_like(x)
        for i, row in enumerate(owners):
            for keys, values, weight in row.cross:
                result = scaled_dot_product_attention(queries[i : i + 1], keys[None, index], values[None, index])
                attended[i] += weight * result.reshape(dim)
        x = x + layer.cross_out(attended)
        return torch.as_tensor(x + layer.linear2(self.activation(layer.linear1(_norm(layer.norm2, x)))))

    def _positions(self, positions: Sequence[int], dim: int) -> torch.Tensor:
        from audiocraft.modules.transformer import create_sin_embedding

        transformer = self.lm.transformer
        index = torch.tensor(positions, device=self.device).view(-1, 1, 1)
        embedding = create_sin_embedding(index, dim, max_period=transformer.max_period)
        return torch.as_tensor(transformer.positional_scale * embedding[:, 0])


def _norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _check(lm: Any) -> None:
    transformer, layer = lm.transformer, lm.transformer.layers[0]
    problems = {
        "positional_embedding": transformer.positional_embedding != "sin",
        "norm_first": not layer.norm_first,
        "cross_attention": layer.cross_attention is None,
        "layer_scale": not isinstance(layer.layer_scale_1, nn.Identity),
        "past_context": layer.self_attn.past_context is not None,
        "kv_repeat": layer.self_attn.kv_repeat != 1,
        "qk_layer_norm": layer.self_attn.qk_layer_norm,
        "fuser": any(lm.fuser.fuse2cond[way] for way in ("sum", "prepend", "input_interpolate")),
    }
    found = [name for name, problem in problems.items() if problem]
    if found:
        raise UnsupportedModel(f"language model: {', '.join(found)} of its configuration can't be run")


def _layer(layer: Any) -> _Layer:
    own, cross = _projections(layer.self_attn), _projections(layer.cross_attention)
    return _Layer(
        layer.norm1, *own, layer.norm_cross, *cross, layer.norm2, layer.linear1, layer.linear2
    )  # fmt: skip


def _projections(attention: Any) -> tuple[torch.Tensor, torch.Tensor | None, nn.Linear]:
    """Return the joint input projection, its bias and the output projection of either of AudioCraft's attentions."""
    source = attention if attention.custom else attention.mha
    return source.in_proj_weight, source.in_proj_bias, source.out_proj
