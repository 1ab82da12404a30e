"""Samples to bytes and back, and WAV files that are valid while they grow."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from antiphon import Audio, Chunk, WavWriter
from antiphon.audio import UNKNOWN_LENGTH, from_pcm, to_pcm16


def ramp(count: int = 100, channels: int = 2) -> np.ndarray:
    return np.linspace(-0.9, 0.9, count * channels, dtype=np.float32).reshape(count, channels)


def read(file: Path | io.BytesIO) -> tuple[int, int, bytes]:
    with wave.open(file if isinstance(file, io.BytesIO) else str(file), "rb") as wav:
        assert wav.getsampwidth() == 2
        return wav.getframerate(), wav.getnchannels(), wav.readframes(wav.getnframes())


def test_floats_stay_as_they_are() -> None:
    samples = ramp() * 3
    np.testing.assert_array_equal(from_pcm(samples.tobytes(), "pcm_f32le", 2), samples)


def test_integers_come_back_exactly_up_to_the_knee() -> None:
    values = np.arange(-29490, 29491, dtype="<i2")
    assert to_pcm16(from_pcm(values.tobytes(), "pcm_s16le", 1)) == values.tobytes()


def test_peaks_are_bent_and_not_cut() -> None:
    rising = np.linspace(0, 1.2, 500, dtype=np.float32)
    pcm = np.frombuffer(to_pcm16(rising), "<i2")
    assert (np.diff(pcm) >= 0).all()
    assert len(np.unique(pcm[rising > 1])) > 10
    assert pcm.max() <= 32767
    np.testing.assert_array_equal(np.frombuffer(to_pcm16(-rising), "<i2"), -pcm)


def test_what_is_no_number_does_no_harm() -> None:
    pcm = np.frombuffer(to_pcm16(np.array([np.nan, np.inf, -np.inf])), "<i2")
    assert pcm.tolist() == [0, 32767, -32767]


@pytest.mark.parametrize(("data", "channels"), [(b"12345", 1), (b"12345678", 3), (b"1234", 0)])
def test_bytes_that_are_not_whole_samples(data: bytes, channels: int) -> None:
    with pytest.raises(ValueError, match="whole"):
        from_pcm(data, "pcm_f32le", channels)


def test_wav_is_valid_after_every_write(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", ramp()
    writer = WavWriter(path, sample_rate_hz=8000)
    for end in range(25, 101, 25):
        writer.write(samples[end - 25 : end])
        assert read(path) == (8000, 2, to_pcm16(samples[:end]))
    writer.close()
    writer.close()
    assert read(path) == (8000, 2, to_pcm16(samples))
    with pytest.raises(ValueError, match="closed"):
        writer.write(samples)


def test_wav_of_16_bit_chunks_holds_their_bytes(tmp_path: Path) -> None:
    data = np.array([[-32768, 32767], [5, -5]], "<i2").tobytes()
    chunk = Chunk(from_pcm(data, "pcm_s16le", 2), 0, 0, 44100, True, data, "pcm_s16le")
    with WavWriter(tmp_path / "a.wav") as wav:
        wav.write(chunk)
        assert wav.sample_count == 2
    assert read(tmp_path / "a.wav") == (44100, 2, data)


def test_wav_without_audio_is_an_empty_wav(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "a.wav", sample_rate_hz=8000, channel_count=1):
        pass
    assert read(tmp_path / "a.wav") == (8000, 1, b"")


def test_wav_does_not_replace_a_file_before_it_has_a_format(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with WavWriter(path) as wav, pytest.raises(ValueError, match="sample_rate_hz"):
        wav.write(ramp())
    assert path.read_bytes() == b"old"


def test_wav_refuses_a_change_of_form(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "a.wav", sample_rate_hz=8000) as wav:
        wav.write(ramp(channels=2))
        with pytest.raises(ValueError, match="channels"):
            wav.write(ramp(channels=1))


def test_wav_inside_a_larger_file_stays_open() -> None:
    file = io.BytesIO()
    file.write(b"before")
    Audio(ramp(), 8000).save(file)
    file.seek(6)
    assert read(io.BytesIO(file.read())) == (8000, 2, to_pcm16(ramp()))


@pytest.mark.parametrize("total", [100, None])
def test_wav_through_a_pipe(total: int | None) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        with (
            os.fdopen(writing, "wb") as sink,
            WavWriter(sink, sample_rate_hz=8000, total_samples=total) as wav,
        ):
            wav.write(ramp()[:60])
            wav.write(ramp()[60:])
        content = source.read()
    assert content[44:] == to_pcm16(ramp())
    length = UNKNOWN_LENGTH if total is None else 400
    assert int.from_bytes(content[40:44], "little") == length
    assert read(io.BytesIO(content)) == (8000, 2, to_pcm16(ramp()))
