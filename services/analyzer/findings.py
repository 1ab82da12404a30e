"""What the discriminators heard, window by window, and what it amounts to. Nothing here grows but the windows."""

from __future__ import annotations

import dataclasses

from services.analyzer.windows import Window
from services.models.calibration import Finding, ModelCard, Thresholds, probability
from services.models.discriminators import AnalyzerInfo, Hearing, Scores

SILENT_PEAK = 0.001
"""A window that stays below, -60 dB of full scale, holds nothing to judge a decoder by."""


@dataclasses.dataclass(frozen=True)
class WindowFinding:
    """One window; times in seconds from the start of the audio."""

    start: float
    duration: float
    scores: Scores
    probability: float | None
    """That a neural decoder made it; None where nobody can say."""
    finding: Finding | None
    """What the window amounts to by itself; None while the weights are not trained."""


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """The whole piece."""

    scores: Scores
    """Means over the windows, each weighing as much as the audio that no window before it holds."""
    is_real: bool | None
    """Whether the mean of the scores is above the caller's threshold; None while the weights are not trained."""
    finding: Finding | None
    """None while the weights are not trained."""
    probability: float | None
    reason: str
    """Why there is no verdict, or none but "inconclusive"; else empty."""
    thresholds: Thresholds | None


class Findings:
    """Collects what was heard of one piece."""

    def __init__(self, info: AnalyzerInfo, card: ModelCard | None, threshold: float) -> None:
        self._info, self._card, self._threshold = info, card, threshold
        self._sums = [0.0, 0.0, 0.0]
        self._samples = 0
        self._log_odds = 0.0
        self._audible = 0

    def add(self, window: Window, hearing: Hearing) -> WindowFinding:
        """Take the next window in."""
        rate, scores = self._info.sample_rate_hz, hearing.scores
        for index, score in enumerate((scores.mpd, scores.msd, scores.msstftd)):
            self._sums[index] += window.fresh * score
        self._samples += window.fresh
        chance: float | None = None
        finding: Finding | None = None
        if self._card is not None:
            finding = "inconclusive"
            if float(window.audio.abs().max()) >= SILENT_PEAK:
                calibration = self._card.calibration
                log_odds = calibration.window_log_odds([hearing.logits[name] for name in calibration.features])
                self._log_odds += window.fresh * log_odds
                self._audible += window.fresh
                chance = probability(log_odds)
                finding = self._card.thresholds.finding(chance)
        return WindowFinding(window.start / rate, len(window.audio) / rate, scores, chance, finding)

    def conclude(self) -> Conclusion:
        """Return what all windows amount to; there was at least one."""
        scores = Scores(*(total / self._samples for total in self._sums))
        if self._card is None:
            return Conclusion(scores, None, None, None, "the weights are not trained: the scores mean nothing", None)
        is_real, thresholds = scores.mean > self._threshold, self._card.thresholds
        if not self._audible:
            return Conclusion(scores, is_real, "inconclusive", None, "the audio is silent", thresholds)
        size = self._info.window_samples
        log_odds = self._card.calibration.file_log_odds(
            self._log_odds / self._audible, max(1, round(self._audible / size))
        )
        chance = probability(log_odds)
        finding, reason = thresholds.finding(chance), ""
        if 2 * self._audible < size:
            finding = "inconclusive"
            seconds = self._audible / self._info.sample_rate_hz
            reason = f"{seconds:.2g} s of sound is too little to judge by: at least {self._info.window_seconds / 2:g} s"
        elif finding == "inconclusive":
            reason = (
                f"the probability lies between {thresholds.real:.2g} and {thresholds.generated:.2g}, "
                "where too many verdicts would be wrong"
            )
        return Conclusion(scores, is_real, finding, chance, reason, thresholds)
