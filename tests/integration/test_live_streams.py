"""What a client may do to a running stream, over real gRPC on the embedded checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from antiphon.codes import pack_codes, unpack_codes
from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.server import Server
from tests.integration.tiny_service import details

pytestmark = pytest.mark.asyncio(loop_scope="module")
RATE = 32_000
SECONDS = 1.6
LONG = 2.8
Request = generator_pb2.StreamGenerateRequest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub() -> AsyncIterator[generator_pb2_grpc.GeneratorServiceAsyncStub]:
    settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="", slots=2, queue_limit=4)
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield generator_pb2_grpc.GeneratorServiceStub(channel)
    await server.drain()


def config(*texts: str, seconds: float = SECONDS, credit: float | None = None, **fields: Any) -> Any:
    sampling = {key: fields.pop(key) for key in list(fields) if key in ("cfg_coef", "use_sampling", "temperature")}
    result = generator_pb2.GenerationConfig(
        prompts=[{"text": text} for text in texts or ("a happy fast piano melody",)],
        sampling=sampling,
        include_codes=True,
        **{"seed": 5, **fields},
    )
    if not result.endless:
        result.duration.FromNanoseconds(round(seconds * 1e9))
    if credit is not None:
        result.pacing.initial_credit.FromNanoseconds(round(credit * 1e9))
    return result


def credit(seconds: float) -> Any:
    message = Request()
    message.credit.duration.FromNanoseconds(round(seconds * 1e9))
    return message


class Heard:
    """A running stream and all that has come of it."""

    def __init__(self, stub: Any, message: Any) -> None:
        self.call = stub.StreamGenerate()
        self.audio, self.version, self.codes, self.kinds = b"", "", np.zeros((4, 0), np.int32), list[str]()
        self.updates: list[Any] = []
        self.last: Any = None
        self._config = message

    async def open(self) -> Heard:
        await self.call.write(Request(config=self._config))
        return self

    async def read(self) -> bool:
        response = await self.call.read()
        if response is grpc.aio.EOF:
            return False
        self.last, kind = response, response.WhichOneof("response")
        self.kinds.append(kind)
        if kind == "audio":
            assert response.audio.first_sample == self.first + self.samples
            self.audio += response.audio.data
        elif kind == "codes":
            self.codes = np.concatenate([self.codes, unpack_codes(response.codes)], axis=1)
        elif kind == "started":
            self.version = response.started.model_version
        elif kind == "updated":
            self.updates.append(response.updated)
        return True

    async def until(self, samples: int) -> Heard:
        while self.samples < samples:
            assert await self.read()
        return self

    async def end(self) -> Heard:
        while await self.read():
            pass
        return self

    @property
    def first(self) -> int:
        return int(self._config.resume.received_samples)

    @property
    def samples(self) -> int:
        return len(self.audio) // 2


async def whole(stub: Any, message: Any) -> Heard:
    heard = await Heard(stub, message).open()
    await heard.call.done_writing()
    return await heard.end()


async def refusal(heard: Heard) -> tuple[str, list[str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await heard.end()
    return caught.value.code().name, [v.field for v in details(caught.value)["BadRequest"].field_violations]


async def slots(count: int) -> None:
    async with asyncio.timeout(30):
        while REGISTRY.get_sample_value("antiphon_slots_active", {"model": "tiny"}) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_paced_stream_sends_what_is_allowed_to_the_sample_and_the_same_audio(stub: Any) -> None:
    reference = await whole(stub, config())
    heard = await (await Heard(stub, config(credit=0.25)).open()).until(8000)
    pending = asyncio.ensure_future(heard.read())
    others = await whole(stub, config(seconds=0.4))  # time enough to send too much
    assert others.samples == 0.4 * RATE and heard.samples == 8000
    await heard.call.write(credit(0.01))
    assert await pending
    await heard.until(8320)
    await heard.call.write(credit(60))
    await heard.end()
    assert heard.audio == reference.audio
    assert heard.last.finished.reason == generator_pb2.GenerationFinished.REASON_COMPLETE


async def test_streams_that_wait_for_credit_hold_no_slot_that_others_want(stub: Any) -> None:
    paced = [await Heard(stub, config(credit=0.1, seed=seed)).open() for seed in range(6)]
    for heard in paced:
        await heard.until(3200)
    reference = await whole(stub, config(seed=3))
    assert reference.samples == SECONDS * RATE
    # Six were taken in two slots: some have given up their caches, and go on with the same audio all the same.
    for heard in paced:
        await heard.call.write(credit(60))
    await asyncio.gather(*(heard.end() for heard in paced))
    assert paced[3].audio == reference.audio
    assert len({heard.audio for heard in paced}) == 6


@pytest.mark.parametrize("way", ["paced", "paused"])
async def test_a_client_that_goes_while_its_stream_waits_frees_its_slot(stub: Any, way: str) -> None:
    await slots(0)
    heard = await Heard(stub, config(seconds=30.0, credit=0.1 if way == "paced" else 1.0)).open()
    await heard.until(3200)
    if way == "paused":
        await heard.call.write(Request(control={"action": "ACTION_PAUSE"}))
    await slots(1)
    heard.call.cancel()
    await slots(0)


async def test_stop_sends_what_is_made_whatever_the_credit(stub: Any) -> None:
    heard = await (await Heard(stub, config(seconds=30.0, credit=0.05)).open()).until(1600)
    await heard.call.write(Request(control={"action": "ACTION_STOP"}))
    await heard.end()
    assert heard.last.finished.reason == generator_pb2.GenerationFinished.REASON_STOPPED
    assert 1600 <= heard.samples < 2 * RATE


async def changed(stub: Any, *updates: dict[str, Any], **fields: Any) -> Heard:
    """A piece of ``LONG`` seconds with an update after each 0.6 of them; more than a chunk is, so a step is due."""
    heard = await Heard(stub, config(seconds=LONG, credit=0.2, **fields)).open()
    for index, update in enumerate(updates):
        await heard.until(round(RATE * (0.2 + 0.6 * index)))
        await heard.call.write(Request(update=update))
        await heard.call.write(credit(0.6))
        while len(heard.updates) <= index:
            assert await heard.read()
    await heard.call.write(credit(60))
    return await heard.end()


UPDATES = (
    {"prompts": [{"text": "a sad slow guitar melody"}], "blend_steps": 7},
    {"sampling": {"cfg_coef": 1.0, "temperature": 0.7}},
    {"prompts": [{"text": "organ", "weight": 2.0}, {"text": "strings"}], "sampling": {"cfg_coef": 3.0}},
)


async def test_updates_are_told_and_change_only_what_follows(stub: Any) -> None:
    reference = await whole(stub, config(seconds=LONG))
    heard = await changed(stub, *UPDATES)
    first = heard.updates[0].step
    np.testing.assert_array_equal(heard.codes[0, :first], reference.codes[0, :first])
    assert (heard.codes[:, first:] != reference.codes[:, first:]).any()
    assert [list(u.update.prompts) for u in heard.updates][1] == []
    assert heard.updates[0].update.blend_steps == 7 and heard.updates[2].update.prompts[0].weight == 2.0
    assert [u.step for u in heard.updates] == sorted(u.step for u in heard.updates)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
async def test_a_piece_goes_on_with_the_next_sample_wherever_it_was_cut(stub: Any, guidance: float) -> None:
    reference = await changed(stub, *UPDATES, cfg_coef=guidance)
    random = np.random.default_rng(int(guidance))
    for frames in (0, *random.integers(1, 140, 3), 140):
        received = int(random.integers(0, frames * 640 + 1))
        message = config(seconds=LONG, cfg_coef=guidance)
        if frames:
            message.resume.codes.CopyFrom(pack_codes(reference.codes[:, :frames], 9))
        message.resume.received_samples = received
        message.resume.updates.extend(reference.updates)
        resumed = await whole(stub, message)
        assert resumed.audio == reference.audio[2 * received :]
        np.testing.assert_array_equal(resumed.codes, reference.codes[:, frames:])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda c: c.ClearField("seed"), "config.seed"),
        (lambda c: setattr(c.resume.codes, "frame_count", 300), "config.resume.codes.data"),
        (lambda c: setattr(c.resume.codes, "codebook_count", 2), "config.resume.codes.codebook_count"),
        (lambda c: setattr(c.resume.codes, "bits_per_code", 3), "config.resume.codes.bits_per_code"),
        (lambda c: setattr(c.resume.codes, "first_frame", 1), "config.resume.codes.first_frame"),
        (lambda c: setattr(c.resume, "received_samples", 10 * 640 + 1), "config.resume.received_samples"),
        (lambda c: c.duration.FromMilliseconds(100), "config.resume.codes.frame_count"),
        (
            lambda c: [c.resume.updates.add(step=step) for step in (5, 4)],
            "config.resume.updates[1].step",
        ),
        (
            lambda c: c.resume.updates.add(update={"blend_steps": 9}),
            "config.resume.updates[0].update.blend_steps",
        ),
    ],
)
async def test_a_bad_resume_point_is_refused_by_its_field(stub: Any, change: Any, field: str) -> None:
    message = config()
    message.resume.codes.CopyFrom(pack_codes(np.zeros((4, 10), np.int32), 9))
    change(message)
    heard = await Heard(stub, message).open()
    code, fields = await refusal(heard)
    assert code == "INVALID_ARGUMENT" and field in fields


async def test_only_the_version_that_began_a_piece_goes_on_with_it(stub: Any) -> None:
    reference = await whole(stub, config())
    version = reference.version
    assert version.endswith("-fp32")
    message = config()
    message.resume.codes.CopyFrom(pack_codes(reference.codes[:, :10], 9))
    message.resume.model_version = version
    assert (await whole(stub, message)).audio == reference.audio
    message.resume.model_version = version.replace("fp32", "int8")
    code, fields = await refusal(await Heard(stub, message).open())
    assert (code, fields) == ("FAILED_PRECONDITION", ["config.resume.model_version"])


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        (Request(update={"sampling": {"temperature": -1.0}}), "INVALID_ARGUMENT", "update.sampling.temperature"),
        (Request(update={"prompts": [{"text": "\x00"}]}), "INVALID_ARGUMENT", "update.prompts[0].text"),
        (Request(update={"blend_steps": 5}), "INVALID_ARGUMENT", "update.blend_steps"),
        (Request(credit={}), "INVALID_ARGUMENT", "credit.duration"),
        (Request(control={}), "INVALID_ARGUMENT", "control.action"),
        (credit(1), "FAILED_PRECONDITION", "credit"),
    ],
)
async def test_a_bad_message_ends_the_stream_with_its_field(stub: Any, message: Any, code: str, field: str) -> None:
    heard = await Heard(stub, config(seconds=30.0)).open()
    await heard.call.write(message)
    assert await refusal(heard) == (code, [field])


async def test_prompts_are_mixed_by_weight(stub: Any) -> None:
    alone = await whole(stub, config("piano", use_sampling=False))
    twice = await whole(stub, config("piano", "piano", use_sampling=False))
    mixed = await whole(stub, config("piano", "a sad slow guitar melody", use_sampling=False))
    np.testing.assert_array_equal(alone.codes, twice.codes)
    assert (alone.codes != mixed.codes).any()


async def test_an_endless_piece_goes_on_until_it_is_stopped(stub: Any) -> None:
    heard = await Heard(stub, config(endless=True, credit=0.5)).open()
    await heard.until(16000)
    reference = await whole(stub, config(seconds=0.4))
    assert heard.audio.startswith(reference.audio[: 8000 * 2])
    await heard.call.write(credit(22))  # past the model's window
    await heard.until(22 * RATE)
    await heard.call.write(Request(control={"action": "ACTION_STOP"}))
    await heard.end()
    assert heard.last.finished.reason == generator_pb2.GenerationFinished.REASON_STOPPED
    assert heard.last.finished.audio_duration.ToSeconds() >= 22


async def test_an_endless_piece_has_no_duration(stub: Any) -> None:
    message = config(endless=True)
    message.duration.FromSeconds(1)
    assert await refusal(await Heard(stub, message).open()) == ("INVALID_ARGUMENT", ["config.duration"])


async def test_a_batch_makes_each_piece_as_alone(stub: Any) -> None:
    configs = [config(text, seconds=0.3 + 0.1 * i, seed=i) for i, text in enumerate(["piano", "organ", "guitar"])]
    found: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    async for response in stub.GenerateBatch(generator_pb2.GenerateBatchRequest(configs=configs)):
        found[response.index].append(response.response)
    for index, message in enumerate(configs):
        alone = await whole(stub, message)
        assert b"".join(r.audio.data for r in found[index]) == alone.audio
        assert [r.WhichOneof("response") for r in found[index]] == alone.kinds


async def test_a_bad_batch_names_its_pieces(stub: Any) -> None:
    configs = [config(), config(seconds=-1.0), config(credit=1.0)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.GenerateBatch(generator_pb2.GenerateBatchRequest(configs=configs)):
            pass
    fields = [v.field for v in details(caught.value)["BadRequest"].field_violations]
    assert fields == ["configs[1].duration", "configs[2].pacing"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.GenerateBatch(generator_pb2.GenerateBatchRequest()):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_formats_of_the_resume_are_those_of_the_request(stub: Any) -> None:
    message = config(seconds=0.4)
    message.output_format.encoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE
    reference = await stub.Generate(generator_pb2.GenerateRequest(config=message))
    message.resume.codes.CopyFrom(reference.codes)
    message.resume.received_samples = 5000
    audio = b""
    call = stub.StreamGenerate(iter([Request(config=message)]))
    async for response in call:
        audio += response.audio.data
    assert audio == reference.audio[4 * 5000 :]
