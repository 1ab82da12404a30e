"""The schedule of a piece against AudioCraft's own patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from audiocraft.modules.codebooks_patterns import DelayedPatternProvider, ParallelPatternProvider

from services.models.patterns import Schedule

PROVIDERS = {
    "delay": DelayedPatternProvider(4, delays=[0, 1, 2, 3]),
    "uneven delay": DelayedPatternProvider(4, delays=[0, 2, 2, 5]),
    "stereo delay": DelayedPatternProvider(8, delays=[0, 0, 1, 1, 2, 2, 3, 3]),
    "flattened delay": DelayedPatternProvider(4, delays=[0, 1, 2, 3], flatten_first=2),
    "late delay": DelayedPatternProvider(4, delays=[0, 1, 2, 3], empty_initial=2),
    "parallel": ParallelPatternProvider(4),
}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Any:
    return PROVIDERS[request.param]


@pytest.mark.parametrize("frame_count", [1, 2, 3, 7, 50])
def test_each_code_is_predicted_once_in_the_step_of_audiocraft(provider: Any, frame_count: int) -> None:
    schedule = Schedule(provider, frame_count)
    codes = torch.arange(provider.n_q * frame_count).view(1, provider.n_q, frame_count)
    pattern = provider.get_pattern(frame_count)
    sequence, _, mask = pattern.build_pattern_sequence(codes, special_token=-1)
    assert schedule.step_count == sequence.shape[-1] - 1
    for step, row in enumerate(schedule.frames):
        expected = sequence[0, :, step + 1].tolist()
        ours = [k * frame_count + frame if frame >= 0 else -1 for k, frame in enumerate(row)]
        assert ours == expected
        assert ((row >= 0) == mask[:, step + 1].numpy()).all()


@pytest.mark.parametrize("frame_count", [1, 3, 50])
def test_filling_codes_step_by_step_reverts_the_pattern(provider: Any, frame_count: int) -> None:
    schedule = Schedule(provider, frame_count)
    pattern = provider.get_pattern(frame_count)
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randint(0, 512, (1, provider.n_q, schedule.step_count + 1), generator=generator)
    expected, _, _ = pattern.revert_pattern_sequence(sequence, special_token=-1)
    codes = np.full((provider.n_q, frame_count), -1)
    for step, row in enumerate(schedule.frames):
        for k in np.flatnonzero(row >= 0):
            codes[k, row[k]] = sequence[0, k, step + 1]
    assert (codes == expected[0].numpy()).all()


@pytest.mark.parametrize("frame_count", [1, 3, 50])
def test_whole_frames_are_those_whose_codes_are_all_known(provider: Any, frame_count: int) -> None:
    schedule = Schedule(provider, frame_count)
    known = np.zeros((provider.n_q, frame_count), dtype=bool)
    for steps in range(schedule.step_count + 1):
        whole = np.logical_and.accumulate(known.all(axis=0)).sum()
        assert schedule.whole_frames(steps) == whole
        if steps < schedule.step_count:
            row = schedule.frames[steps]
            known[row >= 0, row[row >= 0]] = True
    assert known.all()


def test_the_delay_of_musicgen_takes_three_steps_more() -> None:
    schedule = Schedule(PROVIDERS["delay"], 5)
    assert schedule.step_count == 5 + 3
    assert schedule.frames[:4].tolist() == [[0, -1, -1, -1], [1, 0, -1, -1], [2, 1, 0, -1], [3, 2, 1, 0]]
    assert [schedule.whole_frames(steps) for steps in range(9)] == [0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_parallel_codes_take_a_step_a_frame() -> None:
    schedule = Schedule(PROVIDERS["parallel"], 5)
    assert schedule.step_count == 5
    assert schedule.frames.tolist() == [[t] * 4 for t in range(5)]
    assert [schedule.whole_frames(steps) for steps in range(6)] == [0, 1, 2, 3, 4, 5]
