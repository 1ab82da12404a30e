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

ROW_MULTIPLE = 4


class UnsupportedModel(Exception):
    """A configuration of ``LMModel`` that this executor does not run; the message says which."""


@dataclass
class StreamState:
    """The cache of one stream. ``rows`` is 2 with guidance (conditional, unconditional), else 1.

    Attributes:
        keys, values: ``[layers, rows, heads, length, head_dim]``.
        text_keys, text_values: ``[layers, rows, heads, tokens, head_dim]``.
        position: steps done.
    """

    rows: int
    keys: torch.Tensor
    values: torch.Tensor
    text_keys: torch.Tensor
    text_values: torch.Tensor
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

    @torch.inference_mode()
    def begin(self, text: str, guided: bool, length: int) -> StreamState:
        """Prepare a stream of ``length`` steps. An unguided stream has one row."""
        source = self._text(text, guided)
        rows, tokens, dim = source.shape
        head_dim = dim // self.heads
        shape = (len(self.layers), rows, self.heads, length, head_dim)
        text_keys: list[torch.Tensor] = []
        text_values: list[torch.Tensor] = []
        for layer in self.layers:
            _, key_in, value_in = layer.cross_in.chunk(3)
            _, key_bias, value_bias = (None, None, None) if layer.cross_bias is None else layer.cross_bias.chunk(3)
            for target, weight, bias in ((text_keys, key_in, key_bias), (text_values, value_in, value_bias)):
                projected = linear(source, weight, bias).view(rows, tokens, self.heads, head_dim)
                target.append(projected.transpose(1, 2).contiguous())
        return StreamState(
            rows=rows,
            keys=torch.empty(shape, device=self.device),
            values=torch.empty(shape, device=self.device),
            text_keys=torch.stack(text_keys),
            text_values=torch.stack(text_values),
        )

    @torch.inference_mode()
    def step(self, states: Sequence[StreamState], tokens: torch.Tensor, guidance: Sequence[float]) -> torch.Tensor:
        """Advance each stream by one step.

        Args:
            states: the streams, each at its own position.
            tokens: int64 ``[N, K]``, what the step before predicted (``start_token`` where it predicted nothing).
            guidance: ``cfg_coef`` of each stream.

        Returns:
            Logits ``[N, K, card]``, guidance applied.
        """
        owners = [i for i, state in enumerate(states) for _ in range(state.rows)]
        padding = -len(owners) % ROW_MULTIPLE
        padded = owners + [0] * padding
        rows = tokens[padded]
        embedded = self.lm.emb[0](rows[:, 0])
        for k in range(1, rows.shape[1]):
            embedded = embedded + self.lm.emb[k](rows[:, k])
        x = embedded + self._positions([states[i].position for i in padded], embedded.shape[-1])
        for index, layer in enumerate(self.layers):
            x = self._layer_step(index, layer, x, states, len(owners))
        if self.lm.out_norm is not None:
            x = _norm(self.lm.out_norm, x)
        logits = torch.stack([head(x) for head in self.lm.linears], dim=1)[: len(owners)]
        for state in states:
            state.position += 1
        return _guide(logits, states, guidance)

    def _layer_step(
        self, index: int, layer: _Layer, x: torch.Tensor, states: Sequence[StreamState], count: int
    ) -> torch.Tensor:
        total, dim = x.shape
        head_dim = dim // self.heads
        projected = linear(_norm(layer.norm1, x), layer.qkv, layer.qkv_bias).view(total, 3, self.heads, 1, head_dim)
        attended = torch.zeros_like(x)
        row = 0
        for state in states:
            part = projected[row : row + state.rows]
            end = state.position + 1
            state.keys[index, :, :, end - 1 : end] = part[:, 1]
            state.values[index, :, :, end - 1 : end] = part[:, 2]
            keys, values = state.keys[index, :, :, :end], state.values[index, :, :, :end]
            attended[row : row + state.rows] = scaled_dot_product_attention(part[:, 0], keys, values).reshape(-1, dim)
            row += state.rows
        x = x + layer.out(attended)
        cross_bias = None if layer.cross_bias is None else layer.cross_bias[:dim]
        queries = linear(_norm(layer.norm_cross, x), layer.cross_in[:dim], cross_bias).view(
            total, self.heads, 1, head_dim
        )
        attended = torch.zeros_like(x)
        row = 0
        for state in states:
            part = queries[row : row + state.rows]
            result = scaled_dot_product_attention(part, state.text_keys[index], state.text_values[index])
            attended[row : row + state.rows] = result.reshape(-1, dim)
            row += state.rows
        assert row == count
        x = x + layer.cross_out(attended)
        return torch.as_tensor(x + layer.linear2(self.activation(layer.linear1(_norm(layer.norm2, x)))))

    def _positions(self, positions: Sequence[int], dim: int) -> torch.Tensor:
        from audiocraft.modules.transformer import create_sin_embedding

        transformer = self.lm.transformer
        index = torch.tensor(positions, device=self.device).view(-1, 1, 1)
        embedding = create_sin_embedding(index, dim, max_period=transformer.max_period)
        return torch.as_tensor(transformer.positional_scale * embedding[:, 0])

    def _text(self, text: str, guided: bool) -> torch.Tensor:
        """Return what the layers attend to, ``[rows, tokens, dim]``, by AudioCraft's own conditioners."""
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout, ConditioningAttributes

        attributes = [ConditioningAttributes(text={"description": text or None})]
        if guided:
            attributes = attributes + ClassifierFreeGuidanceDropout(p=1.0)(attributes)
        provider = self.lm.condition_provider
        tensors = provider(provider.tokenize(attributes))
        dummy = torch.zeros(len(attributes), 1, self.lm.dim, device=self.device)
        _, source = self.lm.fuser(dummy, tensors)
        return torch.as_tensor(source)


def _guide(logits: torch.Tensor, states: Sequence[StreamState], guidance: Sequence[float]) -> torch.Tensor:
    guided, row = [], 0
    for state, coefficient in zip(states, guidance, strict=True):
        conditional = logits[row]
        if state.rows == 2:
            unconditional = logits[row + 1]
            conditional = unconditional + (conditional - unconditional) * coefficient
        guided.append(conditional)
        row += state.rows
    return torch.stack(guided)


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
