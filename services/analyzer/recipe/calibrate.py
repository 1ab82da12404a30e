"""Turns mean logits into a probability and a verdict, on recordings that no training heard; writes the weights.

    python -m services.analyzer.recipe.calibrate

Logistic regression over the sub-discriminators, on single windows, clean and changed, both classes alike. Griffin-Lim
stays out: the probability is that of a neural decoder. How much more a file says than a window is one number, fitted on
files of six windows. A verdict wants a probability of nine in ten. If that would call one clean real file, or window,
in two hundred generated, or one generated file in twenty real, it wants as much more as it takes to stay below.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from services.analyzer.recipe import heldout, networks, train
from services.analyzer.recipe.decoders import SHARES
from services.analyzer.recipe.sources import SOURCES
from services.models.calibration import Calibration, ModelCard, Thresholds, probability, save_card

FOLDER = Path("services/analyzer/weights")
NAME = "antiphon-detector-1"
_SAMPLES = 6 * 24_000
_FALSE_POSITIVES = 0.005
_MISSES = 0.05
_CONFIDENCE = 0.9
_GAINS = np.geomspace(0.05, 30.0, 60)


def fit(names: tuple[str, ...], real: np.ndarray, generated: np.ndarray) -> Calibration:
    """Fit on features ``[N, windows, F]`` of each class."""
    size = len(names)
    windows = np.concatenate([real.reshape(-1, size), generated.reshape(-1, size)])
    labels = np.repeat([0, 1], [real.size // size, generated.size // size])
    mean, scale = windows.mean(axis=0), windows.std(axis=0) + 1e-6
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit((windows - mean) / scale, labels)
    calibration = Calibration(
        features=names,
        mean=tuple(map(float, mean)),
        scale=tuple(map(float, scale)),
        coef=tuple(map(float, model.coef_[0])),
        intercept=float(model.intercept_[0]),
        file_gain=0.0,
    )
    return Calibration(**{**vars(calibration), "file_gain": _fit_gain(calibration, real, generated)})


def window_log_odds(calibration: Calibration, features: np.ndarray) -> np.ndarray:
    """Return ``[N, windows]`` log-odds of features ``[N, windows, F]``."""
    standard = (features - np.array(calibration.mean)) / np.array(calibration.scale)
    values: np.ndarray = standard @ np.array(calibration.coef) + calibration.intercept
    return values


def file_log_odds(calibration: Calibration, windows: np.ndarray) -> np.ndarray:
    """Return ``[N]`` log-odds of files from those of their windows ``[N, windows]``."""
    return np.array([calibration.file_log_odds(float(row.mean()), len(row)) for row in windows])


def _fit_gain(calibration: Calibration, real: np.ndarray, generated: np.ndarray) -> float:
    """Return the gain with the least mean log loss over both classes' files."""
    means = [window_log_odds(calibration, features).mean(axis=1) for features in (real, generated)]

    def loss(gain: float) -> float:
        factor = (1 + gain) / (1 + gain / real.shape[1])
        return float(np.logaddexp(0, means[0] * factor).mean() + np.logaddexp(0, -means[1] * factor).mean())

    return float(min(_GAINS, key=loss))


def choose(calibration: Calibration, clean: np.ndarray, generated: np.ndarray) -> Thresholds:
    """Choose thresholds from features of clean real and of all generated audio."""
    windows = window_log_odds(calibration, clean)
    files = file_log_odds(calibration, windows)
    high = max(np.quantile(windows, 1 - _FALSE_POSITIVES), np.quantile(files, 1 - _FALSE_POSITIVES))
    low = np.quantile(file_log_odds(calibration, window_log_odds(calibration, generated)), _MISSES)
    return Thresholds(
        generated=_rounded(max(_CONFIDENCE, probability(float(high))), up=True),
        real=_rounded(min(1 - _CONFIDENCE, probability(float(low))), up=False),
    )


def _rounded(value: float, up: bool) -> float:
    """Round to four places, away from one half, and stay off 0 and 1."""
    value = (math.ceil if up else math.floor)(value * 10_000) / 10_000
    return min(max(value, 0.0001), 0.9999)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    networks.save(FOLDER, train.trained())
    # What is calibrated is what ships: the weights as they were rounded.
    shipped = networks.load(FOLDER, networks.SHAPES)
    rows = heldout.is_neural("calibration")
    features = {
        name: networks.score_windows(shipped, heldout.load("calibration", name)[rows, :_SAMPLES])
        for name in ("clean.real", "clean.generated", "changed.real", "changed.generated")
    }
    real = np.concatenate([features["clean.real"], features["changed.real"]])
    generated = np.concatenate([features["clean.generated"], features["changed.generated"]])
    calibration = fit(networks.feature_names(shipped), real, generated)
    thresholds = choose(calibration, features["clean.real"], generated)
    card = ModelCard(
        name=NAME,
        sample_rate_hz=24_000,
        window_seconds=1.0,
        license="MIT",
        training_sources=(
            *(f"Debian {source.package} ({source.kind}, {source.license})" for source in SOURCES if not source.foreign),
            "Antiphon's own renders (MuseScore General soundfont, MIT)",
            *(f"decoder {name}" for shares in SHARES.values() for name in shares),
        ),
        architecture=networks.SHAPES,
        calibration=calibration,
        thresholds=thresholds,
        figures={},
    )
    save_card(FOLDER, card)
    print(json.dumps({"thresholds": vars(thresholds), "file_gain": calibration.file_gain, "coef": calibration.coef}))


if __name__ == "__main__":
    main()
