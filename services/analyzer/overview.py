"""A spectrogram of a piece of any length, in a bounded number of columns."""

from __future__ import annotations

import torch

FFT_SIZE, HOP, BANDS = 2_048, 512, 256
MAX_COLUMNS = 2_048
DYNAMIC_RANGE_DB = 90.0


class Overview:
    """Takes a piece block by block. When there are too many columns, each two become one: memory stays as it is."""

    def __init__(self, rate_hz: int) -> None:
        self._rate = rate_hz
        self._window = torch.hann_window(FFT_SIZE)
        self._samples = torch.zeros(0)
        self._open = torch.zeros(0, BANDS)
        self._columns = torch.zeros(0, BANDS)
        self._frames_per_column = 1
        self._received = 0

    @property
    def seconds(self) -> float:
        """Length of what has come."""
        return self._received / self._rate

    @property
    def span(self) -> tuple[float, float]:
        """From where to where the columns reach, in seconds."""
        begin = (FFT_SIZE - HOP) / 2 / self._rate
        columns = max(1, len(self._columns) * self._frames_per_column)
        return begin, begin + columns * HOP / self._rate

    @property
    def band_hz(self) -> float:
        """Width of a band; the first begins at 0 Hz."""
        return self._rate / 2 / BANDS

    def add(self, audio: torch.Tensor) -> None:
        """Take the next mono samples ``[n]``."""
        self._received += len(audio)
        self._samples = torch.cat([self._samples, audio])
        if len(self._samples) < FFT_SIZE:
            return
        frames = self._samples.unfold(0, FFT_SIZE, HOP)
        power = torch.fft.rfft(frames * self._window).abs().square()[:, 1:]
        self._samples = self._samples[len(frames) * HOP :].clone()
        self._open = torch.cat([self._open, power.view(len(power), BANDS, -1).mean(dim=2)])
        self._close_columns()

    def decibels(self) -> torch.Tensor:
        """Return ``[BANDS, columns]``, dB below the loudest place; the columns share `span` evenly."""
        columns = self._columns
        if not len(columns):
            # Shorter than a frame: what there is, and silence.
            padded = torch.nn.functional.pad(self._samples, (0, FFT_SIZE - len(self._samples)))
            power = torch.fft.rfft(padded * self._window).abs().square()[1:]
            columns = torch.cat([self._open, power.view(1, BANDS, -1).mean(dim=2)])
        levels = 10 * torch.log10(columns.T.clamp(min=1e-20))
        return (levels - levels.max()).clamp(min=-DYNAMIC_RANGE_DB)

    def _close_columns(self) -> None:
        full = len(self._open) // self._frames_per_column * self._frames_per_column
        made = self._open[:full].view(-1, self._frames_per_column, BANDS).mean(dim=1)
        self._columns = torch.cat([self._columns, made])
        self._open = self._open[full:].clone()
        while len(self._columns) > MAX_COLUMNS:
            even = len(self._columns) // 2 * 2
            # An odd one out goes back to where columns are made.
            rest = self._columns[even:].repeat_interleave(self._frames_per_column, dim=0)
            self._open = torch.cat([rest, self._open])
            self._columns = self._columns[:even].view(-1, 2, BANDS).mean(dim=1)
            self._frames_per_column *= 2
