"""Codecs as they are served against the libraries' own models: segments, two channels, whole pieces."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import encodec.model
import pytest
import torch
from audiocraft.models.encodec import InterleaveStereoCompressionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from services.codec.engine import CodecEngine
from services.models.audio import AudioLimits
from services.models.checkpoint import CheckpointError
from services.models.codecs import Codec, Frames, codec_of
from services.models.loader import load_codec
from services.models.tiny.checkpoints import CODEC_CONFIG, build_codec, save
from tests import codec_models
from tests.codec_models import noise


@pytest.fixture(scope="module")
def segmented() -> Any:
    """EnCodec 48 kHz in true form, thinner."""
    torch.set_num_threads(1)
    return codec_models.transformers_codec("encodec_48khz", 2)


def encoded(codec: Codec, audio: torch.Tensor, sizes: list[int], books: int) -> Frames:
    session, parts = codec.encoding(books), []
    blocks = list(torch.split(audio, sizes, dim=1))
    for index, block in enumerate(blocks):
        parts += codec.encode_many([session], [block], [index == len(blocks) - 1])
    return Frames(torch.cat([part.codes for part in parts], dim=1), [scale for part in parts for scale in part.scales])


def decoded(codec: Codec, frames: Frames, sizes: list[int]) -> torch.Tensor:
    session, parts, begin = codec.decoding(), [], 0
    for index, size in enumerate(sizes):
        block = Frames(frames.codes[:, begin : begin + size], frames.scales[begin : begin + size])
        parts += codec.decode_many([session], [block], [index == len(sizes) - 1])
        begin += size
    return torch.cat(parts, dim=1)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 120_000), max_size=4), length=st.sampled_from([48_000, 95_521, 120_000]))
def test_segments_are_those_of_transformers(segmented: Any, cuts: list[int], length: int) -> None:
    codec = codec_of(codec_models.wrapped(segmented))
    audio = noise(length / 48_000, 48_000, 2)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    frames = encoded(codec, audio, [b - a for a, b in itertools.pairwise(edges)], 16)
    with torch.no_grad():
        codes, scales, padding = segmented.encode(audio[None], None, 24.0, return_dict=False)
        expected = segmented.decode(codes, scales, last_frame_pad_length=padding)[0][0]
    theirs = torch.cat([*codes[:-1, 0], codes[-1, 0][:, : codes.shape[3] - padding]], dim=1)
    assert frames.codes.shape == theirs.shape
    assert (frames.codes == theirs).float().mean() > 0.999
    counts = [codes.shape[3]] * (len(scales) - 1) + [codes.shape[3] - padding]
    every = torch.cat([scale.view(1).expand(count) for scale, count in zip(scales, counts, strict=True)])
    assert torch.allclose(torch.tensor(frames.scales), every, rtol=1e-5)
    count = theirs.shape[1]
    inner = sorted({min(cut // 300, count) for cut in cuts})
    edges = [0, *inner, count]
    samples = decoded(codec, Frames(theirs, every.tolist()), [b - a for a, b in itertools.pairwise(edges)])
    assert samples.shape == expected.shape
    assert (samples - expected).abs().max() < 1e-5
    assert expected.abs().max() > 1e-3


def test_a_length_where_the_reference_fails(segmented: Any) -> None:
    """A last segment shorter than the overlap: the libraries' overlap-add raises, ours keeps what is there."""
    codec = codec_of(codec_models.wrapped(segmented))
    audio = noise(47_840 / 48_000, 48_000, 2)
    frames = encoded(codec, audio, [47_840], 4)
    assert frames.codes.shape == (4, 151)
    assert decoded(codec, frames, [151]).shape == (2, 48_000)


def test_two_channels_alternate() -> None:
    mono = codec_models.seanet_codec("encodec_32khz")
    reference, codec = InterleaveStereoCompressionModel(mono), codec_of(InterleaveStereoCompressionModel(mono))
    audio = noise(0.5, 32_000, 2)
    with torch.no_grad():
        codes = reference.encode(audio[None])[0][0]
        expected = reference.decode(codes[None])[0]
    frames = encoded(codec, audio, [5_000, 1, 10_999], 8)
    assert (frames.codes == codes).float().mean() > 0.99
    samples = decoded(codec, Frames(codes), [3, 0, 12, 10])
    assert samples.shape == expected.shape
    assert (samples - expected).abs().max() < 1e-5


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stereo MusicGen as on the hub: the codec is only named, and the language model says that it interleaves."""
    folder = tmp_path_factory.mktemp("stereo")
    codec_models.save_transformers(folder / "encodec_32khz", "encodec_32khz", 4)
    torch.save({"pretrained": "encodec_32khz"}, folder / "compression_state_dict.bin")
    save(folder / "state_dict.bin", "interleave_stereo_codebooks: {use: true, per_timestep: false}", {})
    return folder


def test_a_stereo_checkpoint_has_twice_the_codebooks(stereo: Path) -> None:
    loaded = load_codec(str(stereo))
    assert (loaded.info.channel_count, loaded.info.codebook_count) == (2, 8)
    assert loaded.info.sample_rate_hz == 32_000
    codec, audio = codec_of(loaded.model), noise(0.4, 32_000, 2)
    with torch.no_grad():
        codes = loaded.model.encode(audio[None])[0][0]
        expected = loaded.model.decode(codes[None])[0]
    frames = encoded(codec, audio, [12_000, 800], 8)
    assert frames.codes.shape == codes.shape == (8, 20)
    assert (frames.codes == codes).float().mean() > 0.99
    samples = decoded(codec, Frames(codes), [7, 13])
    assert (samples - expected).abs().max() < 1e-5


def test_a_stereo_checkpoint_is_served_with_two_channels(stereo: Path) -> None:
    engine = CodecEngine([str(stereo)], "cpu", 1, AudioLimits())
    engine.load()
    facts = engine.facts[str(stereo)]
    assert (facts.channel_count, facts.codebook_count, facts.codebook_step, facts.usual_codebook_count) == (2, 8, 2, 8)
    engine.close()


def test_a_mono_checkpoint_stays_mono(stereo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stereo, tmp_path / "mono")
    save(folder / "state_dict.bin", "interleave_stereo_codebooks: {use: false, per_timestep: false}", {})
    info = load_codec(str(folder)).info
    assert (info.channel_count, info.codebook_count) == (1, 4)


def test_a_piece_that_is_needed_whole() -> None:
    config = CODEC_CONFIG.replace("causal: true, renormalize: false", "causal: false, renormalize: true")
    model = build_codec(config).eval()
    codec = codec_of(model)
    assert not codec.is_streamable
    audio = noise(0.2, 32_000)
    with torch.no_grad():
        codes, scale = model.encode(audio[None])
        expected = model.decode(codes, scale)[0]
    frames = encoded(codec, audio, [2_000, 4_400], 4)
    assert torch.equal(frames.codes, codes[0])
    assert (decoded(codec, frames, [4, 6]) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["encodec_24khz", "encodec_48khz"])
def test_the_true_shapes_have_the_weights_of_the_public_package(name: str) -> None:
    """The shapes of the tests are those of the released models: same layers, same number of parameters."""
    make = {"encodec_24khz": "encodec_model_24khz", "encodec_48khz": "encodec_model_48khz"}[name]
    theirs = getattr(encodec.model.EncodecModel, make)(pretrained=False)
    ours = codec_models.transformers_codec(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_true_shape_runs_exactly() -> None:
    """EnCodec 24 kHz at its full width, both ways."""
    model = codec_models.wrapped(codec_models.transformers_codec("encodec_24khz"))
    codec = codec_of(model)
    assert (codec.encode_lookahead, codec.decode_lookahead) == (0, 0)
    audio = noise(0.4, 24_000)
    with torch.no_grad():
        codes = model.encode(audio[None])[0][0]
        expected = model.decode(codes[None])[0]
    frames = encoded(codec, audio, [1_920] * 5, 32)
    assert (frames.codes == codes).float().mean() > 0.98
    samples = decoded(codec, Frames(codes), [6] * 5)
    assert (samples - expected).abs().max() < 1e-5


def test_dac_says_what_it_needs(tmp_path: Path) -> None:
    """AudioCraft's DAC needs a package that is not among the requirements; a checkpoint that names it is refused."""
    torch.save({"pretrained": "dac_44khz"}, tmp_path / "compression_state_dict.bin")
    with pytest.raises(CheckpointError, match="descript-audio-codec"):
        load_codec(str(tmp_path))
