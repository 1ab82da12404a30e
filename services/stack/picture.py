"""A picture of a piece: its waveform above, its mel spectrogram below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

MEL_BANDS = 96
FFT_SIZE = 2048
HOP = 256
DYNAMIC_RANGE_DB = 80.0


def draw(samples: NDArray[np.float32], sample_rate_hz: int, title: str, path: Path) -> None:
    """Writes a PNG of `samples` [n, channels] (full scale 1.0) to `path`."""
    mono = samples.mean(axis=1)
    seconds = len(mono) / sample_rate_hz
    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    # A title is the user's prompt: matplotlib must not read a dollar sign in it as mathematics.
    figure.suptitle(title, parse_math=False, wrap=True)
    wave, mel = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    wave.plot(np.arange(len(mono)) / sample_rate_hz, mono, linewidth=0.3, color="#205080")
    wave.set(ylim=(-1, 1), ylabel="amplitude")
    image = mel.imshow(
        _mel_db(mono, sample_rate_hz),
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, MEL_BANDS),
        cmap="magma",
    )
    mel.set(xlim=(0, seconds), xlabel="seconds", ylabel="mel band")
    figure.colorbar(image, ax=mel, label="dB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _mel_db(mono: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Returns the mel spectrogram [MEL_BANDS, T] in dB below its peak."""
    # Here and not above: it takes seconds, and the demo measures its stream before it draws.
    import torch
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    spectrogram = MelSpectrogram(sample_rate=sample_rate_hz, n_fft=FFT_SIZE, hop_length=HOP, n_mels=MEL_BANDS)
    power = spectrogram(torch.from_numpy(np.ascontiguousarray(mono)))
    decibels = AmplitudeToDB(top_db=DYNAMIC_RANGE_DB)(power)
    below_peak: NDArray[np.float32] = (decibels - decibels.max()).numpy()
    return below_peak
