"""Sample rates and channels: AudioCraft's conversion, for whole pieces and for streams of blocks."""

from __future__ import annotations

import functools
import math

import av
import torch
from julius.resample import ResampleFrac


def convert_channels(audio: torch.Tensor, to_channels: int) -> torch.Tensor:
    """Give ``[C, T]`` as many channels, by AudioCraft's rule.

    To mono: the mean; from mono: copies; to fewer: the first ones. Raises `ValueError` for more from several.
    """
    if audio.shape[0] == to_channels:
        return audio
    if to_channels == 1:
        return audio.mean(dim=0, keepdim=True)
    if audio.shape[0] == 1:
        return audio.expand(to_channels, -1)
    if audio.shape[0] > to_channels:
        return audio[:to_channels]
    raise ValueError(f"has {audio.shape[0]} channels and {to_channels} are needed")


def convert(audio: torch.Tensor, rate: int, to_rate: int, to_channels: int) -> torch.Tensor:
    """Return float32 ``[to_channels, T * to_rate // rate]`` of ``[C, T]``.

    The same as AudioCraft's `convert_audio`, in the same order: first the rate, then the channels.
    """
    if rate != to_rate:
        if _has_small_kernel(rate, to_rate):
            audio = _resample(_sinc(*_reduced(rate, to_rate)), audio)
        else:
            resampler = Resampler(rate, to_rate, audio.shape[0])
            audio = torch.cat([resampler.push(audio), resampler.finish()], dim=1)
    return convert_channels(audio, to_channels)


class Resampler:
    """Resamples ``[C, n]`` blocks of one piece; the joined results are those of `convert` on the whole.

    Julius's kernel has a row for each output sample of the reduced ratio: gigabytes for 44,099 to 32,000 Hz.
    Such rates go through FFmpeg's resampler instead.

    `min_block` input samples are gathered before the next result is made: many at once cost least; 0 waits for no
    more than the kernel's reach.
    """

    def __init__(self, rate: int, to_rate: int, channel_count: int, *, min_block: int = 8192) -> None:
        self._min_block = min_block
        self._old, self._new = _reduced(rate, to_rate)
        self._buffer = torch.zeros(channel_count, 0)
        self._received = self._sent = 0
        self._dropped = 0
        """Groups of `_old` input samples that are no longer in the buffer."""
        self._ffmpeg: list[av.AudioResampler] | None = None
        if not _has_small_kernel(rate, to_rate):
            self._rate = rate
            self._ffmpeg = [av.AudioResampler("fltp", "mono", to_rate) for _ in range(channel_count)]
        elif self._old != self._new:
            self._fir = _sinc(self._old, self._new)
            self._width = (int(self._fir.get_buffer("kernel").shape[-1]) - self._old) // 2

    def push(self, block: torch.Tensor) -> torch.Tensor:
        """Take ``[C, n]``; return what is ready, ``[C, m]``, m from 0."""
        self._received += block.shape[1]
        if self._ffmpeg is not None:
            return self._through_ffmpeg(block)
        if self._old == self._new:
            return block
        self._buffer = torch.cat([self._buffer, block], dim=1)
        # A group of outputs needs `_width` inputs after its own, and as many before.
        first = self._sent // self._new
        last = (self._received - self._width) // self._old
        if (last - first) * self._old < max(1, self._min_block):
            return block[:, :0]
        ready = _resample(self._fir, self._buffer)
        ready = ready[:, (first - self._dropped) * self._new : (last - self._dropped) * self._new]
        self._sent += ready.shape[1]
        keep = max(0, last - math.ceil(self._width / self._old))
        self._buffer = self._buffer[:, (keep - self._dropped) * self._old :]
        self._dropped = keep
        return ready

    def finish(self) -> torch.Tensor:
        """Return the rest, ``[C, m]``."""
        missing = self._received * self._new // self._old - self._sent
        if self._ffmpeg is not None:
            rest = self._through_ffmpeg(None)[:, : max(0, missing)]
            return torch.nn.functional.pad(rest, (0, max(0, missing - rest.shape[1])))
        if self._old == self._new or not missing:
            return self._buffer[:, :0]
        return _resample(self._fir, self._buffer)[:, self._sent - self._dropped * self._new :][:, :missing]

    def _through_ffmpeg(self, block: torch.Tensor | None) -> torch.Tensor:
        assert self._ffmpeg is not None
        channels = []
        for index, resampler in enumerate(self._ffmpeg):
            frame = None
            if block is not None:
                frame = av.AudioFrame.from_ndarray(block[index : index + 1].contiguous().numpy(), "fltp", "mono")
                frame.sample_rate = self._rate
            parts = [torch.from_numpy(part.to_ndarray()) for part in resampler.resample(frame)]
            channels.append(torch.cat(parts, dim=1) if parts else torch.zeros(1, 0))
        ready = torch.cat(channels)
        self._sent += ready.shape[1] if block is not None else 0
        return ready


def _reduced(rate: int, to_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, to_rate)
    return rate // divisor, to_rate // divisor


def _has_small_kernel(rate: int, to_rate: int) -> bool:
    old, new = _reduced(rate, to_rate)
    return new * (old + 52 * max(1, old // new)) <= 4_000_000


@functools.lru_cache(maxsize=8)
def _sinc(old: int, new: int) -> ResampleFrac:
    return ResampleFrac(old, new)


def _resample(fir: ResampleFrac, audio: torch.Tensor) -> torch.Tensor:
    resampled: torch.Tensor = fir(audio)
    return resampled
