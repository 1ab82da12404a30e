"""A music studio: a song in sections, sounds mixed in, compressed for distribution.

    python clients/examples/studio.py --out out/studio

Each section goes on from the last seconds of the one before, so the song is one piece and not four. Sounds come from a
model for sounds, where the server has one. The result is song.wav, song.ecdc (the codes of the neural codec, what one
would send) and distributed.wav (what a listener decodes from them).
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np

import antiphon

SECTIONS = {
    "intro": "a calm piano melody, 90 bpm, major",
    "verse": "a piano melody with guitar, 90 bpm, major",
    "chorus": "bright trumpet with drums, 90 bpm, major",
    "outro": "slow warm strings, 90 bpm, major",
}
EFFECTS = ("rain", "birds")
EFFECT_LEVEL = 0.25
TAIL_SECONDS = 2.0
SEAM_SECONDS = 0.1


def extend(client: antiphon.Client, song: antiphon.Audio | None, prompt: str, seconds: float) -> antiphon.Audio:
    """Returns the song with `seconds` of the prompt after it."""
    if song is None:
        return client.generate(prompt, duration=seconds, seed=1)
    rate = song.sample_rate_hz
    tail = song.samples[-round(TAIL_SECONDS * rate) :]
    file = io.BytesIO()
    antiphon.Audio(tail, rate).save(file)
    more = client.generate(prompt, duration=len(tail) / rate + seconds, seed=1, continue_from=file.getvalue()).samples
    # The codec gives the tail back nearly as it was; a short fade hides the rest.
    seam = min(len(tail), round(SEAM_SECONDS * rate))
    fade = np.linspace(0, 1, seam, dtype=np.float32)[:, None]
    mixed = song.samples[-seam:] * (1 - fade) + more[len(tail) - seam : len(tail)] * fade
    return antiphon.Audio(np.concatenate([song.samples[:-seam], mixed, more[len(tail) :]]), rate)


def resampled(audio: antiphon.Audio, rate: int) -> np.ndarray:
    """Returns the samples at another rate, through the spectrum of the whole piece."""
    if audio.sample_rate_hz == rate:
        return audio.samples
    wanted = round(len(audio.samples) * rate / audio.sample_rate_hz)
    spectrum = np.fft.rfft(audio.samples, axis=0)[: wanted // 2 + 1]
    return np.fft.irfft(spectrum, wanted, axis=0) * (wanted / len(audio.samples))


def mix(song: antiphon.Audio, effect: antiphon.Audio, second: float) -> antiphon.Audio:
    """Returns the song with a sound in it, faded in and out."""
    samples, rate = song.samples.copy(), song.sample_rate_hz
    start = round(second * rate)
    sound = resampled(effect, rate)[: len(samples) - start]
    edges = np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / (0.2 * rate)
    samples[start : start + len(sound)] += EFFECT_LEVEL * sound * np.minimum(1, edges)[:, None]
    return antiphon.Audio(samples / max(1.0, float(np.abs(samples).max())), rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="host:port; default: ANTIPHON_TARGET, else localhost:8080")
    parser.add_argument("--out", type=Path, default=Path("out/studio"), help="folder for the files")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a section")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with antiphon.Client(options.target) as client:
        song: antiphon.Audio | None = None
        for name, prompt in SECTIONS.items():
            song = extend(client, song, prompt, options.seconds)
            print(f"{name}: {prompt}, until {song.duration_seconds:.1f} s")
        assert song is not None
        sounds = [model.name for model in client.list_models() if model.kind is antiphon.ModelKind.SOUND]
        if sounds:
            made = client.generate_batch(EFFECTS, model=sounds[0], duration=min(4.0, options.seconds), seed=1)
            for index, (name, effect) in enumerate(zip(EFFECTS, made, strict=True)):
                song = mix(song, effect, second=index * 2 * options.seconds)
                print(f"mixed in: {name}, by {sounds[0]}")
        else:
            print("no model for sounds is loaded here: the song stays without them")
        song.save(options.out / "song.wav")
        encoded = client.encode(options.out / "song.wav")
        size = antiphon.write_ecdc(options.out / "song.ecdc", encoded)
        client.decode(antiphon.read_ecdc(options.out / "song.ecdc"), model=encoded.model).save(
            options.out / "distributed.wav"
        )
    pcm = encoded.sample_count * encoded.channel_count * 2
    print(f"song.ecdc: {size} bytes, {encoded.bandwidth_kbps:.2f} kbit/s, 1/{pcm / size:.0f} of 16-bit PCM")
    print(f"{song.duration_seconds:.1f} s of song in {options.out}; took {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
