"""Both clients against a real server: what comes, what is checked, what ends a call."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import antiphon
from antiphon import AsyncClient, Client, FinishReason, HealthStatus, Service, Verdict
from antiphon.generation import GenerationState
from antiphon.v1.generator_pb2 import GenerationControl
from tests.integration.client_server import CHUNK, FRAME, RATE, Served, piece_codes, served, tone

pytestmark = pytest.mark.timeout(30)
SECONDS = 0.45
TOTAL = int(SECONDS * RATE)


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as running:
        yield running


class SyncCaller:
    """Gives `Client` the face of `AsyncClient`, so that one test covers both."""

    def __init__(self, target: str) -> None:
        self._client = Client(target, api_key="secret")

    async def stream(self, prompt: antiphon.Prompt, **options: Any) -> tuple[list[antiphon.Chunk], GenerationState]:
        stream = self._client.stream_generate(prompt, **options)
        return await asyncio.to_thread(list, stream), stream

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, method), *arguments, **options)

    async def close(self) -> None:
        self._client.close()


class AsyncCaller:
    def __init__(self, target: str) -> None:
        self._client = AsyncClient(target, api_key="secret")

    async def stream(self, prompt: antiphon.Prompt, **options: Any) -> tuple[list[antiphon.Chunk], GenerationState]:
        stream = self._client.stream_generate(prompt, **options)
        return [chunk async for chunk in stream], stream

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self._client, method)(*arguments, **options)

    async def close(self) -> None:
        await self._client.close()


Caller = SyncCaller | AsyncCaller


@pytest.fixture(params=[SyncCaller, AsyncCaller])
async def caller(request: pytest.FixtureRequest, server: Served) -> AsyncIterator[Caller]:
    made: Caller = request.param(server.target)
    yield made
    await made.close()


def gone(server: Served) -> bool:
    """Whether the server has seen the end of the stream."""
    return server.generator.ended.wait(10)


@pytest.mark.parametrize("encoding", ["pcm_f32le", "pcm_s16le"])
async def test_stream_brings_every_sample(caller: Caller, encoding: str) -> None:
    steps: list[int] = []
    chunks, stream = await caller.stream(
        "slow sad piano",
        duration=SECONDS,
        seed=7,
        include_codes=True,
        encoding=encoding,
        on_progress=lambda progress: steps.append(progress.steps),
    )
    joined = np.concatenate([chunk.samples for chunk in chunks])
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, tone(0, TOTAL).astype(np.float32) / np.float32(32767))
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.first_sample for chunk in chunks] == [CHUNK * i for i in range(len(chunks))]
    assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[0].sample_rate_hz == RATE
    assert stream.started is not None
    assert (stream.started.seed, stream.started.total_samples, stream.started.model) == (7, TOTAL, "tiny")
    assert stream.started.prompts == (("slow sad piano", 1.0),)
    assert stream.progress.fraction == 1
    assert steps == [min(CHUNK * (i + 1), TOTAL) for i in range(len(chunks))]
    assert stream.codes is not None
    np.testing.assert_array_equal(stream.codes, piece_codes(0, stream.codes.shape[1]))
    assert stream.codes.shape == (4, sum(min(CHUNK, TOTAL - i) // FRAME for i in range(0, TOTAL, CHUNK)))
    assert stream.finished is not None
    assert stream.finished.reason is FinishReason.COMPLETE
    assert stream.finished.timings.first_audio_seconds == 0.25


async def test_calls_carry_id_key_and_deadline(caller: Caller, server: Served) -> None:
    _, stream = await caller.stream("x", duration=0.1, timeout=9)
    await caller.call("generate", "x", duration=0.1)
    first, second = server.generator.metadata
    assert first["x-request-id"] == stream.request_id
    assert str(uuid.UUID(second["x-request-id"])) != stream.request_id
    assert first["authorization"] == "Bearer secret"
    assert first["user-agent"].startswith(f"antiphon/{antiphon.__version__}")
    with_deadline, without = server.generator.time_remaining
    assert with_deadline is not None
    # gRPC rounds a deadline on the wire, so the server may read a little more than was given.
    assert 8 < with_deadline < 10
    assert without is None or without > 1e6


async def test_generate_returns_the_whole(caller: Caller, tmp_path: Path) -> None:
    audio = await caller.call("generate", [("a", 1.0), "b"], duration=0.2, include_codes=True)
    assert isinstance(audio, antiphon.GeneratedAudio)
    assert (audio.seed, audio.sample_rate_hz, audio.duration_seconds) == (42, RATE, 0.2)
    assert audio.timings.first_audio_seconds == 0.25
    assert audio.codes is not None
    np.testing.assert_array_equal(audio.codes, piece_codes(0, 10))
    audio.save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as wav:
        assert wav.readframes(9999) == tone(0, 1600).tobytes()


@pytest.mark.parametrize("method", ["stream", "generate"])
async def test_errors_have_our_classes_and_details(caller: Caller, method: str) -> None:
    async def ask(prompt: str, **options: Any) -> Any:
        if method == "stream":
            return await caller.stream(prompt, **options)
        return await caller.call(method, prompt, **options)

    with pytest.raises(antiphon.ResourceExhaustedError) as busy:
        await ask("busy")
    assert busy.value.retry_after_seconds == 2.5
    assert (busy.value.reason, busy.value.request_id) == ("QUEUE_FULL", "from-the-server")
    with pytest.raises(antiphon.InvalidArgumentError) as refused:
        await ask("x", duration=-1)
    assert refused.value.violations == [antiphon.FieldViolation("config.duration", "-1 s is not above 0")]
    with pytest.raises(antiphon.NotFoundError, match="huge"):
        await ask("x", model="huge")
    with pytest.raises(antiphon.InternalError) as crash:
        await ask("crash")
    assert uuid.UUID(crash.value.request_id)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("gap", "chunk 2 came, 1 was due"),
        ("hole", "sample 805 came, 800 was due"),
        ("short", "announces 801"),
        ("truncated", "before the generation was finished"),
        ("no start", "progress came before started"),
    ],
)
async def test_breaches_of_the_contract(caller: Caller, prompt: str, message: str) -> None:
    with pytest.raises(antiphon.ProtocolError, match=message) as caught:
        await caller.stream(prompt, duration=SECONDS)
    assert uuid.UUID(caught.value.request_id)


async def test_an_error_in_mid_stream_comes_after_the_audio(server: Served) -> None:
    with Client(server.target) as client:
        stream = iter(client.stream_generate("late failure"))
        assert next(stream).sequence == 0
        with pytest.raises(antiphon.InternalError, match="the engine failed"):
            next(stream)


async def test_deadline(caller: Caller, server: Served) -> None:
    with pytest.raises(antiphon.DeadlineExceededError):
        await caller.stream("hang", timeout=0.3)
    assert gone(server)


async def test_a_stream_that_nobody_began_is_begun_again(caller: Caller, server: Served) -> None:
    chunks, _ = await caller.stream("not yet", duration=SECONDS, initial_credit=60.0)
    assert sum(len(chunk.samples) for chunk in chunks) == TOTAL
    tries = server.generator.configs
    assert len(tries) == 3
    assert [each.pacing.initial_credit.seconds for each in tries] == [60] * 3
    assert not any(each.HasField("resume") for each in tries)


async def test_without_resume_a_stream_that_nobody_began_fails(server: Served) -> None:
    with Client(server.target, resume=False) as client, pytest.raises(antiphon.UnavailableError):
        list(client.stream_generate("not yet"))
    assert len(server.generator.configs) == 1


async def test_nobody_answers() -> None:
    with Client("127.0.0.1:1") as client:
        with pytest.raises(antiphon.UnavailableError):
            client.generate("x")
        assert set(client.health().values()) == {HealthStatus.UNREACHABLE}
        assert set(client.list_models().errors) == set(Service)


async def test_the_server_goes_away(server: Served) -> None:
    with Client(server.target) as client, client.stream_generate("hang") as stream:
        chunks = iter(stream)
        next(chunks)
        server.server.stop(None).wait()
        with pytest.raises((antiphon.UnavailableError, antiphon.CancelledError)):
            next(chunks)


async def test_requests_end_when_the_piece_is_finished(caller: Caller, server: Served) -> None:
    await caller.stream("waits for the client", duration=0.1)
    assert server.generator.half_closed.is_set()


def test_leaving_the_loop_cancels(server: Served) -> None:
    with Client(server.target) as client:
        for chunk in client.stream_generate("hang"):
            assert chunk.sequence == 0
            break
        assert gone(server)


def test_an_exception_in_the_block_cancels(server: Served) -> None:
    with Client(server.target) as client:
        with contextlib.suppress(ZeroDivisionError), client.stream_generate("hang") as stream:
            assert stream.started is not None
            raise ZeroDivisionError
        assert gone(server)
        with pytest.raises(antiphon.CancelledError):
            list(stream)


def test_an_exception_of_the_callback_cancels(server: Served) -> None:
    with Client(server.target) as client:
        with pytest.raises(ZeroDivisionError):
            list(client.stream_generate("hang", on_progress=lambda progress: progress.steps / 0))
        assert gone(server)


def test_controls_reach_the_server(server: Served) -> None:
    with Client(server.target) as client, client.stream_generate("hang") as stream:
        chunks = iter(stream)
        next(chunks)
        stream.pause()
        stream.resume()
        stream.stop()
        assert list(chunks) == []
        assert stream.finished is not None
        assert stream.finished.reason is FinishReason.STOPPED


def test_controls_arrive_in_order(server: Served) -> None:
    with (
        Client(server.target) as client,
        client.stream_generate("waits for the client", duration=0.1) as stream,
    ):
        stream.pause()
        stream.resume()
        taken = [server.generator.controls.get(timeout=10) for _ in range(2)]
    assert taken == [GenerationControl.ACTION_PAUSE, GenerationControl.ACTION_RESUME]


def test_cancel_and_close(server: Served) -> None:
    client = Client(server.target)
    stream = client.stream_generate("hang")
    chunks = iter(stream)
    next(chunks)
    stream.cancel()
    with pytest.raises(antiphon.CancelledError):
        next(chunks)
    assert gone(server)
    client.close()
    client.close()
    with pytest.raises(antiphon.FailedPreconditionError, match="closed"):
        client.generate("x")


async def test_async_leaving_the_loop_cancels(server: Served) -> None:
    async with AsyncClient(server.target) as client:
        async for chunk in client.stream_generate("hang"):
            assert chunk.sequence == 0
            break
        assert await asyncio.to_thread(gone, server)


async def test_async_block_and_aclose_cancel(server: Served) -> None:
    async with AsyncClient(server.target) as client:
        with contextlib.suppress(ZeroDivisionError):
            async with client.stream_generate("hang") as stream:
                assert stream.started is not None
                raise ZeroDivisionError
        assert await asyncio.to_thread(gone, server)
        with pytest.raises(antiphon.CancelledError):
            await anext(aiter(stream))


async def test_async_cancelling_the_task_cancels_the_call(server: Served) -> None:
    async with AsyncClient(server.target) as client:
        came = asyncio.Event()

        async def listen() -> None:
            async for _ in client.stream_generate("hang"):
                came.set()

        task = asyncio.create_task(listen())
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone, server)


async def test_async_controls_and_cancel_from_another_task(server: Served) -> None:
    async with AsyncClient(server.target) as client:
        stream = client.stream_generate("hang")
        chunks = aiter(stream)
        await anext(chunks)
        stream.stop()
        assert [chunk async for chunk in chunks] == []
        assert stream.finished is not None
        assert stream.finished.reason is FinishReason.STOPPED

        other = client.stream_generate("hang")
        chunks = aiter(other)
        await anext(chunks)
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        other.cancel()
        with pytest.raises(antiphon.CancelledError):
            await waiting


async def test_async_closing_the_client_ends_its_streams(server: Served) -> None:
    client = AsyncClient(server.target)
    chunks = aiter(client.stream_generate("hang"))
    await anext(chunks)
    waiting = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(antiphon.CancelledError):
        await waiting
    with pytest.raises(antiphon.FailedPreconditionError, match="closed"):
        await client.generate("x")


async def test_models_and_health(caller: Caller, server: Served) -> None:
    found = await caller.call("list_models")
    assert [(model.name, model.service) for model in found] == [("tiny", service) for service in Service]
    assert found.errors == {}
    assert found.models[0].codebook_size == 1024
    assert await caller.call("health") == dict.fromkeys(Service, HealthStatus.SERVING)
    assert server.health.routes == {service.full_name: service.value for service in Service}


async def test_a_service_that_is_down_is_reported() -> None:
    with served(analyzer=False) as server:
        for make in (SyncCaller, AsyncCaller):
            caller = make(server.target)
            found = await caller.call("list_models", timeout=5)
            assert len(found) == 2
            assert isinstance(found.errors[Service.ANALYZER], antiphon.UnimplementedError)
            assert (await caller.call("health"))[Service.ANALYZER] is HealthStatus.NOT_SERVING
            await caller.close()


async def test_codec_and_analyzer(caller: Caller) -> None:
    encoded = await caller.call("encode", b"12345", codebook_count=2)
    np.testing.assert_array_equal(encoded.codes, piece_codes(0, 5)[:2])
    assert (encoded.bits_per_code, encoded.scales, encoded.sample_count) == (10, (0.5,), 5 * FRAME - 3)
    audio = await caller.call("decode", encoded)
    np.testing.assert_array_equal(audio.samples, tone(0, 5 * FRAME - 3).astype(np.float32) / np.float32(32767))
    assert len((await caller.call("decode", encoded.codes)).samples) == 5 * FRAME
    analysis = await caller.call("analyze", b"12345", threshold=0.9)
    assert (analysis.scores.mpd, analysis.is_real, analysis.verdict) == (0.75, False, Verdict.REAL)
    assert analysis.generated_probability is None
    assert analysis.windows[0].generated_probability == 0.25
