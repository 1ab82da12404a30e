"""The analyzer service against AudioCraft's own discriminators with the same weights."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, audio_pb2
from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from services.models.audio import AudioLimits, convert, read_audio
from services.models.calibration import FAMILIES, ModelCard, probability
from services.models.discriminators import build_modules, build_untrained
from tests import analyzer_models
from tests.audio_files import encoded, tone
from tests.integration.audio_service import body, is_healthy, refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = 24_000
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclasses.dataclass(frozen=True)
class Analyzer:
    """The running service and AudioCraft's modules with its weights."""

    channel: Any
    stub: Any
    card: ModelCard
    modules: dict[Any, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def analyzer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Analyzer]:
    folder = tmp_path_factory.mktemp("analyzer")
    card = analyzer_models.save(folder)
    modules = build_modules(card.architecture, analyzer_models.some_state(card))
    settings = AnalyzerSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        analyzer_weights=str(folder),
        device="cpu",
        threads=1,
        max_audio_seconds=20.0,
    )
    async with serving(AnalyzerService(settings), settings) as channel:
        yield Analyzer(channel, analyzer_pb2_grpc.AnalyzerServiceStub(channel), card, modules)


async def analyze(analyzer: Analyzer, data: bytes, **fields: Any) -> Any:
    return await analyzer.stub.Analyze(analyzer_pb2.AnalyzeRequest(audio=body(data), **fields))


def noisy(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((round(seconds * rate), channels)).astype(np.float32)
    return tone(seconds, rate, channels) * 0.5 + 0.1 * noise


@torch.inference_mode()
def reference(analyzer: Analyzer, window: torch.Tensor) -> tuple[list[float], float, list[torch.Tensor]]:
    """Scores, log-odds and feature maps of a window ``[1, T]``, by AudioCraft's modules and the card's formula."""
    scores: list[float] = []
    logits: dict[str, float] = {}
    maps: list[torch.Tensor] = []
    for family in FAMILIES:
        made, features = analyzer.modules[family](window[None])
        scores.append(sum(float(logit.sigmoid().mean()) for logit in made) / len(made))
        logits |= {f"{family}.{index}": float(logit.mean()) for index, logit in enumerate(made)}
        maps += [layer for layers in features for layer in layers]
    calibration = analyzer.card.calibration
    odds = calibration.intercept
    for name, mean, scale, coef in zip(
        calibration.features, calibration.mean, calibration.scale, calibration.coef, strict=True
    ):
        odds += coef * (logits[name] - mean) / scale
    return scores, odds, maps


def scores_of(reply: Any) -> list[float]:
    return [reply.mpd_score, reply.msd_score, reply.msstftd_score]


def seconds_of(length: Any) -> float:
    return float(length.ToNanoseconds() / 1e9)


async def test_lists_what_is_loaded(analyzer: Analyzer) -> None:
    request = analyzer_pb2.AnalyzerServiceListModelsRequest()
    (model,) = (await analyzer.stub.ListModels(request)).models
    assert (model.name, model.kind, model.is_default) == ("made-up-1", audio_pb2.MODEL_KIND_ANALYZER, True)
    assert (model.sample_rate_hz, model.channel_count, model.max_duration.seconds) == (RATE, 1, 20)
    assert (model.is_trained, model.license, model.device, model.precision) == (True, "MIT", "cpu", "fp32")
    assert (len(model.digest), seconds_of(model.latency)) == (64, 1.0)


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [
        ("wavf", RATE, 1),
        ("wav", 44_100, 2),
        ("flac", 32_000, 1),
        ("mp3", 48_000, 2),
        ("ogg", 32_000, 1),
        ("m4a", 44_100, 2),
    ],
)
async def test_scores_as_audiocraft_does(analyzer: Analyzer, kind: str, rate: int, channels: int) -> None:
    data = encoded(kind, noisy(0.9, rate, channels), rate)
    reply = await analyze(analyzer, data)
    audio, found = read_audio(data, AudioLimits())
    audio = convert(audio, found, RATE, 1)
    scores, odds, _ = reference(analyzer, audio[:, :RATE])
    assert scores_of(reply.windows[0]) == pytest.approx(scores, abs=1e-5)
    assert len(set(scores)) == 3
    assert reply.windows[0].generated_probability == pytest.approx(probability(odds), abs=1e-3)


@pytest.mark.parametrize("rate", [RATE, 44_100])
async def test_scores_window_by_window(analyzer: Analyzer, rate: int) -> None:
    data = encoded("wavf", noisy(4.25, rate), rate)
    reply = await analyze(analyzer, data, threshold=0.4)
    audio, found = read_audio(data, AudioLimits())
    audio = convert(audio, found, RATE, 1)
    length = audio.shape[1]
    starts = [0, RATE, 2 * RATE, 3 * RATE, length - RATE]
    expected = [reference(analyzer, audio[:, start : start + RATE]) for start in starts]
    assert [seconds_of(window.start) for window in reply.windows] == pytest.approx([start / RATE for start in starts])
    assert [seconds_of(window.duration) for window in reply.windows] == [1.0] * 5
    for window, (scores, odds, _) in zip(reply.windows, expected, strict=True):
        assert scores_of(window) == pytest.approx(scores, abs=1e-5)
        assert window.generated_probability == pytest.approx(probability(odds), abs=1e-3)
    weights = np.array([1, 1, 1, 1, length / RATE - 4])
    means = np.average([scores for scores, _, _ in expected], axis=0, weights=weights)
    assert scores_of(reply) == pytest.approx(means, abs=1e-5)
    assert reply.is_real == (means.mean() > 0.4)
    odds = float(np.average([odds for _, odds, _ in expected], weights=weights))
    chance = probability(analyzer.card.calibration.file_log_odds(odds, 4))
    assert reply.generated_probability == pytest.approx(chance, abs=1e-3)


async def test_the_verdict_is_that_of_the_thresholds(analyzer: Analyzer) -> None:
    verdicts = {
        "real": analyzer_pb2.VERDICT_REAL,
        "generated": analyzer_pb2.VERDICT_GENERATED,
        "inconclusive": analyzer_pb2.VERDICT_INCONCLUSIVE,
    }
    seen = set()
    thresholds = analyzer.card.thresholds
    for level in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0):
        reply = await analyze(analyzer, encoded("wavf", np.float32(level) * noisy(2.0), RATE))
        finding = thresholds.finding(reply.generated_probability)
        assert reply.verdict == verdicts[finding]
        assert bool(reply.reason) == (finding == "inconclusive")
        for window in reply.windows:
            assert window.verdict == verdicts[thresholds.finding(window.generated_probability)]
        seen.add(finding)
        assert (reply.generated_threshold, reply.real_threshold) == pytest.approx((0.9, 0.2))
        assert (reply.model.name, reply.model.is_trained) == ("made-up-1", True)
        assert tuple(reply.training_sources) == analyzer_models.SOURCES
    assert len(seen) == 3


async def test_threshold_decides_is_real(analyzer: Analyzer) -> None:
    data = encoded("wavf", noisy(1.0), RATE)
    mean = float(np.mean(scores_of(await analyze(analyzer, data))))
    for threshold, is_real in ((mean - 0.001, True), (mean + 0.001, False), (0.0, True), (1.0, False)):
        assert (await analyze(analyzer, data, threshold=threshold)).is_real == is_real
    assert (await analyze(analyzer, data)).is_real == (mean > 0.5)


async def test_silence_tells_nothing(analyzer: Analyzer) -> None:
    quiet = np.zeros((2 * RATE, 1), np.float32)
    reply = await analyze(analyzer, encoded("wav", quiet, RATE))
    assert reply.verdict == analyzer_pb2.VERDICT_INCONCLUSIVE
    assert (reply.reason, reply.HasField("generated_probability")) == ("the audio is silent", False)
    assert not any(window.HasField("generated_probability") for window in reply.windows)
    # A pause leaves the rest as it was.
    alone = await analyze(analyzer, encoded("wavf", noisy(2.0), RATE))
    paused = await analyze(analyzer, encoded("wavf", np.concatenate([noisy(2.0), quiet]), RATE))
    assert paused.generated_probability == pytest.approx(alone.generated_probability, abs=1e-6)
    assert paused.verdict == alone.verdict


async def test_too_little_is_inconclusive(analyzer: Analyzer) -> None:
    reply = await analyze(analyzer, encoded("wav", noisy(0.3), RATE))
    assert reply.verdict == analyzer_pb2.VERDICT_INCONCLUSIVE
    assert "too little" in reply.reason


@pytest.mark.parametrize(("seconds", "windows"), [(0.01, 1), (0.4, 1), (1.0, 1), (1.01, 2), (2.6, 3), (10.2, 11)])
async def test_windows_cover_the_file(analyzer: Analyzer, seconds: float, windows: int) -> None:
    reply = await analyze(analyzer, encoded("wav", noisy(seconds), RATE))
    assert len(reply.windows) == windows
    end = 0.0
    for window in reply.windows:
        assert seconds_of(window.start) <= end
        end = seconds_of(window.start) + seconds_of(window.duration)
    assert end == pytest.approx(seconds, abs=1e-4)


async def test_sends_the_feature_maps_of_the_first_window(analyzer: Analyzer) -> None:
    data = encoded("wavf", noisy(2.0), RATE)
    reply = await analyze(analyzer, data, include_feature_maps=True)
    audio, _ = read_audio(data, AudioLimits())
    _, _, expected = reference(analyzer, audio[:, :RATE])
    assert len(reply.feature_maps) == len(expected) == 5 * 6 + 3 * 7 + 3 * 5
    names = [(one.discriminator, one.sub_discriminator, one.layer) for one in reply.feature_maps]
    assert names == sorted(set(names))
    for one, values in zip(reply.feature_maps, expected, strict=True):
        ours = np.frombuffer(one.data, "<f4").reshape(one.shape)
        assert np.abs(ours - values[0].mean(dim=0).numpy()).max() < 1e-5
    assert not (await analyze(analyzer, data)).feature_maps


async def test_draws_pictures(analyzer: Analyzer) -> None:
    import matplotlib.image

    loud, soft = noisy(1.0), 0.005 * noisy(1.0)
    reply = await analyze(analyzer, encoded("wavf", np.concatenate([soft, loud, soft]), RATE), include_images=True)
    assert [image.name for image in reply.images] == ["spectrogram", "mpd", "msd", "msstftd"]
    worst = max(reply.windows, key=lambda window: window.generated_probability)
    pictures = {}
    for image in reply.images:
        pictures[image.name] = matplotlib.image.imread(io.BytesIO(image.png), format="png")
        assert min(pictures[image.name].shape[:2]) > 300
        if image.name != "spectrogram":
            assert (seconds_of(image.start), seconds_of(image.duration)) == (seconds_of(worst.start), 1.0)
    assert seconds_of(reply.images[0].duration) == 3.0
    # The suspect windows are red: what is not suspect has no red above the spectrogram.
    strip = pictures["spectrogram"][60:180, :, :3]
    red = (strip[..., 0] - strip[..., 1] > 0.15).mean(axis=0)
    width = strip.shape[1]
    for window in reply.windows:
        middle = seconds_of(window.start) + 0.5
        column = round(width * (0.07 + (0.98 - 0.07) * middle / 3))
        assert (red[column] > 0.5) == (window.verdict == analyzer_pb2.VERDICT_GENERATED)
    assert any(window.verdict == analyzer_pb2.VERDICT_GENERATED for window in reply.windows)


async def test_calls_do_not_disturb_each_other(analyzer: Analyzer) -> None:
    files = [encoded("wav", noisy(0.3 + 0.7 * index), RATE) for index in range(4)]
    alone = [await analyze(analyzer, data) for data in files]
    together = await asyncio.gather(*(analyze(analyzer, data) for data in files * 3))
    assert together == alone * 3


async def test_untrained_weights_give_no_verdict() -> None:
    settings = AnalyzerSettings(listen="127.0.0.1:0", metrics_listen="", analyzer_weights="untrained", device="cpu")
    async with serving(AnalyzerService(settings), settings) as channel:
        stub: Any = analyzer_pb2_grpc.AnalyzerServiceStub(channel)
        (model,) = (await stub.ListModels(analyzer_pb2.AnalyzerServiceListModelsRequest())).models
        assert (model.name, model.is_trained, model.digest) == ("untrained", False, build_untrained().info.digest)
        request = analyzer_pb2.AnalyzeRequest(audio=body(SHORT), threshold=0.0, include_images=True)
        reply = await stub.Analyze(request)
        assert reply.verdict == analyzer_pb2.VERDICT_UNSPECIFIED
        for field in ("is_real", "generated_probability", "generated_threshold", "real_threshold"):
            assert not reply.HasField(field)
        assert (list(reply.training_sources), reply.model.is_trained) == ([], False)
        assert "not trained" in reply.reason
        assert 0 < reply.mpd_score < 1
        assert len(reply.images) == 4


async def test_a_folder_that_does_not_fit_ends_the_service(tmp_path: Path) -> None:
    analyzer_models.save(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    settings = AnalyzerSettings(listen="127.0.0.1:0", metrics_listen="", analyzer_weights=str(tmp_path), device="cpu")
    with pytest.raises(Exception, match="no analyzer can be loaded"):
        AnalyzerService(settings).load()


SHORT = encoded("wav", noisy(0.3), RATE)
NAN = tone(0.2, RATE)
NAN[100] = np.nan

BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "empty": ({"audio": body(b"")}, INVALID, "audio"),
    "no audio": ({"audio": None}, INVALID, "audio"),
    "not audio": ({"audio": body(b"hello" * 100)}, INVALID, "audio"),
    "truncated": ({"audio": body(SHORT[:5000])}, INVALID, "audio"),
    "truncated flac": ({"audio": body(encoded("flac", noisy(5.0), RATE)[:-20_000])}, INVALID, "audio"),
    "64 channels": ({"audio": body(encoded("wav", tone(0.1, channels=64)))}, INVALID, "audio"),
    "1 Hz": ({"audio": body(encoded("wav", tone(0.1, RATE), 1))}, INVALID, "audio"),
    "500 kHz": ({"audio": body(encoded("wav", tone(0.1, RATE), 500_000))}, INVALID, "audio"),
    "NaN samples": ({"audio": body(encoded("wavf", NAN, RATE))}, INVALID, "audio"),
    "too long": ({"audio": body(encoded("flac", tone(20.1)))}, INVALID, "audio"),
    "no sample left": ({"audio": body(encoded("wav", tone(1 / 48_000, 48_000), 48_000))}, INVALID, "audio"),
    "unknown model": ({"model": "nowhere"}, grpc.StatusCode.NOT_FOUND, "model"),
    "NaN threshold": ({"threshold": float("nan")}, INVALID, "threshold"),
    "low threshold": ({"threshold": -0.1}, INVALID, "threshold"),
    "high threshold": ({"threshold": 1.1}, INVALID, "threshold"),
}


@pytest.mark.parametrize("case", BAD)
async def test_refuses(analyzer: Analyzer, case: str) -> None:
    fields, code, field = BAD[case]
    request = analyzer_pb2.AnalyzeRequest(**{"audio": body(SHORT), **fields})
    assert await refused(analyzer.stub.Analyze(request)) == (code, field)
    assert await is_healthy(analyzer.channel, AnalyzerService.name)
    assert len((await analyze(analyzer, SHORT)).windows) == 1


async def test_goes_on_after_a_deadline_and_a_cancel(analyzer: Analyzer) -> None:
    long = analyzer_pb2.AnalyzeRequest(audio=body(encoded("flac", noisy(19.0), RATE)))
    assert (await refused(analyzer.stub.Analyze(long, timeout=0.05)))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    call = analyzer.stub.Analyze(long)
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len((await analyze(analyzer, SHORT)).windows) == 1
