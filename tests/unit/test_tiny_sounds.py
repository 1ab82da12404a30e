"""The programs that make everyday sounds, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.models.tiny import sound_captions, sounds
from services.models.tiny.sounds import KINDS, PACES, SAMPLE_RATE_HZ, SAMPLES, Sound


@pytest.fixture(autouse=True)
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the recordings of drums: bursts of noise that fall away."""
    draws = np.random.default_rng(0)
    for names in sounds._RECORDED.values():
        for name in names:
            burst = draws.normal(size=8000) * np.exp(-np.arange(8000) / 800)
            soundfile.write(tmp_path / f"{name}.flac", 0.2 * burst, 44_100)
    monkeypatch.setattr(sounds, "RECORDINGS", tmp_path)
    sounds._recording.cache_clear()


@pytest.mark.parametrize(("kind", "detail"), [(kind, detail) for kind in KINDS for detail in KINDS[kind]])
def test_every_sound_is_heard_from_start_to_end(kind: str, detail: str) -> None:
    for pace in PACES:
        wave = Sound(kind, detail, pace, False, 3).wave()
        assert wave.shape == (SAMPLES,) and wave.dtype == np.float32
        assert 0.59 <= float(np.abs(wave).max()) <= 0.91
        halves = np.square(wave).reshape(2, -1).mean(axis=1)
        assert halves.min() > 1e-6


def test_a_seed_makes_the_same_sound_and_another_a_different_one() -> None:
    one, again, other = (Sound("birds", "one", "slow", False, seed).wave() for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_far_away_is_duller_and_softer() -> None:
    near, far = (Sound("rain", "steady", "slow", distant, 5).wave() for distant in (False, True))

    def brightness(wave: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfft(wave)))
        return float(power[len(power) // 2 :].sum() / power.sum())

    assert brightness(far) < 0.2 * brightness(near)
    assert np.abs(far).max() < np.abs(near).max()


def test_pace_is_audible() -> None:
    def strokes(pace: str) -> int:
        wave = Sound("footsteps", "wood", pace, False, 4).wave()
        frames = np.square(wave).reshape(-1, SAMPLE_RATE_HZ // 50).mean(axis=1)
        loud = frames > 0.1 * frames.max()
        return int((loud[1:] & ~loud[:-1]).sum())

    assert strokes("fast") > 1.4 * strokes("slow")


def test_captions_say_what_the_sound_is() -> None:
    found = [Sound.draw(seed) for seed in range(400)]
    assert {(sound.kind, sound.detail) for sound in found} == set(sound_captions.NAMES)
    words = {*sound_captions.words()}
    for sound in found:
        text = sound_captions.caption(sound, sound.seed)
        assert any(name in text for name in sound_captions.NAMES[sound.kind, sound.detail])
        assert {*text.replace(":", " ").replace(",", " ").split()} <= words


def test_missing_recordings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "RECORDINGS", tmp_path / "nothing")
    with pytest.raises((FileNotFoundError, soundfile.LibsndfileError), match=r"\.flac"):
        Sound("drums", "kit", "fast", False, 1).wave()
