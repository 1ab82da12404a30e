"""Measures the shipped detector on recordings that its training never heard, and prints the matrix.

    python -m services.analyzer.evaluate [--write]

For each condition, at 1 s and at 10 s: equal error rate, area under the ROC curve, the share of real audio called
generated at the shipped threshold, and what share of either class gets which verdict. Intervals are 95 % bootstrap
intervals over recordings, not windows: the windows of one recording resemble each other. The held-out audio comes from
`services.analyzer.recipe.heldout`. The last line printed is one JSON object. `--write` puts the tables into
MODEL_CARD.md, a shorter one into docs/analyzer.md, and the figures into the weights' model.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from services.analyzer.recipe import calibrate, heldout, networks
from services.analyzer.recipe.sources import Split
from services.models.calibration import ModelCard, load_card, save_card

CARD = Path(__file__).parent / "MODEL_CARD.md"
MANUAL = Path(__file__).parents[2] / "docs" / "analyzer.md"
_BEGIN, _END = "<!-- matrix -->", "<!-- end of matrix -->"
_RESAMPLINGS = 200


@dataclasses.dataclass(frozen=True)
class Cell:
    """One condition at one length; each figure as estimate, lower and upper bound."""

    eer: tuple[float, float, float]
    auc: tuple[float, float, float]
    fpr: tuple[float, float, float]
    """Real audio called generated."""
    tpr: tuple[float, float, float]
    """Generated audio called generated."""
    inconclusive: float
    """Share of both classes without a verdict."""
    recordings: int
    files: int
    """Of each class; some recordings gave several."""


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the rate at which as many real are called generated (label 0) as the other way, interpolated."""
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = (1 - true_positives) - false_positives
    place = int(np.argmax(gap <= 0))
    if place == 0:
        return float(false_positives[0])
    share = gap[place - 1] / (gap[place - 1] - gap[place])
    return float(false_positives[place - 1] + share * (false_positives[place] - false_positives[place - 1]))


def measure(
    card: ModelCard, real: np.ndarray, generated: np.ndarray, recordings: Sequence[str], random: np.random.Generator
) -> Cell:
    """Return a cell from log-odds ``[files, values]`` of both classes, row beside row, and each row's recording."""
    high = np.log(card.thresholds.generated / (1 - card.thresholds.generated))
    low = np.log(card.thresholds.real / (1 - card.thresholds.real))

    def figures(left: np.ndarray, right: np.ndarray) -> list[float]:
        scores = np.concatenate([left.ravel(), right.ravel()])
        labels = np.repeat([0, 1], [left.size, right.size])
        eer, auc = equal_error_rate(labels, scores), float(roc_auc_score(labels, scores))
        return [eer, auc, float((left >= high).mean()), float((right >= high).mean())]

    names, group = np.unique(recordings, return_inverse=True)
    members = [np.flatnonzero(group == index) for index in range(len(names))]

    def redrawn() -> list[float]:
        rows = np.concatenate([members[index] for index in random.integers(len(names), size=len(names))])
        return figures(real[rows], generated[rows])

    drawn = [redrawn() for _ in range(_RESAMPLINGS)]
    bounds = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    eer, auc, fpr, tpr = (
        (round(value, 4), round(float(bounds[0, index]), 4), round(float(bounds[1, index]), 4))
        for index, value in enumerate(figures(real, generated))
    )
    both = np.concatenate([real.ravel(), generated.ravel()])
    return Cell(
        eer,
        auc,
        fpr,
        tpr,
        inconclusive=round(float(((both > low) & (both < high)).mean()), 4),
        recordings=len(names),
        files=len(real),
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """All that was measured."""

    matrix: dict[str, dict[str, Cell]]
    """By condition and length: "1s", "10s"."""
    decoders: dict[str, dict[str, float]]
    """By decoder of the clean test: files, and the shares called generated at either length."""


def evaluate(weights: Path = calibrate.FOLDER) -> Report:
    """Measure the weights in a folder. Raises `FileNotFoundError`, `CardError`."""
    card = load_card(weights)
    random = np.random.default_rng(0)
    needed = sorted({(split, name) for split, *names in heldout.CONDITIONS.values() for name in names})
    for audio in needed:  # what is missing is said before anything is started
        heldout.load(*audio)
    # A process a core: nothing in these networks is large enough to be shared out.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        scored = dict(zip(needed, pool.map(functools.partial(_log_odds, weights), needed), strict=True))

    matrix: dict[str, dict[str, Cell]] = {}
    for condition, (split, *names) in heldout.CONDITIONS.items():
        rows = heldout.rows(condition)
        real, generated = (scored[split, name][rows] for name in names)
        whole_real, whole_generated = (
            calibrate.file_log_odds(card.calibration, values)[:, None] for values in (real, generated)
        )
        described = heldout.describe(split)
        recordings = [described[row]["recording"] for row in rows]
        matrix[condition] = {
            "1s": measure(card, real, generated, recordings, random),
            "10s": measure(card, whole_real, whole_generated, recordings, random),
        }
    return Report(matrix, _by_decoder(card, scored["test", "clean.generated"]))


def _log_odds(weights: Path, audio: tuple[Split, str]) -> np.ndarray:
    """Return ``[files, windows]`` log-odds of one file of held-out audio."""
    import torch

    torch.set_num_threads(1)
    card = load_card(weights)
    features = networks.score_windows(
        networks.load(weights, card.architecture), heldout.load(*audio), card.window_seconds
    )
    print(f"{audio[0]}: {audio[1]}: {len(features)} files", file=sys.stderr, flush=True)
    return calibrate.window_log_odds(card.calibration, features)


def _by_decoder(card: ModelCard, windows: np.ndarray) -> dict[str, dict[str, float]]:
    """Return how much of each decoder's work is called generated."""
    high = np.log(card.thresholds.generated / (1 - card.thresholds.generated))
    files = calibrate.file_log_odds(card.calibration, windows)
    names = np.array([row["decoder"].partition(".")[0] for row in heldout.describe("test")])
    return {
        str(name): {
            "files": int((names == name).sum()),
            "1s": round(float((windows[names == name] >= high).mean()), 4),
            "10s": round(float((files[names == name] >= high).mean()), 4),
        }
        for name in np.unique(names)
    }


def tables(report: Report) -> str:
    """Return matrix and decoders as Markdown tables, percentages with their intervals."""

    def share(value: tuple[float, float, float]) -> str:
        return f"{value[0]:.1%} ({value[1]:.1%}–{value[2]:.1%})"

    lines = [
        "| condition | length | EER | AUC | real called generated | generated called generated | inconclusive |",
        "|---|---|---|---|---|---|---|",
    ]
    for condition, cells in report.matrix.items():
        for length, cell in cells.items():
            auc = f"{cell.auc[0]:.4f} ({cell.auc[1]:.4f}–{cell.auc[2]:.4f})"
            shares = " | ".join([share(cell.eer), auc, share(cell.fpr), share(cell.tpr), f"{cell.inconclusive:.1%}"])
            lines.append(f"| {condition} | {length} | {shares} |")
    lines += ["", "| decoder | files | called generated, 1s | called generated, 10s |", "|---|---|---|---|"]
    for name, found in report.decoders.items():
        lines.append(f"| {name} | {found['files']} | {found['1s']:.1%} | {found['10s']:.1%} |")
    return "\n".join(lines)


def overview(report: Report) -> str:
    """Return the estimates alone, a condition a line, as a Markdown table."""
    lines = [
        "| condition | EER, 1 s | EER, 10 s | real called generated, 1 s | 10 s | generated called generated, 10 s |",
        "|---|---|---|---|---|---|",
    ]
    for condition, cells in report.matrix.items():
        one, ten = cells["1s"], cells["10s"]
        shares = (one.eer, ten.eer, one.fpr, ten.fpr, ten.tpr)
        lines.append(f"| {condition} | {' | '.join(f'{share[0]:.1%}' for share in shares)} |")
    return "\n".join(lines)


def summary(report: Report) -> dict[str, Any]:
    """Return the figures of the last line."""
    clean = report.matrix["clean"]
    return {
        "eer_10s": clean["10s"].eer[0],
        "eer_1s": clean["1s"].eer[0],
        "fpr_clean": clean["10s"].fpr[0],
        "fpr_clean_1s": clean["1s"].fpr[0],
        "matrix": {
            condition: {length: dataclasses.asdict(cell) for length, cell in cells.items()}
            for condition, cells in report.matrix.items()
        },
        "decoders": report.decoders,
    }


def write(report: Report) -> None:
    """Put the tables into the documents and the figures beside the weights."""
    for path, table in ((CARD, tables(report)), (MANUAL, overview(report))):
        before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
        _, _, after = rest.partition(_END)
        path.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")
    save_card(calibrate.FOLDER, dataclasses.replace(load_card(calibrate.FOLDER), figures=summary(report)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update MODEL_CARD.md and model.json")
    options = parser.parse_args()
    try:
        report = evaluate()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write:
        write(report)
    print(tables(report))
    print(json.dumps(summary(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
