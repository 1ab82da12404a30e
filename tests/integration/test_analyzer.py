"""The analyzer service against AudioCraft's own discriminators with the same weights."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from itertools import pairwise
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
from services.models.discriminators import Discriminators, build_untrained
from tests.audio_files import encoded, tone
from tests.integration.audio_service import body, is_healthy, refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = 24_000
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclasses.dataclass(frozen=True)
class Analyzer:
    """The running service and the same discriminators beside it."""

    channel: Any
    stub: Any
    reference: Discriminators


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def analyzer() -> AsyncIterator[Analyzer]:
    settings = AnalyzerSettings(listen="127.0.0.1:0", metrics_listen="", device="cpu", max_audio_seconds=20.0)
    async with serving(AnalyzerService(settings), settings) as channel:
        yield Analyzer(channel, analyzer_pb2_grpc.AnalyzerServiceStub(channel), build_untrained())


async def analyze(analyzer: Analyzer, data: bytes, **fields: Any) -> Any:
    return await analyzer.stub.Analyze(analyzer_pb2.AnalyzeRequest(audio=body(data), **fields))


def noisy(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((round(seconds * rate), channels)).astype(np.float32)
    return tone(seconds, rate, channels) * 0.5 + 0.1 * noise


@torch.inference_mode()
def reference_scores(analyzer: Analyzer, audio: torch.Tensor) -> tuple[list[float], list[torch.Tensor]]:
    """Scores and feature maps of mono ``[1, T]`` from AudioCraft's modules themselves."""
    scores, maps = [], []
    for family in analyzer.reference.families.values():
        logits, features = family(audio[None])
        scores.append(sum(float(torch.sigmoid(logit).mean()) for logit in logits) / len(logits))
        maps += [layer for layers in features for layer in layers]
    return scores, maps


def scores_of(reply: Any) -> list[float]:
    return [reply.mpd_score, reply.msd_score, reply.msstftd_score]


async def test_lists_what_is_loaded(analyzer: Analyzer) -> None:
    request = analyzer_pb2.AnalyzerServiceListModelsRequest()
    (model,) = (await analyzer.stub.ListModels(request)).models
    assert (model.name, model.kind, model.is_default) == ("untrained", audio_pb2.MODEL_KIND_ANALYZER, True)
    assert (model.sample_rate_hz, model.channel_count, model.max_duration.seconds) == (RATE, 1, 20)
    assert not model.is_trained
    assert model.digest == analyzer.reference.info.digest


async def test_every_replica_has_the_same_weights() -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    one = build_untrained()
    torch.manual_seed(2)
    assert build_untrained().info == one.info
    torch.random.set_rng_state(state)


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
    data = encoded(kind, noisy(1.2, rate, channels), rate)
    reply = await analyze(analyzer, data)
    audio, found = read_audio(data, AudioLimits())
    expected, _ = reference_scores(analyzer, convert(audio, found, RATE, 1))
    assert scores_of(reply) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


async def test_says_nothing_while_untrained(analyzer: Analyzer) -> None:
    reply = await analyze(analyzer, encoded("wav", noisy(0.5), RATE), threshold=0.0)
    assert reply.verdict == analyzer_pb2.VERDICT_UNSPECIFIED
    assert not reply.HasField("is_real")
    assert not reply.HasField("generated_probability")
    assert not reply.training_sources
    assert (reply.model.name, reply.model.is_trained) == ("untrained", False)


@pytest.mark.parametrize("rate", [RATE, 44_100])
async def test_scores_window_by_window(analyzer: Analyzer, rate: int) -> None:
    data = encoded("wavf", noisy(4.3, rate), rate)
    reply = await analyze(analyzer, data)
    audio, found = read_audio(data, AudioLimits())
    audio = convert(audio, found, RATE, 1)
    edges = [0, RATE, 2 * RATE, 3 * RATE, audio.shape[1]]
    expected = [reference_scores(analyzer, audio[:, start:end])[0] for start, end in pairwise(edges)]
    assert [window.start.ToTimedelta().total_seconds() for window in reply.windows] == [0, 1, 2, 3]
    durations = [window.duration.ToTimedelta().total_seconds() for window in reply.windows]
    assert durations == pytest.approx([1, 1, 1, 1.3], abs=1e-4)
    for window, scores in zip(reply.windows, expected, strict=True):
        assert scores_of(window) == pytest.approx(scores, abs=1e-5)
    assert scores_of(reply) == pytest.approx(np.mean(expected, axis=0), abs=1e-5)


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.01, 1), (0.4, 1), (1.0, 1), (1.49, 1), (1.5, 2), (2.6, 3), (10.2, 10)]
)
async def test_windows_cover_the_file(analyzer: Analyzer, seconds: float, windows: int) -> None:
    reply = await analyze(analyzer, encoded("wav", noisy(seconds), RATE))
    assert len(reply.windows) == windows
    end = 0.0
    for window in reply.windows:
        assert window.start.ToTimedelta().total_seconds() == pytest.approx(end)
        end += window.duration.ToTimedelta().total_seconds()
    assert end == pytest.approx(seconds, abs=1e-4)


async def test_sends_the_feature_maps_of_the_first_window(analyzer: Analyzer) -> None:
    data = encoded("wavf", noisy(2.0), RATE)
    reply = await analyze(analyzer, data, include_feature_maps=True)
    audio, _ = read_audio(data, AudioLimits())
    _, expected = reference_scores(analyzer, audio[:, :RATE])
    assert len(reply.feature_maps) == len(expected) == 5 * 6 + 3 * 7 + 3 * 5
    names = [(one.discriminator, one.sub_discriminator, one.layer) for one in reply.feature_maps]
    assert names == sorted(set(names))
    for one, values in zip(reply.feature_maps, expected, strict=True):
        ours = np.frombuffer(one.data, "<f4").reshape(one.shape)
        assert np.abs(ours - values[0].mean(dim=0).numpy()).max() < 1e-5
    assert not (await analyze(analyzer, data)).feature_maps


async def test_calls_do_not_disturb_each_other(analyzer: Analyzer) -> None:
    files = [encoded("wav", noisy(0.3 + 0.2 * index), RATE) for index in range(4)]
    alone = [scores_of(await analyze(analyzer, data)) for data in files]
    together = await asyncio.gather(*(analyze(analyzer, data) for data in files * 2))
    assert [scores_of(reply) for reply in together] == alone * 2


SHORT = encoded("wav", noisy(0.3), RATE)

BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "empty": ({"audio": body(b"")}, INVALID, "audio"),
    "no audio": ({"audio": None}, INVALID, "audio"),
    "not audio": ({"audio": body(b"hello" * 100)}, INVALID, "audio"),
    "truncated": ({"audio": body(SHORT[:5000])}, INVALID, "audio"),
    "truncated flac": ({"audio": body(encoded("flac", noisy(5.0), RATE)[:-20_000])}, INVALID, "audio"),
    "64 channels": ({"audio": body(encoded("wav", tone(0.1, channels=64)))}, INVALID, "audio"),
    "too long": ({"audio": body(encoded("flac", tone(20.1)))}, INVALID, "audio"),
    "unknown model": ({"model": "nowhere"}, grpc.StatusCode.NOT_FOUND, "model"),
    "NaN threshold": ({"threshold": float("nan")}, INVALID, "threshold"),
    "low threshold": ({"threshold": -0.1}, INVALID, "threshold"),
    "high threshold": ({"threshold": 1.1}, INVALID, "threshold"),
    "pictures": ({"include_images": True}, grpc.StatusCode.UNIMPLEMENTED, "include_images"),
}


@pytest.mark.parametrize("case", BAD)
async def test_refuses(analyzer: Analyzer, case: str) -> None:
    fields, code, field = BAD[case]
    request = analyzer_pb2.AnalyzeRequest(**{"audio": body(SHORT), **fields})
    assert await refused(analyzer.stub.Analyze(request)) == (code, field)
    assert await is_healthy(analyzer.channel, AnalyzerService.name)
    assert len((await analyze(analyzer, SHORT)).windows) == 1


async def test_streams_are_not_served_yet(analyzer: Analyzer) -> None:
    call = analyzer.stub.StreamAnalyze(iter([]))
    assert await refused(anext(aiter(call))) == (grpc.StatusCode.UNIMPLEMENTED, "request")
    assert await is_healthy(analyzer.channel, AnalyzerService.name)
