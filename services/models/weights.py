"""Reads the layers of AudioCraft's ``LMModel`` into plain tensors, the same for every executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from services.models.executor import UnsupportedModel

Activation = Literal["relu", "gelu"]


@dataclass(frozen=True)
class LinearWeights:
    """``weight`` ``[out, in]`` and ``bias`` ``[out]`` or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class NormWeights:
    """A layer norm over the last dimension: ``weight`` and ``bias`` ``[dim]``."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True)
class CrossWeights:
    """A cross-attention: ``query`` ``[dim, dim]``, ``key_value`` ``[2 * dim, dim]`` over the source, ``out``."""

    norm: NormWeights
    query: LinearWeights
    key_value: LinearWeights
    out: LinearWeights


@dataclass(frozen=True)
class LayerWeights:
    """One layer, each part normalised before it runs.

    Attributes:
        qkv: ``[3 * dim, dim]``, queries, keys and values, each ``[heads, head_dim]``.
        cross: None in a model whose conditions all stand before the first token.
        up, down: the feed-forward part.
    """

    norm1: NormWeights
    qkv: LinearWeights
    out: LinearWeights
    cross: CrossWeights | None
    norm2: NormWeights
    up: LinearWeights
    down: LinearWeights


@dataclass(frozen=True)
class Weights:
    """A language model as float32 tensors; the large ones share memory with it where it is float32 itself.

    Attributes:
        embeddings: ``[K, card + 1, dim]``; the last row of a book is ``start_token``'s.
        heads: ``[K * card, dim]``, the output projections of all books one after the other.
        out_norm: before the heads; None where the model has none.
        max_period, positional_scale: of the sine embedding added to the input, see ``positions``.
    """

    embeddings: torch.Tensor
    layers: tuple[LayerWeights, ...]
    out_norm: NormWeights | None
    heads: LinearWeights
    num_heads: int
    activation: Activation
    max_period: float
    positional_scale: float

    @property
    def dim(self) -> int:
        return self.embeddings.shape[2]

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def books(self) -> int:
        return self.embeddings.shape[0]

    @property
    def card(self) -> int:
        return self.embeddings.shape[1] - 1

    @property
    def start_token(self) -> int:
        return self.card

    @property
    def crossed(self) -> bool:
        """Whether the layers attend to a source."""
        return self.layers[0].cross is not None

    def positions(self, length: int) -> torch.Tensor:
        """Return what is added to the input at positions 0 to ``length - 1``, ``[length, dim]``."""
        from audiocraft.modules.transformer import create_sin_embedding

        index = torch.arange(length, device=self.embeddings.device).view(-1, 1, 1)
        embedding = create_sin_embedding(index, self.dim, max_period=self.max_period)
        return torch.as_tensor(self.positional_scale * embedding[:, 0])


def read_weights(lm: Any) -> Weights:
    """Return the weights of an ``LMModel``.

    Raises:
        UnsupportedModel: the model has a part that no executor runs.
    """
    _check(lm)
    transformer = lm.transformer
    biases = [head.bias for head in lm.linears]
    return Weights(
        embeddings=torch.stack([_plain(embedding.weight) for embedding in lm.emb]),
        layers=tuple(_layer(layer) for layer in transformer.layers),
        out_norm=None if lm.out_norm is None else _norm(lm.out_norm),
        heads=LinearWeights(
            torch.cat([_plain(head.weight) for head in lm.linears]),
            None if biases[0] is None else torch.cat([_plain(bias) for bias in biases]),
        ),
        num_heads=transformer.layers[0].self_attn.num_heads,
        activation="gelu" if transformer.layers[0].activation is functional.gelu else "relu",
        max_period=float(transformer.max_period),
        positional_scale=float(transformer.positional_scale),
    )


def _check(lm: Any) -> None:
    transformer, layer = lm.transformer, lm.transformer.layers[0]
    attentions = [layer.self_attn] + ([] if layer.cross_attention is None else [layer.cross_attention])
    problems = {
        "positional_embedding": transformer.positional_embedding != "sin",
        "norm": any(type(norm) is not nn.LayerNorm for norm in (layer.norm1, layer.norm2)),
        "norm_first": not layer.norm_first,
        "activation": layer.activation not in (functional.relu, functional.gelu),
        "causal": not layer.self_attn.causal,
        "layer_scale": not isinstance(layer.layer_scale_1, nn.Identity),
        "past_context": layer.self_attn.past_context is not None,
        "kv_repeat": layer.self_attn.kv_repeat != 1,
        "qk_layer_norm": any(attention.qk_layer_norm for attention in attentions),
        "cross_attention": layer.cross_attention is None and bool(lm.fuser.fuse2cond["cross"]),
        "fuser": any(lm.fuser.fuse2cond[way] for way in ("sum", "input_interpolate")),
    }
    found = [name for name, problem in problems.items() if problem]
    if found:
        raise UnsupportedModel(f"language model: {', '.join(found)} of its configuration can't be run")


def _layer(layer: Any) -> LayerWeights:
    qkv, out = _attention(layer.self_attn)
    cross = None
    if layer.cross_attention is not None:
        joint, cross_out = _attention(layer.cross_attention)
        dim = joint.weight.shape[1]
        cross = CrossWeights(_norm(layer.norm_cross), _rows(joint, 0, dim), _rows(joint, dim, 3 * dim), cross_out)
    return LayerWeights(
        _norm(layer.norm1), qkv, out, cross, _norm(layer.norm2), _linear(layer.linear1), _linear(layer.linear2)
    )


def _attention(attention: Any) -> tuple[LinearWeights, LinearWeights]:
    """Return the joint input projection and the output projection of either of AudioCraft's attentions."""
    source = attention if attention.custom else attention.mha
    bias = source.in_proj_bias
    joint = LinearWeights(_plain(source.in_proj_weight), None if bias is None else _plain(bias))
    return joint, _linear(source.out_proj)


def _rows(linear: LinearWeights, start: int, end: int) -> LinearWeights:
    return LinearWeights(linear.weight[start:end], None if linear.bias is None else linear.bias[start:end])


def _linear(linear: nn.Linear) -> LinearWeights:
    return LinearWeights(_plain(linear.weight), None if linear.bias is None else _plain(linear.bias))


def _norm(norm: nn.LayerNorm) -> NormWeights:
    return NormWeights(_plain(norm.weight), _plain(norm.bias), norm.eps)


def _plain(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().float()
