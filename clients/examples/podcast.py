"""A podcast kit: an intro and five transitions, all equally loud.

    python clients/examples/podcast.py --out out/podcast

The files fade out, and are brought to -16 LUFS, what podcast directories ask for. Where that would pass full scale, a
piece stays quieter, and the program says so. Transitions come from a model for sounds where the server has one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import antiphon

INTRO = "bright guitar with drums, 120 bpm, major"
TRANSITIONS = {
    True: ("bell", "rain", "wind", "birds", "drums"),
    False: (
        "a fast marimba, 140 bpm, major",
        "a bright trumpet, 120 bpm, major",
        "a soft piano, 90 bpm, major",
        "warm strings, 80 bpm, minor",
        "an organ, 100 bpm, major",
    ),
}
"""What is asked of a model for sounds, and of one for music."""
TARGET_LUFS = -16.0
PEAK = 0.89
"""1 dB below full scale: lossy formats overshoot."""


def loudness(audio: antiphon.Audio) -> float:
    """Returns the integrated loudness in LUFS as ITU-R BS.1770-4 has it: weighted, in blocks of 400 ms, gated twice."""
    rate = audio.sample_rate_hz
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * len(audio.samples), 1 / rate) / rate)
    # The two filters of the standard by their analog parameters, so that they fit any rate.
    shelf, highpass = np.tan(np.pi * 1681.9745 / rate), np.tan(np.pi * 38.135471 / rate)
    top, middle = 10 ** (3.99984385 / 20), 10 ** (3.99984385 / 20 * 0.499666774)
    lift = (
        (top + middle * shelf / 0.70717524 + shelf**2)
        + 2 * (shelf**2 - top) * z
        + (top - middle * shelf / 0.70717524 + shelf**2) * z**2
    ) / ((1 + shelf / 0.70717524 + shelf**2) + 2 * (shelf**2 - 1) * z + (1 - shelf / 0.70717524 + shelf**2) * z**2)
    scale = 1 + highpass / 0.50032704 + highpass**2
    cut = (1 - z) ** 2 / (
        1 + 2 * (highpass**2 - 1) / scale * z + (1 - highpass / 0.50032704 + highpass**2) / scale * z**2
    )
    spectrum = np.fft.rfft(audio.samples, 2 * len(audio.samples), axis=0) * (lift * cut)[:, None]
    weighted = np.fft.irfft(spectrum, axis=0)[: len(audio.samples)]
    block, step = round(0.4 * rate), round(0.1 * rate)
    starts = range(0, max(1, len(weighted) - block + 1), step)
    power = np.array([np.mean(weighted[start : start + block] ** 2, axis=0).sum() for start in starts])
    levels = -0.691 + 10 * np.log10(np.maximum(power, 1e-12))
    loud = power[levels > -70]
    if not len(loud):
        return -np.inf
    relative = -0.691 + 10 * np.log10(loud.mean()) - 10
    return float(-0.691 + 10 * np.log10(power[(levels > -70) & (levels > relative)].mean()))


def finished(audio: antiphon.Audio, fade_seconds: float) -> antiphon.Audio:
    """Returns the piece faded out and normalised."""
    samples = audio.samples.copy()
    fade = min(len(samples), round(fade_seconds * audio.sample_rate_hz))
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None] ** 2
    level = loudness(antiphon.Audio(samples, audio.sample_rate_hz))
    gain = 10 ** ((TARGET_LUFS - level) / 20) if np.isfinite(level) else 1.0
    room = PEAK / max(float(np.abs(samples).max()), 1e-9)
    return antiphon.Audio(samples * np.float32(min(gain, room)), audio.sample_rate_hz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="host:port; default: ANTIPHON_TARGET, else localhost:8080")
    parser.add_argument("--out", type=Path, default=Path("out/podcast"), help="folder for the files")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of the intro")
    parser.add_argument("--transition-seconds", type=float, default=2.5, help="length of a transition")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with antiphon.Client(options.target) as client:
        sounds = [model.name for model in client.list_models() if model.kind is antiphon.ModelKind.SOUND]
        if not sounds:
            print("no model for sounds is loaded here: the transitions are music")
        model = sounds[0] if sounds else ""
        texts = TRANSITIONS[bool(sounds)]
        pieces = {"intro": client.generate(INTRO, duration=options.seconds, seed=1)}
        made = client.generate_batch(texts, model=model, duration=options.transition_seconds, seed=1)
        pieces |= {f"transition-{index}": piece for index, piece in enumerate(made, 1)}
    for name, piece in pieces.items():
        audio = finished(piece, fade_seconds=piece.duration_seconds / 4)
        audio.save(options.out / f"{name}.wav")
        level = loudness(audio)
        quieter = "" if level > TARGET_LUFS - 0.1 else ", as loud as its peaks let it"
        print(f"{name}.wav: {piece.started.prompts[0][0]}, {level:.1f} LUFS{quieter}")
    print(f"{len(pieces)} files in {options.out}; took {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
