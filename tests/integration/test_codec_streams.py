"""StreamEncode and StreamDecode on a real server: exact, in any pieces, beside each other, and against bad input."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch

from antiphon.codes import pack_codes, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2, codec_pb2_grpc
from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from services.models import loader, sessions
from services.models.resampling import convert
from services.runtime import messages
from services.runtime.server import Server
from tests import codec_models
from tests.audio_files import encoded
from tests.integration.audio_service import body, is_healthy, refused, serving
from tests.integration.codec_stream_cases import (
    AUDIO,
    BAD_AUDIO,
    BAD_CODES,
    BEGIN,
    FIRST,
    GOOD,
    INVALID,
    PRECONDITION,
    SECOND,
    START,
)
from tests.integration.codec_streams import (
    BITS,
    BOOKS,
    F32,
    HOP,
    RATE,
    Served,
    chunks,
    decode,
    decode_config,
    encode,
    encode_config,
    frames,
    reference,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("codecs")
    for name in ("24", "32", "48", "whole"):
        (folder / name).mkdir()
    codec_models.save_seanet(folder / "24", "encodec_24khz")
    codec_models.save_diffusion(folder / "24" / "mbd_comp_4.pt")
    codec_models.save_transformers(folder / "32", "encodec_32khz", 4)
    codec_models.save_transformers(folder / "48", "encodec_48khz", 2)
    codec_models.save_normalising(folder / "whole")
    names = {name: str(folder / name) for name in ("24", "32", "48", "whole")}
    settings = CodecSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        models=tuple(names.values()),
        device="cpu",
        threads=1,
        max_audio_seconds=5.0,
        max_stream_seconds=8.0,
        max_streams=12,
    )
    references = {name: loader.load_codec(path).model for name, path in names.items()}
    async with serving(CodecService(settings), settings) as channel:
        yield Served(channel, codec_pb2_grpc.CodecServiceStub(channel), names, references)


@pytest.mark.parametrize("name", ["24", "32"])
@pytest.mark.parametrize("sizes", [[1_600] * 16, [1, 2, 3, 7, 24_987], [25_000]])
async def test_a_stream_is_the_offline_result(served: Served, name: str, sizes: list[int]) -> None:
    model, codec = served.names[name], served.references[name]
    audio = codec_models.noise(25_000 / RATE, RATE)
    expected, samples = reference(served, name, audio)
    codes, _, responses = await encode(served, encode_config(model, codec.sample_rate), audio, sizes)
    assert codes.shape == expected.shape
    assert (codes == expected).mean() > 0.99
    assert responses[-1].finished.sample_count == 25_000
    assert responses[0].started.model == model
    bits = responses[0].started.codes.bits_per_code
    pieces = [3] * (expected.shape[1] // 3) + [expected.shape[1] % 3 or 1] * bool(expected.shape[1] % 3)
    made, replies = await decode(served, [decode_config(model), *frames(expected, bits, pieces)])
    assert made.shape == samples.shape
    assert np.abs(made - samples).max() < 1e-5
    assert replies[0].decoder == codec_pb2.DECODER_ENCODEC
    made, _ = await decode(served, [decode_config(model, sample_count=25_000), *frames(expected, bits, pieces)])
    assert np.abs(made - samples[:, :25_000]).max() < 1e-5


async def test_a_stream_is_the_unary_result(served: Served) -> None:
    """One frame in, one frame out, and the codes of Encode; the segments of 48 kHz too."""
    for name, rate, channels in (("24", 44_100, 2), ("48", 48_000, 2), ("48", 22_050, 1)):
        audio = codec_models.noise(2.13, rate, channels)
        whole = await served.stub.Encode(
            codec_pb2.EncodeRequest(model=served.names[name], audio=body(encoded("wavf", audio.T.numpy(), rate)))
        )
        config = encode_config(served.names[name], rate, channels)
        codes, scales, responses = await encode(served, config, audio, [5_000] * (audio.shape[1] // 5_000 + 1))
        assert np.mean(codes == unpack_codes(whole.codes)) > 0.99
        assert np.allclose(scales, whole.codes.scales, rtol=1e-5)
        count = convert(audio, rate, served.references[name].sample_rate, 1).shape[1]
        assert responses[-1].finished.sample_count == whole.sample_count == count
        bits = whole.codes.bits_per_code
        form = audio_pb2.AudioFormat(encoding=F32)
        expected = await served.stub.Decode(
            codec_pb2.DecodeRequest(model=served.names[name], codes=whole.codes, sample_count=count, output_format=form)
        )
        sizes = [40] * (codes.shape[1] // 40) + [codes.shape[1] % 40]
        requests = frames(unpack_codes(whole.codes), bits, sizes, list(whole.codes.scales))
        made, _ = await decode(served, [decode_config(served.names[name], sample_count=count), *requests])
        samples = np.frombuffer(expected.audio, "<f4").reshape(-1, made.shape[0]).T
        assert np.abs(made - samples).max() < 1e-5


async def test_one_frame_in_one_frame_out(served: Served) -> None:
    """After the start of a causal stream each frame of audio brings its codes before more audio is sent."""
    call = served.stub.StreamEncode()
    await call.write(encode_config(served.names["24"], RATE, codebook_count=2))
    assert (await call.read()).WhichOneof("response") == "started"
    audio = codec_models.noise(1.0, RATE)
    for number, request in enumerate(chunks(audio, [HOP] * 20)):
        await call.write(request)
        if number == 6:
            assert (await call.read()).codes.frame_count == 7
        if number > 6:
            assert (await call.read()).codes.first_frame == number
    await call.done_writing()
    assert (await call.read()).finished.sample_count == 20 * HOP


async def test_neighbours_change_nothing(served: Served) -> None:
    pieces = [codec_models.noise(0.3 + 0.1 * index, RATE, seed=index) for index in range(6)]
    config = encode_config(served.names["24"], RATE)

    async def one(audio: torch.Tensor) -> Any:
        codes, _, _ = await encode(served, config, audio, [HOP] * (audio.shape[1] // HOP + 1))
        made, _ = await decode(served, [decode_config(served.names["24"]), *frames(codes, BITS, [1] * codes.shape[1])])
        return codes, made

    alone = [await one(audio) for audio in pieces]
    together = await asyncio.gather(*(one(audio) for audio in pieces))
    for (codes, made), (other_codes, other_made) in zip(alone, together, strict=True):
        assert np.array_equal(codes, other_codes)
        assert np.array_equal(made, other_made)


async def test_the_list_tells_the_latency(served: Served) -> None:
    reply = await served.stub.ListModels(codec_pb2.CodecServiceListModelsRequest())
    by_name = {codec.name: (codec, model) for codec, model in zip(reply.codecs, reply.models, strict=True)}
    causal, model = by_name[served.names["24"]]
    assert (causal.encode_latency.ToNanoseconds(), causal.decode_latency.ToNanoseconds()) == (0, 0)
    assert model.latency.ToNanoseconds() == 0
    assert (causal.encode_start.ToMilliseconds(), causal.samples_per_frame) == (93, HOP)
    assert list(causal.decoders) == [codec_pb2.DECODER_ENCODEC, codec_pb2.DECODER_MULTI_BAND_DIFFUSION]
    centred, model = by_name[served.names["32"]]
    assert 60 <= centred.decode_latency.ToMilliseconds() <= 80
    assert model.latency.ToNanoseconds() == max(
        centred.decode_latency.ToNanoseconds(), centred.encode_latency.ToNanoseconds()
    )
    segmented, _ = by_name[served.names["48"]]
    assert (segmented.segment_frames, segmented.segment_stride) == (150, 47_520)
    assert segmented.encode_latency.ToMilliseconds() == 1000
    assert [codec.is_streamable for codec in reply.codecs] == [True, True, True, False]


async def test_quality_says_what_it_chose(served: Served) -> None:
    audio = codec_models.noise(0.1, RATE)
    for quality, books, decoder in (
        (codec_pb2.QUALITY_DRAFT, 1, codec_pb2.DECODER_ENCODEC),
        (codec_pb2.QUALITY_STANDARD, 4, codec_pb2.DECODER_ENCODEC),
        (codec_pb2.QUALITY_HIGH, 4, codec_pb2.DECODER_MULTI_BAND_DIFFUSION),
    ):
        _, _, responses = await encode(served, encode_config(served.names["24"], RATE, quality=quality), audio, [2_400])
        started = responses[0].started
        assert (started.codes.codebook_count, started.decoder) == (books, decoder)
        assert started.bandwidth_kbps == pytest.approx(books * BITS * 0.075)


async def test_diffusion_decodes_whole_pieces(served: Served) -> None:
    codes = pack_codes(np.random.default_rng(0).integers(0, 512, (4, 6), dtype=np.int32), BITS)

    async def made(**fields: Any) -> Any:
        form = audio_pb2.AudioFormat(encoding=F32)
        return await served.stub.Decode(codec_pb2.DecodeRequest(codes=codes, output_format=form, **fields))

    mbd = codec_pb2.DECODER_MULTI_BAND_DIFFUSION
    first = await made(decoder=mbd, seed=3)
    assert (first.decoder, first.sample_count) == (mbd, 6 * HOP)
    assert (await made(decoder=mbd, seed=3)).audio == first.audio
    assert (await made(quality=codec_pb2.QUALITY_HIGH, seed=3)).audio == first.audio
    assert (await made(decoder=mbd, seed=4)).audio != first.audio
    plain = await made(quality=codec_pb2.QUALITY_STANDARD)
    assert (plain.decoder, plain.audio == first.audio) == (codec_pb2.DECODER_ENCODEC, False)
    codes = pack_codes(np.zeros((2, 6), np.int32), BITS)
    assert await refused(made(decoder=mbd)) == (INVALID, "codes.codebook_count")
    assert (await made(quality=codec_pb2.QUALITY_HIGH)).decoder == codec_pb2.DECODER_ENCODEC


async def _read(call: Any) -> AsyncIterator[Any]:
    while (response := await call.read()) != grpc.aio.EOF:
        yield response


async def ended(call: Any) -> None:
    async for _ in call:
        pass


@pytest.mark.parametrize("case", BAD_AUDIO)
async def test_refuses_audio(served: Served, case: str) -> None:
    requests, code, field = BAD_AUDIO[case]
    assert await refused(ended(served.stub.StreamEncode(iter(requests)))) == (code, field)
    assert await is_healthy(served.channel, CodecService.name)
    codes, _, _ = await encode(served, START, AUDIO, [2_400])
    assert codes.shape == (BOOKS, 8)


async def test_a_stream_that_says_nothing_is_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "FIRST_MESSAGE_SECONDS", 0.2)
    call = served.stub.StreamEncode()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no message came within 0.2 s" in str(caught.value.details())


@pytest.mark.parametrize("case", BAD_CODES)
async def test_refuses_codes(served: Served, case: str) -> None:
    requests, code, field = BAD_CODES[case]
    assert await refused(ended(served.stub.StreamDecode(iter(requests)))) == (code, field)
    assert await is_healthy(served.channel, CodecService.name)
    made, _ = await decode(served, [BEGIN, FIRST, SECOND])
    assert made.shape == (1, 30 * HOP)


async def test_codes_beyond_the_codebook_are_refused(served: Served) -> None:
    """48 kHz: a change of loudness within a segment, in one message or from one to the next."""
    codes = np.zeros((2, 20), np.int32)
    config = decode_config(served.names["48"])
    for scales in ([1.0] * 9 + [2.0] * 11, [1.0] * 10 + [2.0] * 10, [float("nan")] * 20):
        call = served.stub.StreamDecode(iter([config, *frames(codes, 10, [10, 10], scales)]))
        assert await refused(ended(call)) == (INVALID, "codes.scales")


async def test_a_model_that_runs_whole_does_not_stream(served: Served) -> None:
    name = served.names["whole"]
    call = served.stub.StreamEncode(iter([encode_config(name)]))
    assert await refused(ended(call)) == (PRECONDITION, "config.model")
    assert await refused(ended(served.stub.StreamDecode(iter([decode_config(name)])))) == (PRECONDITION, "config.model")


async def test_what_is_cancelled_is_freed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[weakref.ref[Any]] = []
    monkeypatch.setattr(sessions.Session, "__post_init__", lambda self: begun.append(weakref.ref(self)), raising=False)
    calls = []
    for _ in range(3):
        call = served.stub.StreamEncode()
        await call.write(START)
        await call.write(GOOD[0])
        assert (await call.read()).WhichOneof("response") == "started"
        calls.append(call)
    for call in calls:
        call.cancel()
    del call, calls
    for _ in range(50):
        await asyncio.sleep(0.02)
        gc.collect()
        if not any(ref() for ref in begun):
            break
    assert not any(ref() for ref in begun)


async def test_no_more_streams_than_the_limit(served: Served) -> None:
    calls = []
    for _ in range(12):
        call = served.stub.StreamEncode()
        await call.write(START)
        assert (await call.read()).WhichOneof("response") == "started"
        calls.append(call)
    refusal = await refused(ended(served.stub.StreamEncode(iter([START]))))
    assert refusal[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        await call.done_writing()
        assert (await call.read()).finished.sample_count == 0
        assert await call.read() == grpc.aio.EOF
    codes, _, _ = await encode(served, START, AUDIO, [2_400])
    assert codes.shape == (BOOKS, 8)


async def test_a_drain_lets_a_stream_finish(tmp_path: Path) -> None:
    codec_models.save_seanet(tmp_path, "embedded")
    settings = CodecSettings(listen="127.0.0.1:0", metrics_listen="", models=(str(tmp_path),), device="cpu")
    server = Server(CodecService(settings), settings)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = codec_pb2_grpc.CodecServiceStub(channel)
        call = stub.StreamEncode()
        await call.write(START)
        assert (await call.read()).WhichOneof("response") == "started"
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0.1)
        assert (await refused(ended(stub.StreamEncode(iter([START])))))[0] == grpc.StatusCode.UNAVAILABLE
        for request in GOOD:
            await call.write(request)
        await call.done_writing()
        responses = [response async for response in _read(call)]
        assert responses[-1].finished.sample_count == 3_200
        await draining
