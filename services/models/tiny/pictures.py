"""Draws spectrograms of pieces, so that they can be judged by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch


@dataclass(frozen=True)
class Picture:
    """A piece, mono ``[T]``, and the words that it was made from."""

    title: str
    audio: torch.Tensor
    rate: int


def draw_page(path: Path, pictures: Sequence[Picture], columns: int = 2) -> None:
    """Write one PNG with the log spectrogram of every piece, up to 8 kHz, 80 dB deep."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.axis("on")
        size = 2048 * picture.rate // 32_000
        spectrum = torch.stft(picture.audio, size, size // 4, window=torch.hann_window(size), return_complex=True)
        level = 20.0 * (spectrum.abs() + 1e-6).log10()
        shown = level[: round(8000 / picture.rate * size)]
        seconds = len(picture.audio) / picture.rate
        axis.imshow(
            shown, origin="lower", aspect="auto", cmap="magma",
            vmin=float(shown.max()) - 80, vmax=float(shown.max()), extent=(0.0, seconds, 0.0, 8.0),
        )  # fmt: skip
        axis.set_title(picture.title, fontsize=8)
        axis.set_xlabel("s", fontsize=7)
        axis.set_ylabel("kHz", fontsize=7)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
