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
        """Return codes ``[K, T]`` in the first ``count`` codebooks of vectors ``[T, D]``."""
        count = min(count, len(self._books))
        if self._native:
            return self._native.encode(vectors, count)
        codes = []
        for book, scores in zip(self._books[:count], self._scores, strict=False):
            codes.append(scores(vectors).argmax(dim=1))
            vectors = vectors - functional.embedding(codes[-1], book)
        return torch.stack(codes)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return vectors ``[T, D]`` of codes ``[K, T]``; K may be less than all codebooks."""
        return functional.embedding_bag(codes.t() + self._offsets[: len(codes)], self._table, mode="sum")


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
