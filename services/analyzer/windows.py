"""Audio in windows of one second, with no more than a window and a half in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from services.models.audio import AudioError, AudioSource, Resampler, convert_channels


def windows(source: AudioSource, rate_hz: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each window of a file, mono float32 ``[1, T]`` at `rate_hz`, and where it starts in samples.

    Every window is a second long but the last, which takes in a rest of less than half a second: it is half a
    second to just under one and a half. Only a file that is shorter gives a shorter one. Raises `AudioError`.
    """
    size, start = rate_hz, 0
    held = torch.zeros(1, 0)
    for block in _mono(source, rate_hz):
        held = torch.cat([held, block], dim=1)
        while held.shape[1] >= size + size // 2:
            yield start, held[:, :size]
            held, start = held[:, size:], start + size
    if not start and not held.shape[1]:
        raise AudioError(f"is shorter than one sample at {rate_hz} Hz")
    yield start, held


def _mono(source: AudioSource, rate_hz: int) -> Iterator[torch.Tensor]:
    resampler = Resampler(source.rate_hz, rate_hz, source.channel_count)
    for block in source.blocks:
        yield convert_channels(resampler.push(block), 1)
    yield convert_channels(resampler.finish(), 1)
