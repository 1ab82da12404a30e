"""Decoding in pieces: whatever the pieces, joined they are the offline result."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from audiocraft.models.encodec import HFEncodecCompressionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel

from services.models.streaming import DecoderState, StreamingDecoder, UnsupportedCodec
from services.models.tiny.checkpoints import CODEC_CONFIG, build_codec

LSTM = CODEC_CONFIG.replace("lstm: 0", "lstm: 2").replace("pad_mode: constant", "pad_mode: reflect")
CONFIGS = {
    "causal": CODEC_CONFIG,
    "centred, LSTM, reflect": LSTM.replace("causal: true", "causal: false"),
    "causal, LSTM, reflect": LSTM,
}


def transformers_codec() -> Any:
    """MusicGen's 32 kHz codec, as transformers has it, but thinner."""
    config = EncodecConfig(
        sampling_rate=32000,
        num_filters=8,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=64,
        target_bandwidths=[1.2],
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
    )
    return HFEncodecCompressionModel(EncodecModel(config))


@pytest.fixture(scope="module", params=[*CONFIGS, "transformers"])
def codec(request: pytest.FixtureRequest) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = transformers_codec() if request.param == "transformers" else build_codec(CONFIGS[request.param])
    return built.eval()


def random_codes(codec: Any, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, codec.cardinality, (codec.num_codebooks, frames), generator=generator)


@torch.no_grad()
def offline(codec: Any, codes: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(codec.decode(codes[None])[0])


def in_pieces(decoder: StreamingDecoder, codes: torch.Tensor, sizes: Iterable[int]) -> torch.Tensor:
    state, pieces, begin = DecoderState(), [], 0
    sizes = list(sizes)
    for index, size in enumerate(sizes):
        end = begin + size
        pieces.append(decoder.decode(state, codes[:, begin:end], final=index == len(sizes) - 1))
        begin = end
    assert begin >= codes.shape[1]
    return torch.cat([piece for piece in pieces if piece.numel()], dim=-1)


def check(codec: Any, codes: torch.Tensor, sizes: Iterable[int]) -> None:
    whole = offline(codec, codes)
    joined = in_pieces(StreamingDecoder(codec), codes, sizes)
    assert joined.shape == whole.shape
    assert (joined - whole).abs().max() < 1e-5
    assert whole.abs().max() > 1e-3, "a silent reference would prove nothing"


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8, 40])
def test_frame_by_frame_is_the_offline_result(codec: Any, frames: int) -> None:
    check(codec, random_codes(codec, frames), [1] * frames)


@pytest.mark.parametrize("frames", [1, 5, 40])
def test_one_piece_is_the_offline_result(codec: Any, frames: int) -> None:
    check(codec, random_codes(codec, frames), [frames])


@pytest.mark.parametrize("seed", range(6))
def test_any_chunking_is_the_offline_result(codec: Any, seed: int) -> None:
    draw = random.Random(seed)
    frames = draw.randint(2, 60)
    sizes: list[int] = []
    while sum(sizes) < frames:
        sizes.append(min(draw.choice((1, 1, 2, 3, 5, 17)), frames - sum(sizes)))
    check(codec, random_codes(codec, frames), sizes)


@pytest.mark.parametrize("frames", [1, 3, 5, 30])
def test_an_empty_last_piece_returns_what_is_left(codec: Any, frames: int) -> None:
    codes = random_codes(codec, frames)
    decoder, state = StreamingDecoder(codec), DecoderState()
    pieces = [decoder.decode(state, codes, final=False), decoder.decode(state, codes[:, :0], final=True)]
    joined = torch.cat([piece for piece in pieces if piece.numel()], dim=-1)
    whole = offline(codec, codes)
    assert joined.shape == whole.shape
    assert (joined - whole).abs().max() < 1e-5


def test_no_codes_at_all_are_no_samples(codec: Any) -> None:
    assert StreamingDecoder(codec).decode(DecoderState(), random_codes(codec, 4)[:, :0], final=True).numel() == 0


def test_frames_wait_for_their_lookahead_and_no_longer(codec: Any) -> None:
    decoder, state = StreamingDecoder(codec), DecoderState()
    codes = random_codes(codec, 40)
    made = 0
    for frame in range(30):
        made += decoder.decode(state, codes[:, frame : frame + 1], final=False).shape[-1]
        there = frame + 1
        if there < decoder.start_frames:
            assert made == 0
        else:
            assert there - decoder.lookahead_frames <= made / decoder.hop <= there


def kept_elements(state: DecoderState) -> int:
    """Elements in memory, counted by storage: a view of a large tensor keeps all of it."""
    assert state.place is not None
    tensors = [tensor for place in state.place.flat() for tensor in place.tensors]
    if state.place.stream is not None:
        tensors.append(state.place.stream.memory)
    return sum(t.untyped_storage().nbytes() // t.element_size() for t in tensors)


def test_the_state_does_not_grow(codec: Any) -> None:
    decoder, state = StreamingDecoder(codec), DecoderState()
    codes = random_codes(codec, 120)
    kept = []
    for frame in range(120):
        decoder.decode(state, codes[:, frame : frame + 1], final=False)
        kept.append(kept_elements(state))
    assert kept[40] == kept[80] == kept[119]


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_any_cut_is_the_offline_result(codec: Any, sizes: list[int]) -> None:
    total = max(1, sum(sizes))
    check(codec, random_codes(codec, total), [*sizes, total - sum(sizes)])


def test_neighbours_change_nothing(codec: Any) -> None:
    """Streams of several lengths and starts, advanced together, give each the bits that it gets alone."""
    decoder = StreamingDecoder(codec)
    pieces = [random_codes(codec, length) for length in (14, 17, 17, 20)]
    expected = [in_pieces(decoder, codes, [1] * codes.shape[1]) for codes in pieces]
    states, positions = [DecoderState() for _ in pieces], [0, 0, -2, -5]
    made: list[list[torch.Tensor]] = [[] for _ in pieces]
    while any(position < codes.shape[1] for position, codes in zip(positions, pieces, strict=True)):
        live = [i for i, codes in enumerate(pieces) if 0 <= positions[i] < codes.shape[1]]
        blocks = [pieces[i][:, positions[i] : positions[i] + 1] for i in live]
        finals = [positions[i] + 1 == pieces[i].shape[1] for i in live]
        for i, samples in zip(live, decoder.decode_many([states[i] for i in live], blocks, finals), strict=True):
            made[i].append(samples)
        positions = [position + 1 for position in positions]
    for samples, parts in zip(expected, made, strict=True):
        assert torch.equal(torch.cat(parts, dim=1), samples)


def test_streams_do_not_disturb_each_other(codec: Any) -> None:
    decoder = StreamingDecoder(codec)
    first, second = random_codes(codec, 20), random_codes(codec, 21)[:, :20]
    states = (DecoderState(), DecoderState())
    pieces: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for begin in range(0, 20, 4):
        for state, codes, out in zip(states, (first, second), pieces, strict=True):
            out.append(decoder.decode(state, codes[:, begin : begin + 4], final=begin == 16))
    for codes, out in zip((first, second), pieces, strict=True):
        joined = torch.cat([piece for piece in out if piece.numel()], dim=-1)
        assert (joined - offline(codec, codes)).abs().max() < 1e-5


def test_a_codec_that_normalises_over_time_is_refused() -> None:
    with pytest.raises(UnsupportedCodec, match="normalises over time"):
        StreamingDecoder(build_codec(CONFIGS["centred, LSTM, reflect"].replace("weight_norm", "time_group_norm")))


def test_a_codec_that_normalises_by_segments_is_refused() -> None:
    with pytest.raises(UnsupportedCodec, match="by segments"):
        StreamingDecoder(
            build_codec(CONFIGS["centred, LSTM, reflect"].replace("renormalize: false", "renormalize: true"))
        )


def test_another_model_is_refused() -> None:
    with pytest.raises(UnsupportedCodec, match="Linear is not an EnCodec"):
        StreamingDecoder(torch.nn.Linear(1, 1))
