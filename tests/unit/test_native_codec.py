"""Our own kernels for codecs against PyTorch's layers: the same result, the same bits in any company."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from services.models import native_codec, native_products
from services.models.codecs import Codec, Frames, codec_of
from services.models.quantizing import Quantizer
from tests import codec_models

SHAPES = ["embedded", "encodec_24khz", "encodec_32khz"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> Any:
    assert native_products.kernels() is not None, "the tests need a C++ compiler"
    return codec_models.seanet_codec(request.param)


def encode(codec: Codec, audio: list[torch.Tensor], size: int, books: int) -> list[torch.Tensor]:
    """Encode several pieces of one length together."""
    sessions, parts = [codec.encoding(books) for _ in audio], []
    blocks = [torch.split(piece, size, dim=1) for piece in audio]
    for index in range(len(blocks[0])):
        finals = [index == len(blocks[0]) - 1] * len(audio)
        parts.append(codec.encode_many(sessions, [piece[index] for piece in blocks], finals))
    return [torch.cat([part[row].codes for part in parts], dim=1) for row in range(len(audio))]


def decode(codec: Codec, codes: list[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Decode several pieces of one length together."""
    sessions, parts = [codec.decoding() for _ in codes], []
    blocks = [torch.split(piece, size, dim=1) for piece in codes]
    for index in range(len(blocks[0])):
        finals = [index == len(blocks[0]) - 1] * len(codes)
        parts.append(codec.decode_many(sessions, [Frames(piece[index]) for piece in blocks], finals))
    return [torch.cat([part[row] for part in parts if part[row].shape[1]], dim=1) for row in range(len(codes))]


def pieces(model: Any, count: int) -> list[torch.Tensor]:
    return [codec_models.noise(0.4, model.sample_rate, seed=seed) for seed in range(count)]


def test_without_a_compiler_pytorch_does_the_same(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = codec_of(model)
    with monkeypatch.context() as patch:
        for module in (native_codec, native_products):
            patch.setattr(module, "kernels", lambda: None)
        plain = codec_of(model)
    books = model.num_codebooks
    audio = pieces(model, 2)
    codes, expected = encode(ours, audio, 1_600, books), encode(plain, audio, 1_600, books)
    assert all((mine == theirs).float().mean() > 0.99 for mine, theirs in zip(codes, expected, strict=True))
    for mine, theirs in zip(decode(ours, codes, 5), decode(plain, codes, 5), strict=True):
        assert (mine - theirs).abs().max() < 1e-6
        assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("count", [2, 9, 17])
def test_company_changes_no_bit(model: Any, count: int) -> None:
    codec, books = codec_of(model), model.num_codebooks
    audio = pieces(model, count)
    together = encode(codec, audio, 1_300, books)
    alone = [encode(codec, [piece], 1_300, books)[0] for piece in audio]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(together, alone, strict=True))
    samples = decode(codec, together, 4)
    assert all(torch.equal(mine, decode(codec, [codes], 4)[0]) for mine, codes in zip(samples, together, strict=True))


def test_threads_change_no_bit(model: Any) -> None:
    codec, books = codec_of(model), model.num_codebooks
    audio = pieces(model, 3)
    # The start and the end run in PyTorch, whose bits are not ours to promise: the middle counts.
    session, codes = codec.decoding(), encode(codec, audio, 2_000, books)[0]
    codec.decode_many([session], [Frames(codes[:, :8])], [False])
    other = copy.deepcopy(session)
    one = codec.decode_many([session], [Frames(codes[:, 8:16])], [False])[0]
    torch.set_num_threads(2)
    two = codec.decode_many([other], [Frames(codes[:, 8:16])], [False])[0]
    assert one.shape[1] > 0
    assert torch.equal(one, two)


def test_nearest_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    books = [torch.randn(64, 16, generator=generator) * 0.7**index for index in range(3)]
    vectors = torch.randn(21, 16, generator=generator)
    before = vectors.clone()
    quantizer = Quantizer(books)
    codes = quantizer.encode(vectors, 3)
    assert torch.equal(vectors, before)
    rest = vectors.double()
    for book, given in zip(books, codes, strict=True):
        distances = torch.cdist(rest, book.double())
        assert torch.equal(distances.argmin(dim=1), given)
        rest = rest - book[given].double()
    assert torch.equal(quantizer.encode(vectors, 9), codes), "no more books than there are"
