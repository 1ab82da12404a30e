"""Audio in windows of one length, with little more than one of them in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from services.models.audio import AudioError, AudioSource, Resampler, convert_channels


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A window of a piece. `start` and `fresh`, the samples that no window before it holds, are in samples."""

    start: int
    fresh: int
    audio: torch.Tensor
    """Mono float32 ``[T]``."""


class Windows:
    """Cuts mono audio, in whatever pieces it comes.

    Windows follow each other, each `size` samples, as soon as they are full. The rest at the end is heard in the last
    `size` samples of the piece, which overlap the window before. Only a piece that is shorter gives a shorter one.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = torch.zeros(0)
        self._full = 0
        self.received = 0
        """Samples that have come."""

    def push(self, audio: torch.Tensor) -> Iterator[Window]:
        """Take mono float32 ``[n]``, yield the windows that it fills."""
        self.received += len(audio)
        held = torch.cat([self._held, audio])
        begin = self.received - len(held)
        while self.received - self._full * self._size >= self._size:
            start = self._full * self._size
            self._full += 1
            yield Window(start, self._size, held[start - begin : start - begin + self._size])
        self._held = held[max(0, len(held) - self._size) :].clone()

    def finish(self) -> Iterator[Window]:
        """Yield the last window, if there is a rest."""
        fresh = self.received - self._full * self._size
        if fresh:
            yield Window(self.received - len(self._held), fresh, self._held)


def windows_of(source: AudioSource, rate_hz: int, size: int) -> Iterator[Window]:
    """Yield the windows of a file, at `rate_hz`. Raises `AudioError`."""
    windows = Windows(size)
    resampler = Resampler(source.rate_hz, rate_hz, source.channel_count)
    for block in source.blocks:
        yield from windows.push(mono(resampler.push(block)))
    yield from windows.push(mono(resampler.finish()))
    if not windows.received:
        raise AudioError(f"is shorter than one sample at {rate_hz} Hz")
    yield from windows.finish()


def mono(audio: torch.Tensor) -> torch.Tensor:
    """Return ``[n]`` of ``[C, n]``."""
    return convert_channels(audio, 1)[0]
