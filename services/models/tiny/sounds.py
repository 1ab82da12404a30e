"""Makes everyday sounds: weather, birds, footsteps, engines and bells from noise and sines, drums from recordings.

Each sound is drawn from a few audible attributes, which also make its captions (``sound_captions.py``). Drums come
from the samples of Sonic Pi (Debian's ``sonic-pi-samples``, public domain by CC0), pitched and repeated at random; all
else is arithmetic of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

Wave = NDArray[np.float64]

SAMPLE_RATE_HZ = 16_000
CLIP_SECONDS = 10.0
SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE_HZ)
RECORDINGS = Path("/usr/share/sonic-pi/samples")

KINDS: dict[str, tuple[str, ...]] = {
    "rain": ("light", "steady", "heavy"),
    "wind": ("soft", "strong", "howling"),
    "sea": ("calm", "rough"),
    "birds": ("one", "several"),
    "footsteps": ("gravel", "wood", "snow"),
    "engine": ("idling", "revving", "motorbike"),
    "bell": ("church", "small"),
    "drums": ("kit", "tabla"),
}
"""Each kind of sound and what it can be like."""
PACES = ("slow", "fast")
"""How soon what repeats comes again: footsteps, bells, drums, waves."""

_RECORDED = {
    "kit": ("bd_haus", "bd_808", "drum_heavy_kick", "drum_snare_hard", "drum_snare_soft", "drum_tom_mid_hard",
            "drum_tom_lo_hard", "drum_cymbal_closed", "sn_dolf", "sn_dub"),
    "tabla": ("tabla_dhec", "tabla_ghe1", "tabla_ghe3", "tabla_ke1", "tabla_na", "tabla_na_o", "tabla_tas1",
              "tabla_te1", "tabla_tun1"),
}  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """The attributes of a sound; its samples and its captions follow from them."""

    kind: str
    detail: str
    pace: str
    distant: bool
    seed: int

    @staticmethod
    def draw(seed: int) -> Sound:
        """Draw a sound whose attributes are uniform over their values; one in four is far away."""
        random = Random(seed)
        kind = random.choice(tuple(KINDS))
        return Sound(kind, random.choice(KINDS[kind]), random.choice(PACES), random.random() < 0.25, seed)

    def wave(self) -> NDArray[np.float32]:
        """Return CLIP_SECONDS of mono sound at 16 kHz, with a peak of 0.4 to 0.9.

        Raises:
            FileNotFoundError: a drum is asked for and the recordings are not installed.
        """
        draws = np.random.default_rng(self.seed)
        wave = _PROGRAMS[self.kind](draws, self.detail, self.pace)[:SAMPLES]
        if self.distant:
            wave = _filtered(wave, 1800.0, "lowpass")
        level = draws.uniform(0.4, 0.5) if self.distant else draws.uniform(0.6, 0.9)
        return (wave / max(1e-6, float(np.abs(wave).max())) * level).astype(np.float32)


def _filtered(wave: Wave, hertz: float | tuple[float, float], kind: str, order: int = 2) -> Wave:
    sections = signal.butter(order, hertz, kind, fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(signal.sosfilt(sections, wave))


def _slow(draws: np.random.Generator, hertz: float, low: float, high: float) -> Wave:
    """Return a curve that wanders between two values, so many turns a second."""
    count = max(4, round(CLIP_SECONDS * hertz) + 4)
    knots = np.linspace(0.0, SAMPLES, count)
    curve = np.interp(np.arange(SAMPLES), knots, draws.uniform(low, high, count))
    width = max(1, round(SAMPLE_RATE_HZ / hertz / 4))
    return np.convolve(curve, np.hanning(width + 2)[1:-1] / np.hanning(width + 2).sum(), mode="same")


def _place(wave: Wave, at: int, part: Wave) -> None:
    end = min(len(wave), at + len(part))
    if at < end:
        wave[at:end] += part[: end - at]


def _decay(seconds: float, rate: float) -> Wave:
    """Return a falling envelope that lasts so long, with a short rise at its start."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.asarray(np.exp(-rate * time) * np.minimum(1.0, time / 0.002))


def _beats(draws: np.random.Generator, period: float, looseness: float) -> list[int]:
    """Return the samples at which something happens again and again."""
    times = np.arange(draws.uniform(0.0, 0.2), CLIP_SECONDS, period)
    return [int(max(0.0, t) * SAMPLE_RATE_HZ) for t in times + draws.normal(0.0, looseness * period, len(times))]


def _rain(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    drops_a_second, hiss = {"light": (25, 0.03), "steady": (90, 0.12), "heavy": (250, 0.35)}[detail]
    wave = hiss * _filtered(draws.normal(size=SAMPLES), (900.0, 6500.0), "bandpass")
    envelope = _decay(0.03, 180.0)
    time = np.arange(len(envelope)) / SAMPLE_RATE_HZ
    for at in draws.integers(0, SAMPLES, round(drops_a_second * CLIP_SECONDS)):
        tone = np.sin(2 * np.pi * draws.uniform(1200, 5500) * time) + 0.4 * draws.normal(size=len(time))
        _place(wave, int(at), draws.uniform(0.1, 0.6) * envelope * tone)
    return wave


def _wind(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    noise = draws.normal(size=SAMPLES)
    place = _slow(draws, 0.5, 0.0, 3.0)
    width = {"soft": 0.6, "strong": 0.45, "howling": 0.12}[detail]
    wave = np.zeros(SAMPLES)
    for index, centre in enumerate((180.0, 320.0, 520.0, 800.0)):
        band = _filtered(noise, (centre * (1 - width), centre * (1 + width)), "bandpass", 1)
        wave += band / band.std() * np.exp(-2.0 * np.square(place - index))
    gusts = _slow(draws, {"soft": 0.3, "strong": 0.8, "howling": 0.6}[detail], 0.15, 1.0)
    return wave * gusts


def _sea(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    period = draws.uniform(2.2, 3.2) if pace == "fast" else draws.uniform(4.0, 5.5)
    phase = (np.arange(SAMPLES) / SAMPLE_RATE_HZ / period + draws.uniform()) % 1.0
    swell = np.where(phase < 0.35, phase / 0.35, np.exp(-(phase - 0.35) * 5.0))
    deep = _filtered(draws.normal(size=SAMPLES), 500.0, "lowpass", 1)
    foam = _filtered(draws.normal(size=SAMPLES), (800.0, 5000.0), "bandpass", 1)
    rest, spray = (0.3, 0.9) if detail == "rough" else (0.08, 0.4)
    return np.asarray((rest + swell) * deep / deep.std() + spray * swell**2 * foam / foam.std())


def _birds(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    wave = np.zeros(SAMPLES)
    for _ in range(1 if detail == "one" else 4):
        base, span = draws.uniform(2200, 4500), draws.uniform(300, 1500)
        length, gap = draws.uniform(0.05, 0.16), draws.uniform(0.03, 0.1)
        loud, rises = draws.uniform(0.4, 1.0), draws.random() < 0.5
        at = draws.uniform(0.0, 0.6)
        while at < CLIP_SECONDS:
            for _ in range(int(draws.integers(2, 7))):
                time = np.arange(round(length * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
                sweep = time / length if rises else 1.0 - time / length
                phase = 2 * np.pi * np.cumsum(base + span * sweep) / SAMPLE_RATE_HZ
                _place(wave, round(at * SAMPLE_RATE_HZ), loud * np.sin(phase) * np.hanning(len(time)))
                at += length + gap
            at += draws.uniform(0.4, 1.4)
    return wave + 0.002 * draws.normal(size=SAMPLES)


def _footsteps(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    wave = np.zeros(SAMPLES)
    period = draws.uniform(0.3, 0.4) if pace == "fast" else draws.uniform(0.55, 0.75)
    band, rate, thud = {
        "gravel": ((1500.0, 6000.0), 18.0, 0.3),
        "wood": ((150.0, 900.0), 45.0, 1.0),
        "snow": ((400.0, 2500.0), 14.0, 0.15),
    }[detail]
    for at in _beats(draws, period, 0.03):
        envelope = _decay(0.25, rate)
        burst = _filtered(draws.normal(size=len(envelope)), band, "bandpass", 1)
        if detail == "gravel":
            burst = burst * (draws.random(len(burst)) < 0.08) * 3.0
        low = np.sin(2 * np.pi * draws.uniform(70, 110) * np.arange(len(envelope)) / SAMPLE_RATE_HZ)
        heel = envelope * burst / (burst.std() + 1e-6) + 3.0 * thud * _decay(0.25, 40.0) * low
        _place(wave, at, draws.uniform(0.7, 1.0) * heel)
    return wave + 0.004 * draws.normal(size=SAMPLES)


def _engine(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    base = {"idling": draws.uniform(24, 34), "revving": draws.uniform(32, 45), "motorbike": draws.uniform(55, 80)}[
        detail
    ]
    speed = base * (_slow(draws, 0.7, 0.8, 3.0) if detail == "revving" else _slow(draws, 1.0, 0.95, 1.06))
    phase = np.cumsum(speed) / SAMPLE_RATE_HZ
    wave = np.zeros(SAMPLES)
    for harmonic in range(1, 25):
        wave += draws.uniform(0.4, 1.0) / harmonic**0.7 * np.sin(2 * np.pi * harmonic * phase + draws.uniform(0, 6.28))
    firing = 0.6 + 0.4 * np.square(np.sin(np.pi * phase))
    exhaust = _filtered(draws.normal(size=SAMPLES), (80.0, 1200.0), "bandpass", 1)
    return _filtered(wave * firing + 0.5 * exhaust * firing / exhaust.std(), 2500.0, "lowpass", 1)


def _bell(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    wave = np.zeros(SAMPLES)
    root = draws.uniform(160, 320) if detail == "church" else draws.uniform(900, 1700)
    period = draws.uniform(1.0, 1.5) if pace == "fast" else draws.uniform(2.2, 3.5)
    rate = 0.9 if detail == "church" else 3.0
    for at in _beats(draws, period, 0.02):
        envelope_seconds = min(5.0, CLIP_SECONDS - at / SAMPLE_RATE_HZ)
        time = np.arange(round(envelope_seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        stroke = np.zeros(len(time))
        for ratio, loud in ((0.5, 0.5), (1.0, 1.0), (1.19, 0.7), (1.5, 0.5), (2.0, 0.8), (2.51, 0.4), (3.01, 0.3)):
            stroke += loud * np.sin(2 * np.pi * root * ratio * time) * np.exp(-rate * ratio * time)
        _place(wave, at, stroke * np.minimum(1.0, time / 0.002))
    return wave


def _drums(draws: np.random.Generator, detail: str, pace: str) -> Wave:
    wave = np.zeros(SAMPLES)
    names = draws.choice(_RECORDED[detail], 2, replace=False)
    pitch = draws.uniform(0.85, 1.2)
    period = draws.uniform(0.24, 0.36) if pace == "fast" else draws.uniform(0.5, 0.75)
    pattern = draws.random(8) < 0.75
    pattern[0] = True
    voices = draws.integers(0, 2, 8)
    for index, at in enumerate(_beats(draws, period, 0.0)):
        if pattern[index % 8]:
            _place(wave, at, draws.uniform(0.7, 1.0) * _recording(str(names[voices[index % 8]]), round(pitch, 2)))
    return wave


@cache
def _recording(name: str, pitch: float) -> Wave:
    """Return a recording of at most two seconds, mono, at 16 kHz times the pitch."""
    samples, rate = soundfile.read(RECORDINGS / f"{name}.flac", always_2d=True)
    mono = samples.mean(axis=1)[: 2 * rate]
    up, down = SAMPLE_RATE_HZ, round(rate * pitch)
    return np.asarray(signal.resample_poly(mono, up // 20, max(1, down // 20)))


_PROGRAMS: dict[str, Callable[[np.random.Generator, str, str], Wave]] = {
    "rain": _rain, "wind": _wind, "sea": _sea, "birds": _birds,
    "footsteps": _footsteps, "engine": _engine, "bell": _bell, "drums": _drums,
}  # fmt: skip
