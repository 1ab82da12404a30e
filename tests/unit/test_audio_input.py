"""Reading audio from strangers, and converting it."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from services.models.audio import (
    AudioError,
    AudioLimits,
    Resampler,
    convert,
    convert_channels,
    open_audio,
    read_audio,
)
from tests.audio_files import FFMPEG, LIBSNDFILE, encoded, tone

LIMITS = AudioLimits()
ALL = (*LIBSNDFILE, *FFMPEG)


def rate_of(kind: str) -> int:
    return 48_000 if kind == "webm" else 32_000


def streamed_flac(samples: np.ndarray, rate: int) -> bytes:
    """A FLAC file whose header does not tell the length."""
    data = bytearray(encoded("flac", samples, rate))
    # "fLaC", a block header, ten bytes; then 20 bits of rate, 3 of channels, 5 of bits, 36 of samples.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ALL)
def test_reads_every_kind(kind: str, channels: int) -> None:
    rate = rate_of(kind)
    audio, found = read_audio(encoded(kind, tone(1.0, rate, channels), rate), LIMITS)
    assert (found, audio.dtype, audio.shape[0]) == (rate, torch.float32, channels)
    assert abs(audio.shape[1] / rate - 1.0) < 0.1
    middle = audio[:, rate // 4 : rate // 4 + rate // 2]
    spectrum = torch.fft.rfft(middle * torch.hann_window(middle.shape[1])).abs()
    pitches = spectrum.argmax(dim=1) * rate / middle.shape[1]
    assert pitches.tolist() == pytest.approx([440.0 * (c + 1) for c in range(channels)], abs=2.1)


def test_reads_lossless_files_exactly() -> None:
    samples = tone(0.5, channels=2)
    assert np.array_equal(read_audio(encoded("wavf", samples), LIMITS)[0].numpy().T, samples)
    for kind in ("wav", "flac"):
        audio, _ = read_audio(encoded(kind, samples), LIMITS)
        assert np.abs(audio.numpy().T - samples).max() <= 1 / 32767


@pytest.mark.parametrize("kind", ALL)
def test_refuses_truncated_files(kind: str) -> None:
    data = encoded(kind, tone(3.0, rate_of(kind)), rate_of(kind))
    with pytest.raises(AudioError):
        read_audio(data[: len(data) * 6 // 10], LIMITS)


@pytest.mark.parametrize("claim", [0xFFFFFFFF, 0x7FFFFFFF])
def test_reads_wav_files_of_unknown_length(claim: int) -> None:
    data = encoded("wav", tone(0.5))
    at = data.index(b"data") + 4
    audio, _ = read_audio(data[:at] + struct.pack("<I", claim) + data[at + 4 :], LIMITS)
    assert audio.shape == (1, 16_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\0" * 10_000,
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff",
        b"\xff\xfb\x90\x00" * 1000,
        random.Random(0).randbytes(50_000),
        encoded("wav", tone(0.1))[:44],
        encoded("wav", tone(0.0)),
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
    ids=["empty", "text", "zeros", "stub", "huge-chunk", "syncs", "noise", "header", "no-samples", "concat"],
)
def test_refuses_what_is_not_audio(data: bytes) -> None:
    with pytest.raises(AudioError) as raised:
        read_audio(data, LIMITS)
    assert raised.value.description


def test_opens_no_other_file(tmp_path: Path) -> None:
    other = tmp_path / "other.aac"
    other.write_bytes(encoded("aac", tone()))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n"
    with pytest.raises(AudioError):
        read_audio(playlist.encode(), LIMITS)


@pytest.mark.parametrize(
    ("limits", "samples", "rate", "says"),
    [
        (AudioLimits(max_bytes=1000), tone(1.0), 32_000, "too large"),
        (AudioLimits(max_seconds=0.5), tone(1.0), 32_000, "too long"),
        (AudioLimits(max_values=30_000), tone(0.5, channels=2), 32_000, "too many samples"),
        (LIMITS, tone(0.01, channels=64), 32_000, "64 channels"),
        (LIMITS, tone(0.01), 1, "sample rate"),
        (LIMITS, tone(0.1), 1_000, "sample rate"),
        (LIMITS, tone(0.1), 500_000, "sample rate"),
    ],
    ids=["bytes", "seconds", "values", "channels", "one-hertz", "low-rate", "high-rate"],
)
def test_keeps_the_limits(limits: AudioLimits, samples: np.ndarray, rate: int, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        open_audio(encoded("wav", samples, rate), limits)


@pytest.mark.parametrize("kind", FFMPEG)
def test_keeps_the_limits_in_what_ffmpeg_opens(kind: str) -> None:
    data = encoded(kind, tone(2.0, rate_of(kind)), rate_of(kind))
    with pytest.raises(AudioError, match="too long"):
        read_audio(data, AudioLimits(max_seconds=1.0))


@pytest.mark.parametrize("told", [True, False], ids=["length told", "length not told"])
def test_a_decompression_bomb_uses_no_memory(told: bool) -> None:
    silence = np.zeros((600 * 48_000, 1), np.float32)
    bomb = encoded("flac", silence, 48_000) if told else streamed_flac(silence, 48_000)
    assert len(bomb) < 200_000
    tracemalloc.start()
    with pytest.raises(AudioError, match="too long"):
        read_audio(bomb, AudioLimits(max_seconds=5.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("kind", ["ogg", "mp3", "m4a", "aac", "webm"])
def test_a_bomb_of_any_kind_is_refused_early(kind: str) -> None:
    silence = np.zeros((48_000, 1), np.float32)
    if kind == "ogg":
        buffer = io.BytesIO()
        # libvorbis has no room for a minute at once.
        with soundfile.SoundFile(buffer, "w", 48_000, 1, format="OGG", subtype="VORBIS") as file:
            for _ in range(60):
                file.write(silence)
        bomb = buffer.getvalue()
    else:
        bomb = encoded(kind, np.tile(silence, (60, 1)), 48_000)
    tracemalloc.start()
    with pytest.raises(AudioError, match="too long"):
        read_audio(bomb, AudioLimits(max_seconds=2.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_refuses_a_rate_that_changes_on_the_way() -> None:
    changing = encoded("aac", tone(0.5)) + encoded("aac", tone(0.5, 48_000, 2), 48_000)
    with pytest.raises(AudioError, match="changes its sample rate"):
        read_audio(changing, LIMITS)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(22, "<H", 0), (22, "<H", 65_535), (24, "<I", 0), (24, "<I", 0xFFFFFFFF), (34, "<H", 0), (20, "<H", 0x55)],
    ids=["no-channels", "all-channels", "no-rate", "highest-rate", "no-bits", "mp3-inside"],
)
def test_refuses_headers_that_say_what_cannot_be(offset: int, layout: str, value: int) -> None:
    data = bytearray(encoded("wav", tone(0.1)))
    struct.pack_into(layout, data, offset, value)
    with pytest.raises(AudioError):
        read_audio(bytes(data), LIMITS)


def test_reads_a_file_that_does_not_tell_its_length() -> None:
    assert read_audio(streamed_flac(tone(0.5), 32_000), LIMITS)[0].shape == (1, 16_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_refuses_samples_that_are_no_numbers(value: float) -> None:
    samples = tone(0.5)
    samples[-7] = value
    with pytest.raises(AudioError, match="not finite"):
        read_audio(encoded("wavf", samples), LIMITS)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "m4a", "aac", "webm"])
def test_damage_never_raises_anything_else(kind: str) -> None:
    chance = random.Random(kind)
    whole = encoded(kind, tone(0.3, rate_of(kind)), rate_of(kind))
    for _ in range(40):
        data = bytearray(whole)
        # Half of the damage where headers are.
        reach = len(data) if chance.random() < 0.5 else min(len(data), 200)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(reach)] = chance.randrange(256)
        try:
            audio, rate = read_audio(bytes(data), AudioLimits(max_seconds=10.0))
        except AudioError:
            continue
        assert audio.isfinite().all()
        assert 1 <= audio.shape[0] <= LIMITS.max_channels
        assert audio.shape[1] <= 10 * rate


RATES = [
    (44_100, 32_000),
    (44_100, 24_000),
    (48_000, 32_000),
    (8_000, 32_000),
    (11_025, 24_000),
    (32_000, 32_000),
]


@pytest.mark.parametrize(("rate", "to_rate"), RATES)
@pytest.mark.parametrize(("channels", "to_channels"), [(2, 1), (1, 2), (3, 2)])
def test_converts_as_audiocraft_does(rate: int, to_rate: int, channels: int, to_channels: int) -> None:
    from audiocraft.data.audio_utils import convert_audio

    audio = torch.randn(channels, rate // 2 + 13, generator=torch.Generator().manual_seed(0))
    ours = convert(audio, rate, to_rate, to_channels)
    assert torch.equal(ours, convert_audio(audio, rate, to_rate, to_channels))


@pytest.mark.parametrize(("rate", "to_rate"), [*RATES, (44_099, 32_000), (44_099, 24_000)])
@pytest.mark.parametrize("sizes", [[1], [1000, 1, 30_000], [1 << 20]])
def test_resamples_a_stream_as_the_whole(rate: int, to_rate: int, sizes: list[int]) -> None:
    seconds = 0.1 if sizes == [1] else 2.0
    audio = torch.randn(2, round(rate * seconds) + 13, generator=torch.Generator().manual_seed(0))
    resampler, position = Resampler(rate, to_rate, 2), 0
    parts: list[torch.Tensor] = []
    while position < audio.shape[1]:
        size = sizes[len(parts) % len(sizes)]
        parts.append(resampler.push(audio[:, position : position + size]))
        position += size
    joined = torch.cat([*parts, resampler.finish()], dim=1)
    whole = convert(audio, rate, to_rate, 2)
    assert joined.shape == whole.shape == (2, audio.shape[1] * to_rate // rate)
    assert torch.allclose(joined, whole, atol=1e-5)


def test_resamples_unrelated_rates_in_little_memory() -> None:
    samples = torch.from_numpy(tone(1.0, 44_099).T.copy())
    audio = convert(samples, 44_099, 32_000, 1)
    assert audio.shape == (1, 32_000)
    expected = torch.from_numpy(tone(1.0).T.copy())
    assert (audio - expected)[:, 500:-500].abs().max() < 1e-3


def test_refuses_to_make_up_channels() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        convert_channels(torch.zeros(3, 10), 4)


@pytest.mark.parametrize("kind", ["ogg", "flac", "mp3"])
def test_reads_every_part_of_a_chain(kind: str) -> None:
    parts = [encoded(kind, tone(seconds, frequency=pitch)) for seconds, pitch in ((0.5, 440), (0.3, 880), (0.4, 220))]
    audio, rate = read_audio(b"".join(parts), LIMITS)
    assert rate == 32_000
    expected = torch.cat([read_audio(part, LIMITS)[0] for part in parts], dim=1)
    assert torch.equal(audio, expected)
    assert abs(audio.shape[1] / rate - 1.2) < 0.01


@pytest.mark.parametrize("kind", ["ogg", "flac", "mp3"])
@pytest.mark.parametrize("second", [(16_000, 1), (32_000, 2)])
def test_a_chain_keeps_its_form(kind: str, second: tuple[int, int]) -> None:
    rate, channels = second
    chain = encoded(kind, tone(0.3)) + encoded(kind, tone(0.3, rate, channels), rate)
    with pytest.raises(AudioError, match="changes its sample rate or channels"):
        read_audio(chain, LIMITS)


def test_a_chain_is_held_to_the_limits() -> None:
    part = encoded("flac", tone(0.5))
    with pytest.raises(AudioError, match="too long"):
        read_audio(part * 5, AudioLimits(max_seconds=2.0))
    assert read_audio(part * 4, AudioLimits(max_seconds=2.0))[0].shape == (1, 64_000)
    with pytest.raises(AudioError, match="chain of 1001 files"):
        read_audio(encoded("flac", tone(0.001)) * 1001, LIMITS)
    with pytest.raises(AudioError, match="truncated or damaged"):
        read_audio(part + part[:60], LIMITS)
