"""Encoding in pieces: whatever the pieces, joined they are the offline codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.models.streaming import EncoderState, StreamingEncoder
from tests import codec_models

CODECS = {
    "embedded": lambda: codec_models.seanet_codec("embedded"),
    "16 kHz, AudioCraft": lambda: codec_models.seanet_codec("encodec_16khz"),
    "24 kHz, AudioCraft": lambda: codec_models.seanet_codec("encodec_24khz"),
    "24 kHz, transformers": lambda: codec_models.wrapped(codec_models.transformers_codec("encodec_24khz", 4)),
    "32 kHz, AudioCraft": lambda: codec_models.seanet_codec("encodec_32khz"),
    "32 kHz, transformers": lambda: codec_models.wrapped(codec_models.transformers_codec("encodec_32khz", 4)),
}
CAUSAL = ("embedded", "24 kHz, AudioCraft", "24 kHz, transformers")
BUILT: dict[str, Any] = {}


def codec_of(name: str) -> Any:
    torch.set_num_threads(1)
    if name not in BUILT:
        BUILT[name] = CODECS[name]()
    return BUILT[name]


@torch.no_grad()
def offline(codec: Any, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the reference's codes ``[K, T]`` and, per code, by how much the nearest entry beats the next."""
    codes, _ = codec.encode(audio[None])
    model = getattr(codec, "model", codec)
    rest = model.encoder(audio[None])[0].T
    layers = model.quantizer.layers if hasattr(model.quantizer, "layers") else model.quantizer.vq.layers
    margins = []
    for layer, code in zip(layers, codes[0], strict=False):
        book = layer.codebook if isinstance(layer.codebook, torch.Tensor) else layer.codebook.embed
        distance = torch.cdist(rest[None], book[None])[0]
        two = distance.topk(2, largest=False).values
        margins.append(two[:, 1] - two[:, 0])
        rest = rest - book[code]
    return codes[0], torch.stack(margins)


def in_pieces(encoder: StreamingEncoder, audio: torch.Tensor, sizes: Iterable[int], books: int) -> torch.Tensor:
    state, pieces, begin = EncoderState(), [], 0
    sizes = list(sizes)
    for index, size in enumerate(sizes):
        end = begin + size
        pieces.append(encoder.encode(state, audio[:, begin:end], books, final=index == len(sizes) - 1))
        begin = end
    assert begin >= audio.shape[1]
    return torch.cat(pieces, dim=1)


def check(name: str, audio: torch.Tensor, sizes: Iterable[int]) -> None:
    codec = codec_of(name)
    codes, margins = offline(codec, audio)
    joined = in_pieces(StreamingEncoder(codec), audio, sizes, codec.num_codebooks)
    assert joined.shape == codes.shape
    differing = (joined != codes).any(dim=0)
    for frame in differing.nonzero().flatten():
        # A tie in one codebook changes all after it; the first that differs must be one.
        book = int((joined[:, frame] != codes[:, frame]).nonzero()[0])
        assert margins[book, frame] < 1e-4, f"frame {frame}, codebook {book}: no tie"
    assert differing.float().mean() < 0.05


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("samples", [1, 2, 3, 5, 7, 100, 319, 320, 321, 639, 1000, 1921, 4567])
def test_one_piece_is_the_offline_result(name: str, samples: int) -> None:
    check(name, codec_models.noise(samples / 1000, 1000), [samples])


@pytest.mark.parametrize("name", CODECS)
def test_sample_by_sample_is_the_offline_result(name: str) -> None:
    """At the start, in the middle and at the end."""
    check(name, codec_models.noise(3.7, 1000), [*[1] * 400, 2_900, *[1] * 400])


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(sizes=st.lists(st.one_of(st.integers(0, 12), st.integers(1, 2500)), min_size=1, max_size=9))
def test_any_cut_is_the_offline_result(name: str, sizes: list[int]) -> None:
    total = max(1, sum(sizes))
    check(name, codec_models.noise(total / 1000, 1000, seed=total), [*sizes, total - sum(sizes)])


@pytest.mark.parametrize("name", CODECS)
def test_no_audio_at_all_is_no_codes(name: str) -> None:
    codec = codec_of(name)
    nothing = StreamingEncoder(codec).encode(EncoderState(), torch.zeros(1, 0), 2, final=True)
    assert nothing.shape == (2, 0)


@pytest.mark.parametrize("name", CODECS)
def test_frames_wait_for_their_lookahead_and_no_longer(name: str) -> None:
    encoder, state = StreamingEncoder(codec_of(name)), EncoderState()
    assert (encoder.lookahead_samples == 0) == (name in CAUSAL)
    audio, frames = codec_models.noise(30 * encoder.hop / 1000, 1000), 0
    for sample in range(0, audio.shape[1], encoder.hop // 4):
        frames += encoder.encode(state, audio[:, sample : sample + encoder.hop // 4], 1, final=False).shape[1]
        there = sample + encoder.hop // 4
        if there >= encoder.start_samples:
            assert frames == max(0, there - encoder.lookahead_samples) // encoder.hop
        else:
            assert frames == 0


def test_the_state_does_not_grow() -> None:
    encoder, state = StreamingEncoder(codec_of("24 kHz, AudioCraft")), EncoderState()
    audio, kept = codec_models.noise(30.0, 1000), []
    for begin in range(0, 30_000, 1000):
        encoder.encode(state, audio[:, begin : begin + 1000], 2, final=False)
        places = state.place.flat() if state.place else []
        kept.append(sum(part.untyped_storage().nbytes() for place in places for part in place.tensors))
    # The same phase within a frame every 8 blocks.
    assert kept[11] == kept[19] == kept[27]


@pytest.mark.parametrize("name", CODECS)
def test_neighbours_change_nothing(name: str) -> None:
    """Streams of several lengths and starts, advanced together, give each the bits that it gets alone."""
    codec = codec_of(name)
    encoder, hop = StreamingEncoder(codec), StreamingEncoder(codec).hop
    pieces = [codec_models.noise(length * hop / 1000, 1000, seed=length) for length in (9, 12, 12, 15)]
    expected = [in_pieces(encoder, audio, [hop] * (audio.shape[1] // hop), 2) for audio in pieces]
    states, positions = [EncoderState() for _ in pieces], [0, 0, -2 * hop, -5 * hop]
    made: list[list[torch.Tensor]] = [[] for _ in pieces]
    while any(position < audio.shape[1] for position, audio in zip(positions, pieces, strict=True)):
        live = [i for i, audio in enumerate(pieces) if 0 <= positions[i] < audio.shape[1]]
        blocks = [pieces[i][:, positions[i] : positions[i] + hop] for i in live]
        finals = [positions[i] + hop >= pieces[i].shape[1] for i in live]
        for i, codes in zip(
            live, encoder.encode_many([states[i] for i in live], blocks, [2] * len(live), finals), strict=True
        ):
            made[i].append(codes)
        positions = [position + hop for position in positions]
    for codes, parts in zip(expected, made, strict=True):
        assert torch.equal(torch.cat(parts, dim=1), codes)
