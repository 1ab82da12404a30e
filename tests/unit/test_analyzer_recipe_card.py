"""The card beside the analyzer's weights: what it may hold, and what the shipped one says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from services.analyzer import evaluate
from services.analyzer.recipe import calibrate, networks
from services.models import calibration as cards
from services.models.calibration import Calibration, CardError, ModelCard, Thresholds

_CARD = ModelCard(
    name="one",
    sample_rate_hz=24_000,
    window_seconds=1.0,
    license="MIT",
    training_sources=("music", "decoder"),
    architecture={"mpd": {"filters": 4}, "msd": {}, "msstftd": {}},
    calibration=Calibration(("mpd.0", "msd.0"), (1.0, 0.0), (2.0, 1.0), (-1.0, -0.5), 0.25, 3.0),
    thresholds=Thresholds(generated=0.9, real=0.2),
    figures={"eer_10s": 0.01},
)


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    cards.save_card(tmp_path, _CARD)
    assert cards.load_card(tmp_path) == _CARD


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("name",), None, "missing"),
        (("extra",), 1, "unknown"),
        (("calibration",), [], "calibration: want an object"),
        (("calibration", "coef"), [1.0], "lengths"),
        (("calibration", "coef"), [1.0, "x"], "calibration.coef: want finite numbers"),
        (("calibration", "intercept"), math.nan, "calibration.intercept: want finite numbers"),
        (("calibration", "scale"), [0.0, 1.0], "scale"),
        (("calibration", "features"), ["mpd.0", "other.0"], "features"),
        (("thresholds", "real"), 0.95, "thresholds"),
        (("architecture",), {"mpd": {}}, "architecture"),
    ],
)
def test_a_card_that_cannot_be_used_is_refused(
    tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(_CARD)))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (tmp_path / cards.CARD_FILE).write_text(json.dumps(values))
    with pytest.raises(CardError, match=message):
        cards.load_card(tmp_path)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / cards.CARD_FILE).write_text("{")
    with pytest.raises(CardError, match="is not JSON"):
        cards.load_card(tmp_path)


def test_log_odds_probabilities_and_findings() -> None:
    calibration = _CARD.calibration
    assert calibration.window_log_odds([3.0, 2.0]) == pytest.approx(0.25 - 1.0 - 1.0)
    assert calibration.file_log_odds(-2.0, 1) == -2.0
    assert calibration.file_log_odds(-2.0, 3) == pytest.approx(-4.0)
    assert calibration.file_log_odds(-2.0, 10**9) == pytest.approx(-8.0)
    assert cards.probability(0.0) == 0.5
    assert cards.probability(-2000.0) == 0.0
    assert cards.probability(2000.0) == 1.0
    findings = [_CARD.thresholds.finding(value) for value in (0.0, 0.2, 0.21, 0.89, 0.9, 1.0)]
    assert findings == ["real", "real", "inconclusive", "inconclusive", "generated", "generated"]


def test_the_shipped_card_fits_the_shipped_weights_and_holds_its_figures() -> None:
    card = cards.load_card(calibrate.FOLDER)
    shipped = networks.load(calibrate.FOLDER, card.architecture)
    assert card.calibration.features == networks.feature_names(shipped)
    assert sum(path.stat().st_size for path in calibrate.FOLDER.iterdir()) < 25 << 20
    assert {"eer_1s", "eer_10s", "fpr_clean", "matrix"} <= card.figures.keys()
    assert card.training_sources


def test_the_documents_show_the_figures_beside_the_shipped_weights() -> None:
    figures = cards.load_card(calibrate.FOLDER).figures
    cells = {
        condition: {length: evaluate.Cell(**cell) for length, cell in lengths.items()}
        for condition, lengths in figures["matrix"].items()
    }
    report = evaluate.Report(cells, figures["decoders"])
    assert evaluate.tables(report) in evaluate.CARD.read_text(encoding="utf-8")
    assert evaluate.overview(report) in evaluate.MANUAL.read_text(encoding="utf-8")
    assert json.loads(json.dumps(evaluate.summary(report))) == json.loads(json.dumps(figures))
