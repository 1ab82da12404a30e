"""What happens to audio on its way: lossy codecs, resampling, noise, equalisation, pitch and speed.

None of it is evidence of a neural decoder, so training does the same to both classes, with the same draws for both
halves of a pair. All functions take and return mono float32 ``[T]`` at 24 kHz of the same length.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import torch
import torchaudio

from services.models.resampling import convert

RATE_HZ = 24_000
LossyCodec = Literal["mp3", "aac", "opus"]
_CODERS: dict[LossyCodec, tuple[str, str, str]] = {
    "mp3": ("libmp3lame", "mp3", "fltp"),
    "aac": ("aac", "adts", "fltp"),
    "opus": ("libopus", "ogg", "flt"),
}
_SEMITONES = {2: Fraction(55, 49), 1: Fraction(18, 17), -1: Fraction(17, 18), -2: Fraction(49, 55)}
"""Ratios of small numbers within 0.1 % of the semitones, for a resampler with a small kernel."""

Change = Callable[[torch.Tensor], torch.Tensor]


def lossy(audio: torch.Tensor, codec: LossyCodec, bits_per_second: int, rate_hz: int) -> torch.Tensor:
    """Encode at `rate_hz` and decode again; the coder's delay is not taken out."""
    encoder, container_format, sample_format = _CODERS[codec]
    samples = convert(audio[None], RATE_HZ, rate_hz, 1).clamp(-1, 1).numpy()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(encoder, rate=rate_hz)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = sample_format
        stream.codec_context.bit_rate = bits_per_second
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), sample_format, "mono")
        frame.sample_rate = rate_hz
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        decoded_rate = container.streams.audio[0].rate
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    decoded = torch.from_numpy(np.concatenate(parts).astype(np.float32))
    return _fit(convert(decoded[None], decoded_rate, RATE_HZ, 1)[0], audio.shape[0])


def resampled(audio: torch.Tensor, rate_hz: int) -> torch.Tensor:
    """Resample to `rate_hz` and back."""
    return _fit(convert(convert(audio[None], RATE_HZ, rate_hz, 1), rate_hz, RATE_HZ, 1)[0], audio.shape[0])


def noise(audio: torch.Tensor, snr_db: float, seed: int, slope: float = 0.0) -> torch.Tensor:
    """Add noise `snr_db` below the audio; its amplitude falls with frequency to the power `slope` (0: white)."""
    random = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(audio.shape[0], generator=random))
    spectrum *= torch.arange(1, spectrum.shape[0] + 1).float().pow(-slope)
    wave = torch.fft.irfft(spectrum, audio.shape[0])
    level = audio.square().mean().sqrt() * 10 ** (-snr_db / 20)
    mixed: torch.Tensor = audio + wave * (level / wave.square().mean().sqrt())
    return mixed


def equalised(audio: torch.Tensor, gains_db: list[float]) -> torch.Tensor:
    """Apply a smooth gain curve through `gains_db` at even steps of log frequency from 40 Hz to 12 kHz."""
    frequencies = torch.fft.rfftfreq(audio.shape[0], 1 / RATE_HZ).clamp(min=40.0).log2()
    knots = np.linspace(np.log2(40.0), np.log2(12_000.0), len(gains_db))
    curve = torch.from_numpy(np.interp(frequencies.numpy(), knots, gains_db)).float()
    shaped: torch.Tensor = torch.fft.irfft(torch.fft.rfft(audio) * 10 ** (curve / 20), audio.shape[0])
    return shaped


def pitched(audio: torch.Tensor, semitones: int) -> torch.Tensor:
    """Shift by -2, -1, 1 or 2 semitones at the same length, with a phase vocoder and a resampler."""
    ratio = _SEMITONES[semitones]
    window = torch.hann_window(1024)
    spectrum = torch.stft(audio, 1024, 256, window=window, return_complex=True)
    advance = torch.linspace(0, np.pi * 256, spectrum.shape[0])[:, None]
    stretched = torchaudio.functional.phase_vocoder(spectrum, float(1 / ratio), advance)
    longer = torch.istft(stretched, 1024, 256, window=window)
    return _fit(convert(longer[None], ratio.numerator, ratio.denominator, 1)[0], audio.shape[0])


def sped(audio: torch.Tensor, semitones: int) -> torch.Tensor:
    """Play it faster or slower by as much as shifts it by that many semitones; what is missing is repeated."""
    ratio = _SEMITONES[semitones]
    return _fit(convert(audio[None], ratio.numerator, ratio.denominator, 1)[0], audio.shape[0])


def draw(random: np.random.Generator) -> tuple[str, Change]:
    """Draw one change or a chain of two; the same `Change` goes to both halves of a pair."""
    names, changes = zip(*(_draw_one(random) for _ in range(1 if random.random() < 0.7 else 2)), strict=True)

    def change(audio: torch.Tensor) -> torch.Tensor:
        for one in changes:
            audio = one(audio)
        return audio

    return "+".join(names), change


def _draw_one(random: np.random.Generator) -> tuple[str, Change]:
    kind = random.choice(
        ["mp3", "aac", "opus", "resampled", "noise", "equalised", "pitched", "sped"],
        p=[0.15, 0.13, 0.13, 0.13, 0.15, 0.11, 0.15, 0.05],
    )
    if kind in ("mp3", "aac", "opus"):
        bits = int(random.choice([32_000, 48_000, 64_000, 64_000, 96_000, 128_000]))
        rate = 48_000 if kind == "opus" else int(random.choice([24_000, 32_000, 44_100, 44_100, 48_000]))
        return str(kind), lambda audio: lossy(audio, kind, bits, rate)
    if kind == "resampled":
        rate = int(random.choice([12_000, 16_000, 16_000, 18_000, 20_000, 22_050, 32_000, 44_100, 48_000]))
        return str(kind), lambda audio: resampled(audio, rate)
    if kind == "noise":
        snr, slope, seed = random.uniform(14, 40), random.choice([0.0, 0.0, 0.5, 1.0]), int(random.integers(1 << 31))
        return str(kind), lambda audio: noise(audio, float(snr), seed, float(slope))
    if kind == "equalised":
        gains = [float(gain) for gain in random.uniform(-9, 9, 7)]
        return str(kind), lambda audio: equalised(audio, gains)
    semitones = int(random.choice([-2, -1, 1, 2]))
    return str(kind), lambda audio: (pitched if kind == "pitched" else sped)(audio, semitones)


def _fit(audio: torch.Tensor, length: int) -> torch.Tensor:
    """Cut to `length`, or repeat from the start: silence at an end would tell one change from the next."""
    if audio.shape[0] < length:
        audio = audio.repeat(-(-length // audio.shape[0]))
    return audio[:length]
