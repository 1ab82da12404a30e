"""Windows and the overview: the same in any pieces, and bounded however long the audio is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from services.analyzer.overview import FFT_SIZE, HOP, MAX_COLUMNS, Overview
from services.analyzer.windows import Window, Windows

SIZE = 1_000


def cut(audio: torch.Tensor, sizes: list[int]) -> list[Window]:
    windows = Windows(SIZE)
    made: list[Window] = []
    for block in torch.split(audio, sizes):
        made += windows.push(block)
    return [*made, *windows.finish()]


@pytest.mark.parametrize("length", [1, 999, 1_000, 1_001, 1_999, 3_000, 3_500])
def test_windows_are_the_same_in_any_pieces(length: int) -> None:
    audio = torch.arange(length, dtype=torch.float32)
    whole = cut(audio, [length])
    rest = length % SIZE
    starts = [*range(0, length - rest, SIZE), *([max(0, length - SIZE)] if rest else [])]
    assert [window.start for window in whole] == starts
    assert sum(window.fresh for window in whole) == length
    for window in whole:
        assert torch.equal(window.audio, audio[window.start : window.start + SIZE])
    for size in (1, 7, 333, 2_500):
        pieces = [size] * (length // size) + ([length % size] if length % size else [])
        parts = cut(audio, pieces)
        assert [(one.start, one.fresh) for one in parts] == [(one.start, one.fresh) for one in whole]
        assert all(torch.equal(one.audio, other.audio) for one, other in zip(parts, whole, strict=True))


def test_no_more_than_a_window_is_held() -> None:
    windows = Windows(SIZE)
    for _ in range(50):
        list(windows.push(torch.zeros(777)))
        assert len(windows._held) <= SIZE


def test_the_overview_shows_where_a_tone_is() -> None:
    rate = 24_000
    times = torch.arange(2 * rate) / rate
    tone = torch.where(times < 1, torch.sin(2 * torch.pi * 3_000 * times), torch.sin(2 * torch.pi * 9_000 * times))
    overview = Overview(rate)
    for block in torch.split(tone, 5_000):
        overview.add(block)
    levels = overview.decibels()
    begin, end = overview.span
    assert (begin, end) == pytest.approx((0.032, 1.968), abs=0.03)
    assert overview.seconds == 2.0
    for second, hertz in ((0.5, 3_000), (1.5, 9_000)):
        column = int((second - begin) / (end - begin) * levels.shape[1])
        assert int(levels[:, column].argmax()) * overview.band_hz == pytest.approx(hertz, abs=overview.band_hz)
    assert float(levels.max()) == 0


def test_the_overview_of_an_hour_is_bounded_and_still_right() -> None:
    rate, seconds = 8_000, 1_200
    overview = Overview(rate)
    random = torch.Generator().manual_seed(0)
    # Loud in one stretch out of twelve.
    for second in range(seconds):
        overview.add((1.0 if 500 <= second < 600 else 0.01) * torch.randn(rate, generator=random))
        assert len(overview._columns) <= MAX_COLUMNS
        assert len(overview._open) <= 64
    levels = overview.decibels().mean(dim=0).numpy()
    assert MAX_COLUMNS / 2 <= len(levels) <= MAX_COLUMNS
    begin, end = overview.span
    assert end == pytest.approx(seconds, abs=5)
    loud = np.flatnonzero(levels > levels.max() - 20) / len(levels) * (end - begin)
    assert (loud.min(), loud.max()) == pytest.approx((500, 600), abs=3)


def test_the_overview_of_less_than_a_frame_is_one_column() -> None:
    overview = Overview(24_000)
    overview.add(torch.randn(FFT_SIZE - HOP, generator=torch.Generator().manual_seed(0)))
    assert overview.decibels().shape[1] == 1
