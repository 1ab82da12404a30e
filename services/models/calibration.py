"""What a detector's scores amount to: the card that lies beside the discriminators' weights.

`model.json` says how the networks are built, on what they were trained, and how their logits become a probability
and a verdict. A window's features are the mean logits of its sub-discriminators, high for real audio. Logistic
regression turns them into the log-odds that a neural decoder made the window. A file's log-odds are the mean over
its windows times a gain that grows with their number: windows of one file err together, so ten of them say more
than one, but not ten times as much. Serving needs no scikit-learn for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

CARD_FILE = "model.json"
WEIGHTS_FILE = "discriminators.safetensors"
FAMILIES = ("mpd", "msd", "msstftd")

Finding = Literal["real", "generated", "inconclusive"]


class CardError(ValueError):
    """A model card that cannot be used; the message says what and where."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """From mean logits to the log-odds of "a neural decoder made this"."""

    features: tuple[str, ...]
    """Names in order: family, dot, number of the sub-discriminator: "mpd.0"."""
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coef: tuple[float, ...]
    intercept: float
    file_gain: float
    """How far the mean of many windows goes beyond one: the factor's limit is 1 + file_gain."""

    def window_log_odds(self, features: Sequence[float]) -> float:
        """Return the log-odds of one window from its mean logits, in the order of `features`."""
        parts = zip(features, self.mean, self.scale, self.coef, strict=True)
        return self.intercept + sum(coef * (value - mean) / scale for value, mean, scale, coef in parts)

    def file_log_odds(self, mean_log_odds: float, windows: int) -> float:
        """Return the log-odds of a file from the mean over its windows and their number (1 or more).

        The factor is that of a mean whose windows share an error of variance v and have one of w each, with
        ``file_gain = w / v``: ``(v + w) / (v + w / n)``. For one window it is 1.
        """
        return mean_log_odds * (1.0 + self.file_gain) / (1.0 + self.file_gain / windows)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where a verdict falls, on the probability that a neural decoder made the audio."""

    generated: float
    """At or above: generated."""
    real: float
    """At or below: real. Between the two nobody can tell."""

    def finding(self, probability: float) -> Finding:
        """Return what a probability amounts to."""
        if probability >= self.generated:
            return "generated"
        return "real" if probability <= self.real else "inconclusive"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """All that `model.json` holds."""

    name: str
    sample_rate_hz: int
    window_seconds: float
    license: str
    training_sources: tuple[str, ...]
    architecture: Mapping[str, Mapping[str, Any]]
    """Arguments of AudioCraft's MultiPeriod-, MultiScale- and MultiScaleSTFTDiscriminator, by family."""
    calibration: Calibration
    thresholds: Thresholds
    figures: Mapping[str, Any]
    """What `services.analyzer.evaluate` measured; nothing reads it to decide."""


def probability(log_odds: float) -> float:
    """Return the probability of log-odds, without overflow at either end."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1.0 + odds)


def load_card(folder: Path) -> ModelCard:
    """Read and check the card in a folder of weights. Raises `CardError`, `FileNotFoundError`."""
    path = folder / CARD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CardError(f"{path}: is not JSON: {error}") from None
    try:
        card: ModelCard = _build(ModelCard, values, "")
    except CardError as error:
        raise CardError(f"{path}: {error}") from None
    _check(card, path)
    return card


def save_card(folder: Path, card: ModelCard) -> None:
    """Write the card that `load_card` reads back equal."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


_NESTED: dict[str, type] = {"calibration": Calibration, "thresholds": Thresholds}
_NUMBERS = ("window_seconds", "intercept", "file_gain", "generated", "real")


def _build(kind: type, values: Any, where: str) -> Any:
    """Make a dataclass of a JSON object; unknown and missing keys are refused."""
    if not isinstance(values, dict):
        raise CardError(f"{where or 'the card'}: want an object, got {type(values).__name__}")
    names = {field.name for field in dataclasses.fields(kind)}
    if names != values.keys():
        raise CardError(
            f"{where or 'the card'}: missing {sorted(names - values.keys())}, unknown {sorted(values.keys() - names)}"
        )
    return kind(**{name: _value(name, value, f"{where}.{name}".lstrip(".")) for name, value in values.items()})


def _value(name: str, value: Any, where: str) -> Any:
    if name in _NESTED:
        return _build(_NESTED[name], value, where)
    if name in ("features", "training_sources"):
        return tuple(str(item) for item in value)
    try:
        if name in ("mean", "scale", "coef"):
            return tuple(_finite(item) for item in value)
        return _finite(value) if name in _NUMBERS else value
    except (TypeError, ValueError):
        raise CardError(f"{where}: want finite numbers, got {value!r}") from None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _check(card: ModelCard, path: Path) -> None:
    calibration, thresholds = card.calibration, card.thresholds
    sizes = {len(getattr(calibration, name)) for name in ("features", "mean", "scale", "coef")}
    if len(sizes) != 1:
        raise CardError(f"{path}: calibration: features, mean, scale and coef have the lengths {sorted(sizes)}")
    if any(scale <= 0 for scale in calibration.scale) or calibration.file_gain < 0:
        raise CardError(f"{path}: calibration: scale must be above 0 and file_gain 0 or more")
    if not 0 <= thresholds.real <= thresholds.generated <= 1:
        raise CardError(f"{path}: thresholds: want 0 <= real <= generated <= 1, got {thresholds}")
    if set(card.architecture) != set(FAMILIES):
        raise CardError(f"{path}: architecture: want {list(FAMILIES)}, got {sorted(card.architecture)}")
    if any(name.partition(".")[0] not in FAMILIES for name in calibration.features):
        raise CardError(f"{path}: calibration.features: want names such as mpd.0, got {list(calibration.features)}")
