"""The estimators of the evaluation, on signals whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from services.models.tiny.estimators import Classifier, frechet_distance, harmony, pulse, timbre, within
from services.models.tiny.listen import listen

RATE, SECONDS = 16_000, 4
TIME = torch.arange(RATE * SECONDS) / RATE


def clicks(bpm: float) -> torch.Tensor:
    """Return short bursts of noise on each beat."""
    phase = TIME % (60.0 / bpm)
    noise = torch.randn(len(TIME), generator=torch.Generator().manual_seed(round(bpm)))
    return noise * torch.exp(-60.0 * phase)


def chord(pitches: list[int]) -> torch.Tensor:
    tones = [torch.sin(2 * math.pi * 440.0 * 2 ** ((pitch - 69) / 12) * TIME) for pitch in pitches]
    return torch.stack(tones).sum(0)


@pytest.mark.parametrize("bpm", [60, 75, 100, 150])
def test_the_pulse_repeats_after_a_beat(bpm: int) -> None:
    bands = pulse(clicks(bpm)[None], RATE).view(3, -1)
    strongest = (int(bands[2].argmax()) + 20) * 0.01
    beats = strongest * bpm / 60
    assert abs(beats - round(beats)) < 0.05 * beats and round(beats) >= 1


def test_tempo_can_be_learned_from_the_pulse() -> None:
    tempi = [60, 80, 100, 120, 140]
    inputs = pulse(torch.stack([clicks(bpm + jitter) for bpm in tempi for jitter in (-1.5, -0.5, 0.5, 1.5)]), RATE)
    model = Classifier(inputs, torch.arange(5).repeat_interleave(4), 5)
    heard = model.predict(pulse(torch.stack([clicks(bpm + 1.0) for bpm in tempi]), RATE))
    assert heard.tolist() == [0, 1, 2, 3, 4]


def test_mode_is_learned_in_some_keys_and_heard_in_the_others() -> None:
    third = {0: 4, 1: 3}  # major, minor
    rows = [(root, mode) for root in range(12) for mode in third]
    audio = torch.stack([chord([48 + root, 60 + root, 60 + root + third[mode], 67 + root]) for root, mode in rows])
    views = harmony(audio, RATE)
    assert views.shape[:2] == (24, 12)
    known = [i for i, (root, _) in enumerate(rows) if root % 3]
    targets = torch.tensor([root * 2 + mode for root, mode in rows])
    model = Classifier(views[known], targets[known], 2, hidden=16)
    assert model.predict(views).tolist() == [mode for _, mode in rows]
    assert torch.allclose(model.probabilities(views).sum(-1), torch.ones(24))


def test_timbre_tells_a_tone_from_noise_at_any_level() -> None:
    tone, noise = chord([60, 64]), torch.randn(len(TIME), generator=torch.Generator().manual_seed(0))
    features = timbre(torch.stack([tone, 0.1 * tone, noise, 0.1 * noise]), RATE)
    distances = torch.cdist(features, features)
    assert distances[0, 1] < 0.05 * distances[0, 2] and distances[2, 3] < 0.05 * distances[0, 2]


def test_frechet_distance_of_gaussians() -> None:
    draws = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert abs(frechet_distance(draws, draws)) < 1e-6
    assert frechet_distance(draws, draws + 2.0) == pytest.approx(24.0, rel=1e-6)
    # Of a covariance and four times itself: the trace of C + 4C - 2 * 2C.
    assert frechet_distance(draws, 2.0 * draws) == pytest.approx(float(torch.cov(draws.T).trace()), rel=0.05)


def test_within_counts_both_edges() -> None:
    assert within([94.0, 106.0, 107.0, 93.0], [100.0] * 4) == 0.5


def test_listening_finds_the_grid_and_the_scale() -> None:
    steps = [0, 4, 7, 12, 9, 5, 2, 11]
    notes = torch.cat([chord([62 + step])[: RATE // 4] * torch.exp(-6 * TIME[: RATE // 4]) for step in steps * 2])
    heard = listen(notes, RATE)
    assert (heard.tempo_bpm, heard.scale) == (120, "D major or B minor")
    assert heard.on_grid > 0.9 and heard.on_scale > 0.95
    noise = listen(0.1 * torch.randn(len(notes), generator=torch.Generator().manual_seed(2)), RATE)
    assert noise.on_grid < 0.5 and noise.on_scale < 0.75
