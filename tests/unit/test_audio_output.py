"""Audio files made while the samples come in, read back by libsndfile and FFmpeg."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphon.audio import to_pcm16 as client_pcm16
from antiphon.v1 import audio_pb2
from services.models.audio_output import (
    AudioEncoder,
    AudioOutput,
    Encoding,
    OutputError,
    limit,
    to_pcm16,
    to_pcm_f32,
    to_wav,
)
from services.models.resampling import convert
from tests.audio_files import tone

FILES = (Encoding.WAV, Encoding.FLAC, Encoding.OGG_OPUS, Encoding.MP3)
LOSSY = (Encoding.OGG_OPUS, Encoding.MP3)


def made(output: AudioOutput, audio: torch.Tensor, rate: int, size: int, total: int | None = None) -> bytes:
    encoder = AudioEncoder(output, rate, audio.shape[0], total)
    parts = [encoder.encode(audio[:, start : start + size]) for start in range(0, audio.shape[1], size)]
    return b"".join([*parts, encoder.finish()])


def with_sndfile(data: bytes) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.T, rate


def with_ffmpeg(data: bytes) -> tuple[np.ndarray, int]:
    planar = av.AudioResampler(format="fltp")
    with av.open(io.BytesIO(data)) as container:
        frames = [part for frame in container.decode(audio=0) for part in planar.resample(frame)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1), frames[0].sample_rate


@pytest.mark.parametrize("encoding", FILES)
@pytest.mark.parametrize(("rate", "channels", "to_channels"), [(32_000, 1, 0), (48_000, 2, 0), (24_000, 1, 2)])
def test_joined_bytes_are_the_file(encoding: Encoding, rate: int, channels: int, to_channels: int) -> None:
    audio = torch.from_numpy(tone(0.7, rate, channels).T.copy())
    output = AudioOutput.resolve(encoding, 0, to_channels, own_rate_hz=rate, own_channel_count=channels)
    data = made(output, audio, rate, 1600, audio.shape[1])
    expected = convert(audio, rate, output.rate_hz, output.channel_count).numpy()
    for read in (with_sndfile, with_ffmpeg):
        samples, found = read(data)
        assert (samples.shape, found) == (expected.shape, output.rate_hz)
        error = np.abs(samples - expected)[:, 2400:-2400].max()
        assert error < (0.05 if encoding in LOSSY else 1 / 16_384)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("size", [1, 777, 8192])
def test_chunks_change_nothing(encoding: Encoding, size: int) -> None:
    rate = 48_000
    audio = torch.from_numpy(1.6 * tone(0.05 if size == 1 else 0.5, rate, 2).T.copy())
    output = AudioOutput.resolve(encoding, own_rate_hz=rate, own_channel_count=2)
    assert made(output, audio, rate, size) == made(output, audio, rate, audio.shape[1])


@pytest.mark.parametrize("encoding", FILES)
def test_bytes_come_out_as_audio_goes_in(encoding: Encoding) -> None:
    rate = 32_000
    output = AudioOutput.resolve(encoding, own_rate_hz=rate, own_channel_count=1)
    encoder = AudioEncoder(output, rate, 1)
    second = torch.from_numpy(tone(1.0, rate).T.copy())
    halves = [encoder.encode(half) for half in (second[:, : rate // 2], second[:, rate // 2 :])]
    assert all(len(half) > 2000 for half in halves)
    samples, found = with_ffmpeg(b"".join(halves))
    assert samples.shape[1] > 0.75 * found


@pytest.mark.parametrize(("encoding", "surplus"), [(Encoding.OGG_OPUS, 0), (Encoding.FLAC, 0), (Encoding.MP3, 2304)])
def test_files_of_unknown_length_hold_the_audio(encoding: Encoding, surplus: int) -> None:
    rate = 48_000
    audio = torch.from_numpy(tone(0.5, rate).T.copy())
    output = AudioOutput.resolve(encoding, own_rate_hz=rate, own_channel_count=1)
    samples, _ = with_ffmpeg(made(output, audio, rate, 4000))
    assert 0 <= samples.shape[1] - audio.shape[1] <= surplus


def test_wav_says_when_its_length_is_unknown() -> None:
    audio = torch.zeros(2, 100)
    output = AudioOutput.resolve(Encoding.WAV, own_rate_hz=8_000, own_channel_count=2)
    open_ended = made(output, audio, 8_000, 30)
    assert open_ended[40:44] == b"\xff\xff\xff\xff"
    assert made(output, audio, 8_000, 30, 100) == to_wav(audio, 8_000)
    assert with_sndfile(open_ended)[0].shape == (2, 100)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_tells_its_length_to_the_sample(rate: int, channels: int) -> None:
    output = AudioOutput(Encoding.MP3, rate, channels)
    # Around the ends of frames, where the encoder adds a frame for the decoder's overlap.
    for count in (576, 1151, 1152, 1185, 1728, 1740, 2332, 11_520):
        data = made(output, torch.from_numpy(tone(count / rate, rate, channels).T.copy()), rate, 500, count)
        assert with_sndfile(data)[0].shape == (channels, count)
        with av.open(io.BytesIO(data), format="mp3") as container:
            assert sum(frame.samples for frame in container.decode(audio=0)) == count


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize(("rate", "to_rate"), [(32_000, 44_100), (48_000, 16_000), (24_000, 44_099)])
def test_converts_as_the_whole(rate: int, to_rate: int, size: int) -> None:
    audio = torch.randn(2, rate // 2 + 13, generator=torch.Generator().manual_seed(0))
    output = AudioOutput.resolve(Encoding.PCM_F32LE, to_rate, 1, own_rate_hz=rate, own_channel_count=2)
    encoder = AudioEncoder(output, rate, 2)
    parts = [encoder.encode(audio[:, start : start + size]) for start in range(0, audio.shape[1], size)]
    data = b"".join([*parts, encoder.finish()])
    expected = convert(audio, rate, to_rate, 1).numpy()
    samples = np.frombuffer(data, "<f4").reshape(1, -1)
    assert encoder.sample_count == samples.shape[1] == expected.shape[1]
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_a_resampled_stream_hardly_lags() -> None:
    output = AudioOutput.resolve(Encoding.PCM_S16LE, 48_000, own_rate_hz=32_000, own_channel_count=1)
    encoder = AudioEncoder(output, 32_000, 1)
    encoder.encode(torch.zeros(1, 3200))
    assert encoder.sample_count > 4800 - 60


@pytest.mark.parametrize("encoding", Encoding)
def test_no_audio_is_no_failure(encoding: Encoding) -> None:
    encoder = AudioEncoder(AudioOutput(encoding, 48_000, 1), 48_000, 1, 0)
    data = encoder.encode(torch.zeros(1, 0)) + encoder.finish()
    assert encoder.sample_count == 0
    assert bool(data) == (encoding in FILES)


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "field"),
    [
        (Encoding.OGG_OPUS, 24_000, 0, "sample_rate_hz"),
        (Encoding.MP3, 96_000, 0, "sample_rate_hz"),
        (Encoding.WAV, 1, 0, "sample_rate_hz"),
        (Encoding.FLAC, -5, 0, "sample_rate_hz"),
        (Encoding.FLAC, 1 << 30, 0, "sample_rate_hz"),
        (Encoding.WAV, 0, 3, "channel_count"),
        (Encoding.WAV, 0, -1, "channel_count"),
    ],
)
def test_refuses_what_cannot_be_made(encoding: Encoding, rate: int, channels: int, field: str) -> None:
    with pytest.raises(OutputError) as raised:
        AudioOutput.resolve(encoding, rate, channels, own_rate_hz=32_000, own_channel_count=1)
    assert raised.value.field == field
    assert raised.value.description


@pytest.mark.parametrize(
    ("encoding", "own", "rate"),
    [
        (Encoding.WAV, 4_000, 4_000),
        (Encoding.OGG_OPUS, 32_000, 48_000),
        (Encoding.MP3, 32_000, 32_000),
        (Encoding.MP3, 30_000, 32_000),
        (Encoding.MP3, 96_000, 48_000),
    ],
)
def test_an_open_rate_becomes_one_that_can_be_made(encoding: Encoding, own: int, rate: int) -> None:
    output = AudioOutput.resolve(encoding, own_rate_hz=own, own_channel_count=2)
    assert output == AudioOutput(encoding, rate, 2)


def test_the_names_are_those_of_the_contract() -> None:
    names = {name.removeprefix("AUDIO_ENCODING_") for name in audio_pb2.AudioEncoding.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {encoding.value for encoding in Encoding}


def test_the_limiter_bends_peaks_and_keeps_their_order() -> None:
    levels = np.linspace(0, 2, 20_001)
    bent = limit(levels)
    assert np.array_equal(bent[levels <= 0.9], levels[levels <= 0.9])
    assert bent.max() < 1.0
    assert (np.diff(bent) >= 0).all()
    # Its slope has no step at the knee: that would be heard as a click does.
    assert np.abs(np.diff(bent, 2)).max() < 2e-6
    assert np.array_equal(limit(-levels), -bent)


def test_packs_16_bits() -> None:
    audio = torch.tensor([[0.0, 0.5, 2.0, float("nan")], [-0.9, -2.0, float("inf"), float("-inf")]])
    assert struct.unpack("<8h", to_pcm16(audio)) == (0, -29490, 16384, -32767, 32767, 32767, 0, -32767)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_client_and_server_pack_alike(values: list[float]) -> None:
    ours = np.frombuffer(to_pcm16(torch.tensor([values])), "<i2")
    theirs = np.frombuffer(client_pcm16(np.array(values, np.float32)[:, None]), "<i2")
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    quiet = np.abs(values) <= 0.9
    assert np.abs(ours / 32767 - values)[quiet].max(initial=0.0) <= 0.5 / 32767 + 1e-7


def test_packs_floats_unchanged() -> None:
    audio = torch.randn(2, 100) * 3
    assert np.array_equal(np.frombuffer(to_pcm_f32(audio), "<f4").reshape(-1, 2).T, audio.numpy())


def test_writes_wav_files() -> None:
    samples = tone(0.25, 44_100, 2)
    back, rate = with_sndfile(to_wav(torch.from_numpy(samples.T.copy()), 44_100))
    assert (rate, back.shape) == (44_100, samples.T.shape)
    assert np.abs(back.T - samples).max() < 1e-4
