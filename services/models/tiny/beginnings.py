"""What a language model has before its first step: taught text, codes whose vectors are alike, fast attention."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from services.models.checkpoint import CODEC_FILE

from . import sound_captions, text_encoder
from .corpus import Corpus, Music, split


def plain_attention(config: str, device: str) -> str:
    """Return a configuration of the same weights whose attention is made of matrix products.

    On a CPU the backward pass of PyTorch's fused attention takes half of a step at these sizes, and over ten times as
    long as the products.
    """
    if device != "cpu":
        return config
    return config.replace("custom: false", "custom: true").replace("memory_efficient: true", "memory_efficient: false")


@torch.no_grad()
def start_codes_alike(lm: Any, codec: Path) -> None:
    """Start the vectors of codes, in and out, as random projections of the codec's entries, with some noise."""
    state = torch.load(codec / CODEC_FILE, map_location="cpu", weights_only=True)["best_state"]
    for tables in (lm.emb, lm.linears):
        for book, table in enumerate(tables):
            entries = state[f"quantizer.vq.layers.{book}._codebook.embed"].float()
            entries = (entries - entries.mean(0)) / entries.std()
            projected = entries @ torch.randn(entries.shape[1], lm.dim) / math.sqrt(entries.shape[1])
            weight = table.weight[: len(entries)]
            spread = float(weight.std())
            weight.copy_(0.8 * spread * projected.to(weight) + 0.6 * weight)


def build_text_encoder(corpus: Corpus, folder: Path) -> None:
    """Write a text encoder that knows what the captions of a corpus say."""
    if isinstance(corpus, Music):
        text_encoder.build(folder)
    else:
        lines = [corpus.caption(index, index) for index in range(len(corpus.codes))]
        text_encoder.build(folder, words=sound_captions.words(), lines=lines)
    held_out = split(len(corpus.codes))

    def described(number: int) -> tuple[str, Sequence[int]]:
        index = held_out + number % (len(corpus.codes) - held_out)
        return corpus.caption(index, number), corpus.attributes(index)

    loss = text_encoder.teach(folder, described, corpus.sizes)
    print(json.dumps({"text_encoder_loss": round(loss, 3)}), flush=True)
