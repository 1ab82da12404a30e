"""StreamAnalyze on a real server: Analyze's results, in any pieces, as soon as they can be, and against bad input."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, audio_pb2
from services.analyzer import streams
from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from tests import analyzer_models
from tests.audio_files import encoded, tone
from tests.integration.audio_service import body, is_healthy, refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
F32, S16 = audio_pb2.AUDIO_ENCODING_PCM_F32LE, audio_pb2.AUDIO_ENCODING_PCM_S16LE
RATE = 24_000
Request = analyzer_pb2.StreamAnalyzeRequest


@dataclasses.dataclass(frozen=True)
class Served:
    """The running service."""

    channel: Any
    stub: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("analyzer")
    analyzer_models.save(folder)
    settings = AnalyzerSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        analyzer_weights=str(folder),
        device="cpu",
        threads=1,
        max_stream_seconds=8.0,
        max_streams=6,
    )
    async with serving(AnalyzerService(settings), settings) as channel:
        yield Served(channel, analyzer_pb2_grpc.AnalyzerServiceStub(channel))


def config(rate: int = 0, channels: int = 0, encoding: Any = F32, **fields: Any) -> Request:
    form = audio_pb2.AudioFormat(encoding=encoding, sample_rate_hz=rate, channel_count=channels)
    return Request(config=analyzer_pb2.StreamAnalyzeConfig(format=form, **fields))


def chunks(audio: NDArray[Any], sizes: Iterable[int]) -> Iterator[Request]:
    """Samples ``[T, C]`` in chunks of these sizes; the last size is used again until all is sent."""
    first, number, given, size = 0, 0, iter(sizes), 1
    while not number or first < len(audio):
        size = next(given, size)
        block = audio[first : first + size]
        yield Request(
            audio=audio_pb2.AudioChunk(
                sequence=number,
                first_sample=first,
                sample_count=len(block),
                data=block.tobytes(),
                is_final=first + size >= len(audio),
            )
        )
        first, number = first + size, number + 1


def noisy(seconds: float, rate: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    return (tone(seconds, rate, channels) * 0.5 + 0.1 * noise).astype(np.float32)


async def stream(served: Served, requests: Iterable[Request]) -> tuple[list[Any], Any]:
    responses = [each async for each in served.stub.StreamAnalyze(iter(list(requests)))]
    kinds = [response.WhichOneof("response") for response in responses]
    assert kinds == ["window"] * (len(responses) - 1) + ["finished"]
    return [response.window for response in responses[:-1]], responses[-1].finished


def assert_same(windows: list[Any], finished: Any, whole: Any, within: float) -> None:
    """The results of a stream, joined, are Analyze's."""
    assert not finished.windows
    assert len(windows) == len(whole.windows)
    for one, other in [*zip(windows, whole.windows, strict=True), (finished, whole)]:
        for field in ("mpd_score", "msd_score", "msstftd_score", "generated_probability"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=within)
        assert one.verdict == other.verdict
    for one, other in zip(windows, whole.windows, strict=True):
        assert (one.start, one.duration) == (other.start, other.duration)
    for field in ("is_real", "reason", "model", "training_sources", "generated_threshold", "real_threshold"):
        assert getattr(finished, field) == getattr(whole, field)


@pytest.mark.parametrize("sizes", [[100_000], [RATE], [7_919], [1, 0, 30_000, 333]])
async def test_gives_what_analyze_gives(served: Served, sizes: list[int]) -> None:
    audio = noisy(2.6)
    request = analyzer_pb2.AnalyzeRequest(audio=body(encoded("wavf", audio, RATE)), threshold=0.4)
    whole = await served.stub.Analyze(request)
    windows, finished = await stream(served, [config(threshold=0.4), *chunks(audio, sizes)])
    assert_same(windows, finished, whole, 0.0)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8_000, 1), (48_000, 1)])
async def test_other_rates_and_channels(served: Served, rate: int, channels: int) -> None:
    audio = (noisy(2.3, rate, channels) * 32767).astype("<i2")
    whole = await served.stub.Analyze(analyzer_pb2.AnalyzeRequest(audio=body(encoded("wav", audio, rate))))
    requests = [config(rate, channels, S16), *chunks(audio, [1_001])]
    windows, finished = await stream(served, requests)
    assert_same(windows, finished, whole, 1e-4)


async def test_a_result_comes_as_soon_as_its_window_is_full(served: Served) -> None:
    call = served.stub.StreamAnalyze()
    await call.write(config())
    for number, request in enumerate(chunks(noisy(2.5), [RATE // 2])):
        await call.write(request)
        if number in (1, 3):
            assert (await call.read()).window.start.seconds == number // 2
    await call.done_writing()
    last = (await call.read()).window
    assert last.start.ToMilliseconds() == 1_500
    assert (await call.read()).HasField("finished")
    assert await call.read() == grpc.aio.EOF


async def test_streams_change_nothing_for_each_other(served: Served) -> None:
    pieces = [noisy(1.0 + 0.4 * index) * (0.2 + 0.1 * index) for index in range(5)]

    async def one(audio: NDArray[np.float32]) -> Any:
        return await stream(served, [config(), *chunks(audio, [5_000])])

    alone = [await one(audio) for audio in pieces]
    assert await asyncio.gather(*(one(audio) for audio in pieces)) == alone


AUDIO = noisy(0.5)
GOOD = list(chunks(AUDIO, [5_000, 5_000, 2_000]))
START = config(RATE)


def chunk(**changes: Any) -> Request:
    """The second chunk with fields that do not fit."""
    request = Request()
    request.CopyFrom(GOOD[1])
    for name, value in changes.items():
        setattr(request.audio, name, value)
    return request


NAN = np.full(5_000, np.nan, "<f4").tobytes()
LONG = Request(audio=audio_pb2.AudioChunk(sequence=1, first_sample=5_000, sample_count=187_001, data=bytes(748_004)))
EMPTY = Request(audio=audio_pb2.AudioChunk(is_final=True))
BAD: dict[str, tuple[list[Request], grpc.StatusCode, str]] = {
    "nothing": ([], PRECONDITION, "config"),
    "data before config": (GOOD[:1], PRECONDITION, "audio"),
    "second config": ([START, GOOD[0], START], PRECONDITION, "config"),
    "another rate": ([START, GOOD[0], config(48_000)], PRECONDITION, "config"),
    "empty message": ([START, Request()], INVALID, "request"),
    "no audio": ([START], INVALID, "audio"),
    "empty audio": ([START, EMPTY], INVALID, "audio"),
    "gap in numbers": ([START, GOOD[0], chunk(sequence=2)], INVALID, "audio.sequence"),
    "gap in samples": ([START, GOOD[0], chunk(first_sample=4_999)], INVALID, "audio.first_sample"),
    "out of order": ([START, GOOD[1], GOOD[0]], INVALID, "audio.sequence"),
    "fewer bytes": ([START, GOOD[0], chunk(data=b"1234")], INVALID, "audio.data"),
    "another form": ([START, GOOD[0], chunk(data=bytes(10_000))], INVALID, "audio.data"),
    "half a sample": ([START, GOOD[0], chunk(data=bytes(19_999))], INVALID, "audio.data"),
    "NaN": ([START, GOOD[0], chunk(data=NAN)], INVALID, "audio.data"),
    "after the end": ([START, *GOOD, chunk(sequence=3, first_sample=12_000)], PRECONDITION, "audio"),
    "too long": ([START, GOOD[0], LONG], INVALID, "audio"),
    "encoding": ([config(encoding=audio_pb2.AUDIO_ENCODING_WAV)], INVALID, "config.format.encoding"),
    "no encoding": ([config(encoding=0)], INVALID, "config.format.encoding"),
    "1 Hz": ([config(1)], INVALID, "config.format.sample_rate_hz"),
    "negative rate": ([config(-1)], INVALID, "config.format.sample_rate_hz"),
    "64 channels": ([config(channels=64)], INVALID, "config.format.channel_count"),
    "unknown model": ([config(model="nowhere")], grpc.StatusCode.NOT_FOUND, "config.model"),
    "threshold": ([config(threshold=1.5)], INVALID, "config.threshold"),
    "NaN threshold": ([config(threshold=float("nan"))], INVALID, "config.threshold"),
}


async def ended(call: Any) -> None:
    async for _ in call:
        pass


@pytest.mark.parametrize("case", BAD)
async def test_refuses(served: Served, case: str) -> None:
    requests, code, field = BAD[case]
    assert await refused(ended(served.stub.StreamAnalyze(iter(requests)))) == (code, field)
    assert await is_healthy(served.channel, AnalyzerService.name)
    windows, _ = await stream(served, [START, *GOOD])
    assert len(windows) == 1


async def test_what_is_cancelled_is_freed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[weakref.ref[Any]] = []
    before = streams.AnalyzeStream.__init__

    def noted(self: Any, *arguments: Any) -> None:
        begun.append(weakref.ref(self))
        before(self, *arguments)

    monkeypatch.setattr(streams.AnalyzeStream, "__init__", noted)
    calls = []
    for _ in range(3):
        call = served.stub.StreamAnalyze()
        await call.write(START)
        for request in chunks(noisy(1.2), [RATE]):
            await call.write(request)
        assert (await call.read()).HasField("window")
        calls.append(call)
    assert len(begun) == 3
    for call in calls:
        call.cancel()
    del call, calls
    for _ in range(100):
        await asyncio.sleep(0.02)
        gc.collect()
        if not any(ref() for ref in begun):
            break
    assert not any(ref() for ref in begun)


async def test_a_deadline_ends_a_stream(served: Served) -> None:
    call = served.stub.StreamAnalyze(timeout=0.3)
    await call.write(START)
    assert (await refused(ended(call)))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    windows, _ = await stream(served, [START, *GOOD])
    assert len(windows) == 1


async def test_no_more_streams_than_the_limit(served: Served) -> None:
    calls = []
    for _ in range(6):
        call = served.stub.StreamAnalyze()
        await call.write(START)
        for request in list(chunks(noisy(1.5), [RATE]))[:1]:
            await call.write(request)
        assert (await call.read()).HasField("window")
        calls.append(call)
    refusal = await refused(ended(served.stub.StreamAnalyze(iter([START]))))
    assert refusal[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        await call.done_writing()
        assert (await call.read()).HasField("finished")
        assert await call.read() == grpc.aio.EOF
    windows, _ = await stream(served, [START, *GOOD])
    assert len(windows) == 1
