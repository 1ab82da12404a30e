"""The generator over real gRPC, on the embedded checkpoint, against AudioCraft itself."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from prometheus_client import REGISTRY

from antiphon.codes import unpack_codes
from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.models.loader import LoadedGenerator, load_generator
from services.runtime.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")
RATE = 32_000
HOP = 640


@pytest.fixture(scope="module")
def tiny() -> LoadedGenerator:
    return load_generator("tiny")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub() -> AsyncIterator[generator_pb2_grpc.GeneratorServiceAsyncStub]:
    settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="", slots=8, queue_limit=2)
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield generator_pb2_grpc.GeneratorServiceStub(channel)
    await server.drain()


def config(text: str = "a happy fast piano melody", seconds: float = 2.0, **fields: Any) -> Any:
    sampling = {
        k: fields.pop(k) for k in list(fields) if k in ("cfg_coef", "use_sampling", "temperature", "top_k", "top_p")
    }
    result = generator_pb2.GenerationConfig(prompts=[{"text": text}], sampling=sampling, **fields)
    result.duration.FromNanoseconds(round(seconds * 1e9))
    result.output_format.encoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE
    return result


def first(message: Any) -> Iterator[generator_pb2.StreamGenerateRequest]:
    yield generator_pb2.StreamGenerateRequest(config=message)


async def collect(stub: Any, message: Any) -> tuple[np.ndarray, list[Any]]:
    responses = [response async for response in stub.StreamGenerate(first(message))]
    audio = b"".join(r.audio.data for r in responses if r.WhichOneof("response") == "audio")
    return np.frombuffer(audio, "<f4"), responses


async def test_lists_the_embedded_model(stub: Any) -> None:
    models = (await stub.ListModels(generator_pb2.GeneratorServiceListModelsRequest())).models
    found = [(m.name, m.is_default, m.sample_rate_hz, m.codebook_count) for m in models]
    assert found == [("tiny", True, RATE, 4), ("tiny-sound", False, 16_000, 4)]
    assert all(model.digest and model.license == "MIT" for model in models)


@pytest.mark.parametrize("cfg_coef", [3.0, 1.0])
async def test_greedy_tokens_are_audiocrafts_and_audio_is_its_decode(
    stub: Any, tiny: LoadedGenerator, cfg_coef: float
) -> None:
    from audiocraft.modules.conditioners import ConditioningAttributes

    text = "a sad slow guitar melody"
    request = config(text, 10.0, use_sampling=False, cfg_coef=cfg_coef, include_codes=True)
    audio, responses = await collect(stub, request)
    parts = [unpack_codes(r.codes) for r in responses if r.WhichOneof("response") == "codes"]
    codes = torch.from_numpy(np.concatenate(parts, axis=1)).long()
    attributes = [ConditioningAttributes(text={"description": text})]
    with torch.inference_mode():
        expected = tiny.lm.generate(None, attributes, max_gen_len=500, use_sampling=False, cfg_coef=cfg_coef)[0]
        offline = tiny.codec.decode(expected[None])[0, 0].numpy()
    assert torch.equal(codes, expected)
    assert audio.shape == offline.shape == (10 * RATE,)
    assert np.abs(audio - offline).max() < 1e-5


async def test_chunks_are_numbered_and_come_while_tokens_are_made(stub: Any) -> None:
    audio, responses = await collect(stub, config(seconds=4.0, seed=1))
    kinds = [r.WhichOneof("response") for r in responses]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    chunks = [r.audio for r in responses if r.WhichOneof("response") == "audio"]
    assert [c.sequence for c in chunks] == list(range(len(chunks)))
    assert [c.first_sample for c in chunks] == [0, *np.cumsum([c.sample_count for c in chunks])[:-1]]
    assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
    before = next(i for i, kind in enumerate(kinds) if kind == "audio")
    assert responses[before - 1].progress.steps < responses[0].started.total_steps / 10
    assert audio.shape[0] == responses[0].started.total_samples == 4 * RATE


async def test_eight_streams_at_once_each_equal_the_request_alone(stub: Any) -> None:
    requests = [
        config(f"a {word} piece", 1.0 + 0.3 * i, seed=i, cfg_coef=1.0 if i % 3 == 2 else 3.0, top_k=50 + i)
        for i, word in enumerate(["piano", "guitar", "strings", "trumpet", "organ", "marimba", "sad", ""])
    ]
    together = await asyncio.gather(*(collect(stub, request) for request in requests))
    for request, (audio, _) in zip(requests, together, strict=True):
        alone, _ = await collect(stub, request)
        np.testing.assert_array_equal(audio, alone)


async def test_generate_returns_what_the_stream_streams(stub: Any) -> None:
    request = config(seed=3, include_codes=True)
    streamed, _ = await collect(stub, request)
    whole = await stub.Generate(generator_pb2.GenerateRequest(config=request))
    np.testing.assert_array_equal(np.frombuffer(whole.audio, "<f4"), streamed)
    assert unpack_codes(whole.codes).shape == (4, 100)
    assert whole.finished.steps == 103 and whole.started.config.seed == 3


async def test_a_file_is_a_wav_of_the_length_that_its_header_says(stub: Any) -> None:
    request = generator_pb2.GenerateFileRequest(kind="music", text="piano", duration=1.0, seed=2)
    bodies = [body async for body in stub.GenerateFile(request)]
    assert bodies[0].content_type == "audio/wav" and len(bodies) > 1
    with wave.open(io.BytesIO(b"".join(body.data for body in bodies))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, RATE)
        assert len(file.readframes(RATE)) == 2 * RATE


def nan() -> float:
    return float("nan")


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        (lambda c: c.ClearField("prompts"), "INVALID_ARGUMENT", "config.prompts"),
        (
            lambda c: c.prompts[0].MergeFrom(type(c.prompts[0])(text="x" * 1001)),
            "INVALID_ARGUMENT",
            "config.prompts[0].text",
        ),
        (
            lambda c: c.prompts[0].MergeFrom(type(c.prompts[0])(text="\x00")),
            "INVALID_ARGUMENT",
            "config.prompts[0].text",
        ),
        (lambda c: c.duration.FromSeconds(-1), "INVALID_ARGUMENT", "config.duration"),
        (lambda c: c.duration.FromSeconds(10**9), "INVALID_ARGUMENT", "config.duration"),
        (lambda c: setattr(c.sampling, "temperature", nan()), "INVALID_ARGUMENT", "config.sampling.temperature"),
        (lambda c: setattr(c.sampling, "top_k", -1), "INVALID_ARGUMENT", "config.sampling.top_k"),
        (lambda c: setattr(c.sampling, "top_p", 1.5), "INVALID_ARGUMENT", "config.sampling.top_p"),
        (lambda c: setattr(c.sampling, "cfg_coef", nan()), "INVALID_ARGUMENT", "config.sampling.cfg_coef"),
        (
            lambda c: setattr(c.output_format, "sample_rate_hz", 1),
            "INVALID_ARGUMENT",
            "config.output_format.sample_rate_hz",
        ),
        (lambda c: setattr(c, "model", "../../etc"), "NOT_FOUND", "config.model"),
        (lambda c: c.prompts.add(text="two", weight=-1.0), "INVALID_ARGUMENT", "config.prompts[1].weight"),
        (lambda c: c.MergeFrom(generator_pb2.GenerationConfig(seed=1, resume={})), "INVALID_ARGUMENT", "config.resume"),
        (lambda c: c.pacing.SetInParent(), "INVALID_ARGUMENT", "config.pacing"),
        (
            lambda c: (c.ClearField("duration"), c.MergeFrom(generator_pb2.GenerationConfig(endless=True))),
            "INVALID_ARGUMENT",
            "config.endless",
        ),
    ],
)
async def test_bad_configs_name_their_field_and_the_server_goes_on(
    stub: Any, change: Any, code: str, field: str
) -> None:
    request = config(seconds=0.2)
    change(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(generator_pb2.GenerateRequest(config=request))
    assert caught.value.code().name == code
    assert _fields(caught.value) == [field]
    audio, _ = await collect(stub, config(seconds=0.2))
    assert audio.shape == (0.2 * RATE,)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "config"),
        ([{"control": {"action": "ACTION_STOP"}}], "control"),
        ([{"prompt_audio": {"data": b"x"}}], "prompt_audio"),
        ([{"config": None}, {"config": None}], "config"),
    ],
)
async def test_messages_out_of_order(stub: Any, messages: list[dict[str, Any]], field: str) -> None:
    def requests() -> Iterator[generator_pb2.StreamGenerateRequest]:
        for message in messages:
            filled = {"config": config(seconds=20.0)} if "config" in message else message
            yield generator_pb2.StreamGenerateRequest(**filled)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.StreamGenerate(requests()):
            pass
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert _fields(caught.value) == [field]


async def test_stop_ends_with_what_there_is_and_pause_holds(stub: Any) -> None:
    call = stub.StreamGenerate()
    await call.write(generator_pb2.StreamGenerateRequest(config=config(seconds=20.0, seed=1)))
    while (await call.read()).WhichOneof("response") != "audio":
        pass
    for action in ("ACTION_PAUSE", "ACTION_RESUME", "ACTION_STOP"):
        await call.write(generator_pb2.StreamGenerateRequest(control={"action": action}))
    samples, last = 5 * HOP, None
    while (response := await call.read()) is not grpc.aio.EOF:
        samples += response.audio.sample_count
        last = response
    assert last is not None
    assert last.finished.reason == generator_pb2.GenerationFinished.REASON_STOPPED
    assert 0 < last.finished.audio_duration.ToNanoseconds() / 1e9 * RATE == samples < 20 * RATE


async def test_a_client_that_goes_frees_its_slot(stub: Any) -> None:
    call = stub.StreamGenerate(first(config(seconds=20.0)))
    await call.read()
    await call.read()
    assert REGISTRY.get_sample_value("antiphon_slots_active", {"model": "tiny"}) == 1
    call.cancel()
    for _ in range(200):
        if REGISTRY.get_sample_value("antiphon_slots_active", {"model": "tiny"}) == 0:
            break
        await asyncio.sleep(0.01)
    assert REGISTRY.get_sample_value("antiphon_slots_active", {"model": "tiny"}) == 0


async def test_a_full_queue_says_when_to_come_again(stub: Any) -> None:
    calls = [stub.StreamGenerate(first(config(seconds=20.0, seed=i))) for i in range(10)]
    for call in calls:
        await call.read()  # started: accepted
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(generator_pb2.GenerateRequest(config=config()))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = _detail(caught.value, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() > 0
    for call in calls:
        call.cancel()


def _detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    raise AssertionError(f"no {kind.__name__} in {status}")


def _fields(error: grpc.aio.AioRpcError) -> list[str]:
    return [v.field for v in _detail(error, error_details_pb2.BadRequest).field_violations]
