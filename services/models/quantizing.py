"""Residual vector quantisation (EnCodec, arXiv 2210.13438) over the codebooks of either library."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from services.models.layers import UnsupportedCodec
from services.models.native_products import NativeQuantizer, Unsupported
from services.models.packed import PackedLinear


class Quantizer:
    """Vectors to codes and back, any number of codebooks a call.

    The nearest entry e of a vector x is the one with the largest ``2 x e - e e``: the libraries' distance without the
    term that all entries share. Codes are theirs except where two entries are equally near up to float rounding.
    """

    def __init__(self, books: list[torch.Tensor]) -> None:
        self._books = [book.detach().float().contiguous() for book in books]
        # All books in one table: a call for each of them would cost a short chunk more than the sums do.
        self._table = torch.cat(self._books)
        self._offsets = self.codebook_size * torch.arange(len(books), device=self._table.device)
        self._native: NativeQuantizer | None = None
        self._scores: list[PackedLinear] = []
        try:
            self._native = NativeQuantizer(self._books)
        except Unsupported:
            self._scores = [PackedLinear(2 * book, -book.pow(2).sum(1), is_shared=False) for book in self._books]

    @property
    def codebook_count(self) -> int:
        return len(self._books)

    @property
    def codebook_size(self) -> int:
        return int(self._books[0].shape[0])

    def encode(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        """Return codes ``[B, K, T]`` in the first ``count`` codebooks of vectors ``[B, T, D]``."""
        batch, steps, width = vectors.shape
        rest = vectors.reshape(batch * steps, width)
        count = min(count, len(self._books))
        if self._native:
            return self._native.encode(rest, count).view(count, batch, steps).transpose(0, 1)
        codes = []
        for book, scores in zip(self._books[:count], self._scores, strict=False):
            code = scores(rest).argmax(dim=1)
            rest = rest - functional.embedding(code, book)
            codes.append(code.view(batch, steps))
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return vectors ``[B, T, D]`` of codes ``[B, K, T]``; K may be less than all codebooks."""
        batch, count, steps = codes.shape
        rows = codes.transpose(1, 2).reshape(batch * steps, count) + self._offsets[:count]
        return functional.embedding_bag(rows, self._table, mode="sum").view(batch, steps, self._table.shape[1])


def quantizer_of(codec: Any) -> Quantizer:
    """Return the quantizer of AudioCraft's ``EncodecModel`` or transformers'. Raises `UnsupportedCodec`."""
    from audiocraft.quantization import ResidualVectorQuantizer
    from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

    quantizer = codec.quantizer
    if isinstance(quantizer, EncodecResidualVectorQuantizer):
        return Quantizer([layer.codebook.embed for layer in quantizer.layers])
    if isinstance(quantizer, ResidualVectorQuantizer):
        if all(isinstance(layer.project_in, nn.Identity) for layer in quantizer.vq.layers):
            return Quantizer([layer.codebook for layer in quantizer.vq.layers])
        raise UnsupportedCodec("codec: its codebooks have another width than its network")
    raise UnsupportedCodec(f"codec: a quantizer of type {type(quantizer).__name__}")
