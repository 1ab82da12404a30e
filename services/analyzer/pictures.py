"""Pictures of the evidence, as PNG: the piece with its suspect windows, and what each family made of the worst one."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from services.analyzer.findings import Conclusion, WindowFinding
from services.analyzer.overview import Overview
from services.models.discriminators import FeatureMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "mpd": "multi-period discriminator",
    "msd": "multi-scale discriminator",
    "msstftd": "multi-scale STFT discriminator",
}
_SUSPECT_COLOUR = "#d62728"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG, and the stretch of audio that it shows, in seconds."""

    name: str
    png: bytes
    start: float
    duration: float


def draw(
    overview: Overview,
    windows: Sequence[WindowFinding],
    conclusion: Conclusion,
    window: WindowFinding,
    maps: Sequence[FeatureMap],
) -> list[Picture]:
    """Draw the spectrogram of a piece, and the heat maps of one of its windows, a picture a family."""
    pictures = [Picture("spectrogram", _spectrogram(overview, windows, conclusion), 0.0, overview.seconds)]
    for family, title in _TITLES.items():
        own = [one for one in maps if one.family == family]
        pictures.append(Picture(family, _heat_maps(own, title, window), window.start, window.duration))
    return pictures


def _figure(width: float, height: float) -> Figure:
    # Here and not above: it takes a while, and most calls want no pictures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _spectrogram(overview: Overview, windows: Sequence[WindowFinding], conclusion: Conclusion) -> bytes:
    figure = _figure(12, 6)
    chance, image = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    figure.subplots_adjust(left=0.07, right=0.98, top=0.92, bottom=0.09, hspace=0.08)
    levels = overview.decibels()
    image.imshow(
        levels.numpy(),
        origin="lower",
        aspect="auto",
        extent=(*overview.span, 0, overview.band_hz * len(levels) / 1000),
        cmap="magma",
        interpolation="nearest",
    )
    image.set(xlim=(0, overview.seconds), xlabel="seconds", ylabel="kHz")
    chance.set(ylim=(-0.02, 1.02), ylabel="generated")
    for window in windows:
        end = window.start + window.duration
        if window.probability is not None:
            chance.hlines(window.probability, window.start, end, color="#202020", linewidth=1.5)
        if window.finding == "generated":
            for axes in (chance, image):
                axes.axvspan(window.start, end, color=_SUSPECT_COLOUR, alpha=0.3, linewidth=0)
    if conclusion.thresholds is not None:
        for level in (conclusion.thresholds.real, conclusion.thresholds.generated):
            chance.axhline(level, color="#808080", linewidth=0.8, linestyle="--")
    figure.suptitle(_heading(conclusion), parse_math=False)
    return _png(figure)


def _heading(conclusion: Conclusion) -> str:
    if conclusion.finding is None:
        return f"no verdict: {conclusion.reason}"
    heading = f"verdict: {conclusion.finding}"
    if conclusion.probability is not None:
        heading += f", probability of a neural decoder {conclusion.probability:.3f}"
    return f"{heading}; windows that are suspect by themselves in red"


def _heat_maps(maps: Sequence[FeatureMap], title: str, window: WindowFinding) -> bytes:
    """Draw the layers of a family, a row for each sub-discriminator, from the first layer to the last."""
    rows = max(one.sub_discriminator for one in maps) + 1
    columns = max(one.layer for one in maps) + 1
    figure = _figure(2.0 * columns + 1, 1.3 * rows + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.08, right=0.99, top=1 - 0.75 / (1.3 * rows + 1.1), bottom=0.06, hspace=0.15, wspace=0.06
    )
    for one in maps:
        axes = grid[one.sub_discriminator][one.layer]
        axes.imshow(_levels(one), origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        if not one.layer:
            axes.set_ylabel(_label(one))
        if not one.sub_discriminator:
            axes.set_title(f"layer {one.layer}", fontsize=9)
    end = window.start + window.duration
    figure.suptitle(f"{title}, {window.start:.2f} to {end:.2f} s; time goes to the right", fontsize=11)
    return _png(figure)


def _levels(one: FeatureMap) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return rows over time, from 0 to 1 between the map's own extremes; a few outliers are cut off."""
    values = one.values.numpy().astype(np.float64)
    rows = values[None] if values.ndim == 1 else values.T
    low, high = np.percentile(rows, (1, 99))
    levels: np.ndarray[Any, np.dtype[np.float64]] = np.clip((rows - low) / max(high - low, 1e-12), 0, 1)
    return levels


def _label(one: FeatureMap) -> str:
    if one.family == "mpd":
        return f"period {one.values.shape[1]}"
    return f"scale {one.sub_discriminator + 1}" if one.family == "msd" else f"FFT {2 * (one.values.shape[1] - 1)}"
