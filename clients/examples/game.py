"""Game audio: ambient beds from a cache, and music that follows the tension of a scene.

    python clients/examples/game.py --out out/game

The beds are made once and looped; another run finds them on the disk. The music is a single stream without an end: the
weights of two prompts follow the tension, each change fades in over half a second, and nothing is cut. Credit keeps the
server one second ahead of what the game has taken, so a change is heard a second later. A game grants it from its audio
callback; this program, which plays nothing, as soon as it has written.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np

import antiphon

AMBIENCE = {
    "forest": ("birds", "a quiet slow guitar, 60 bpm, major"),
    "ocean": ("sea", "slow soft strings, 60 bpm, major"),
    "city": ("footsteps", "a slow marimba, 70 bpm, minor"),
    "dungeon": ("wind", "a dark slow organ, 60 bpm, minor"),
}
"""A place: what a model for sounds is asked, and what a model for music where there is none."""
CALM, BATTLE = "slow calm piano, 70 bpm, major", "fast trumpet with drums, 150 bpm, minor"
SCENE = ((0.0, 0.0), (0.3, 0.1), (0.5, 0.6), (0.7, 1.0), (0.85, 0.9), (1.0, 0.0))
"""(part of the scene, tension from 0 to 1), straight lines between."""
AHEAD_SECONDS = 1.0
LOOP_FADE_SECONDS = 0.5


def beds(client: antiphon.Client, cache: Path, seconds: float) -> dict[str, Path]:
    """Returns a loop for each place; makes in one call those that the cache lacks."""
    sounds = [model.name for model in client.list_models() if model.kind is antiphon.ModelKind.SOUND]
    if not sounds:
        print("no model for sounds is loaded here: the beds are music")
    model = sounds[0] if sounds else ""
    prompts = {place: texts[0 if sounds else 1] for place, texts in AMBIENCE.items()}
    key = {p: hashlib.sha256(f"{model}|{text}|{seconds}".encode()).hexdigest()[:12] for p, text in prompts.items()}
    paths = {place: cache / f"{place}-{key[place]}.wav" for place in prompts}
    missing = [place for place, path in paths.items() if not path.exists()]
    if missing:
        length = seconds + LOOP_FADE_SECONDS
        made = client.generate_batch([prompts[place] for place in missing], model=model, duration=length, seed=1)
        for place, audio in zip(missing, made, strict=True):
            looped(audio).save(paths[place])
    print(f"ambience: {len(missing)} made, {len(paths) - len(missing)} from the cache")
    return paths


def looped(audio: antiphon.Audio) -> antiphon.Audio:
    """Returns the piece with its end faded into its beginning, so that it can be played round and round."""
    fade = round(LOOP_FADE_SECONDS * audio.sample_rate_hz)
    body, end = audio.samples[:-fade].copy(), audio.samples[-fade:]
    # Equal power: the two are not alike, so their powers add and not their amplitudes.
    angle = np.linspace(0, np.pi / 2, fade, dtype=np.float32)[:, None]
    body[:fade] = body[:fade] * np.sin(angle) + end * np.cos(angle)
    return antiphon.Audio(body, audio.sample_rate_hz)


def weights(tension: float) -> list[str | tuple[str, float]]:
    """Returns both prompts, weighed by the tension."""
    return [(CALM, max(0.01, 1 - tension)), (BATTLE, max(0.01, tension))]


def score(client: antiphon.Client, path: Path, seconds: float) -> None:
    """Writes the music of the scene."""
    places, tensions = zip(*SCENE, strict=True)
    told = 0.0
    with (
        client.stream_generate(weights(0), endless=True, initial_credit=AHEAD_SECONDS, seed=1) as stream,
        antiphon.WavWriter(path) as wav,
    ):
        assert stream.started is not None
        half_a_second = round(stream.started.frame_rate_hz / 2)
        for chunk in stream:
            wav.write(chunk)
            tension = float(np.interp(wav.duration_seconds / seconds, places, tensions))
            if abs(tension - told) > 0.05:
                stream.update(weights(tension), blend_steps=half_a_second)
                told = tension
                print(f"{wav.duration_seconds:5.1f} s: tension {'#' * round(tension * 20)}")
            stream.grant(chunk.duration_seconds)
            if wav.duration_seconds >= seconds:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="host:port; default: ANTIPHON_TARGET, else localhost:8080")
    parser.add_argument("--out", type=Path, default=Path("out/game"), help="folder for the music and the cache")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the scene")
    parser.add_argument("--bed-seconds", type=float, default=8.0, help="length of an ambient loop")
    options = parser.parse_args()
    cache = options.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with antiphon.Client(options.target) as client:
        beds(client, cache, options.bed_seconds)
        score(client, options.out / "scene.wav", options.seconds)
    print(f"{options.seconds:.1f} s of scene in {options.out}; took {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
