"""The codec service against AudioCraft's own encode and decode on the same checkpoint."""

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
import soundfile
import torch

from antiphon.codes import pack_codes, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2, codec_pb2_grpc
from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from services.models import loader
from services.models.audio import AudioLimits, convert, read_audio
from services.models.tiny import checkpoints
from tests.audio_files import encoded, tone
from tests.integration.audio_service import body, is_healthy, refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE, BITS, BOOKS, HOP = 32_000, 9, 4, 640
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
F32 = audio_pb2.AudioFormat(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE)


@dataclasses.dataclass(frozen=True)
class Codec:
    """The running service and AudioCraft's model of the same file."""

    channel: Any
    stub: Any
    name: str
    reference: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def codec(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Codec]:
    folder = tmp_path_factory.mktemp("codec")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = checkpoints.build_codec().state_dict()
    # Untrained, the encoder's output is too small to reach but a few codes.
    for name in [name for name in state if name.endswith("embed")]:
        state[name] *= 0.01
    checkpoints.save(folder / "compression_state_dict.bin", checkpoints.CODEC_CONFIG, state)
    settings = CodecSettings(
        listen="127.0.0.1:0", metrics_listen="", models=(str(folder),), device="cpu", max_audio_seconds=5.0
    )
    reference = loader.load_codec(str(folder)).model
    async with serving(CodecService(settings), settings) as channel:
        yield Codec(channel, codec_pb2_grpc.CodecServiceStub(channel), str(folder), reference)


@torch.inference_mode()
def reference_codes(codec: Codec, data: bytes) -> np.ndarray:
    audio, rate = read_audio(data, AudioLimits())
    codes, _ = codec.reference.encode(convert(audio, rate, RATE, 1)[None])
    return np.asarray(codes[0])


@torch.inference_mode()
def reference_audio(codec: Codec, codes: np.ndarray) -> np.ndarray:
    return np.asarray(codec.reference.decode(torch.from_numpy(codes).long()[None])[0])


async def encode(codec: Codec, data: bytes, **fields: Any) -> Any:
    return await codec.stub.Encode(codec_pb2.EncodeRequest(audio=body(data), **fields))


async def decode(codec: Codec, codes: Any, **fields: Any) -> Any:
    return await codec.stub.Decode(codec_pb2.DecodeRequest(codes=codes, **fields))


def some_codes(frames: int = 50, books: int = BOOKS) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 512, (books, frames), dtype=np.int32)


async def test_lists_what_is_loaded(codec: Codec) -> None:
    (model,) = (await codec.stub.ListModels(codec_pb2.CodecServiceListModelsRequest())).models
    assert (model.name, model.kind, model.is_default) == (codec.name, audio_pb2.MODEL_KIND_CODEC, True)
    assert (model.sample_rate_hz, model.channel_count, model.frame_rate_hz) == (RATE, 1, 50.0)
    assert (model.codebook_count, model.codebook_size, model.max_duration.seconds) == (BOOKS, 512, 5)
    assert (model.device, model.precision, len(model.digest)) == ("cpu", "fp32", 64)
    assert model.is_trained


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [
        ("wav", RATE, 1),
        ("wavf", 44_100, 2),
        ("flac", 48_000, 2),
        ("ogg", RATE, 1),
        ("mp3", 44_100, 1),
        ("m4a", 44_100, 2),
        ("webm", 48_000, 1),
    ],
)
async def test_encodes_as_audiocraft_does(codec: Codec, kind: str, rate: int, channels: int) -> None:
    data = encoded(kind, tone(1.01, rate, channels), rate)
    reply = await encode(codec, data, include_values=True)
    expected = reference_codes(codec, data)
    assert len(np.unique(expected)) > 20
    assert np.array_equal(unpack_codes(reply.codes), expected)
    assert [list(book.values) for book in reply.values] == expected.tolist()
    audio, _ = read_audio(data, AudioLimits())
    assert reply.sample_count == audio.shape[1] * RATE // rate
    assert reply.codes.frame_count == -(-reply.sample_count // HOP)
    assert reply.model == codec.name
    assert (reply.format.sample_rate_hz, reply.format.channel_count) == (RATE, 1)
    assert reply.bandwidth_kbps == pytest.approx(1.8)
    assert not reply.codes.scales


async def test_decodes_what_it_encoded(codec: Codec) -> None:
    data = encoded("wav", tone(1.01))
    made = await encode(codec, data)
    expected = reference_audio(codec, reference_codes(codec, data))[:, : made.sample_count]
    reply = await decode(codec, made.codes, sample_count=made.sample_count, output_format=F32, model=made.model)
    samples, count = np.frombuffer(reply.audio, "<f4"), made.sample_count
    assert reply.sample_count == count == len(samples)
    assert np.abs(samples - expected[0]).max() < 1e-5
    reply = await decode(codec, made.codes, sample_count=count)
    assert reply.format.encoding == audio_pb2.AUDIO_ENCODING_PCM_S16LE
    whole = np.frombuffer(reply.audio, "<i2").astype(int)
    assert np.abs(whole - np.clip(expected[0], -1, 1) * 32767).max() <= 1
    wav = audio_pb2.AudioFormat(encoding=audio_pb2.AUDIO_ENCODING_WAV, sample_rate_hz=RATE, channel_count=1)
    reply = await decode(codec, made.codes, output_format=wav)
    file, rate = soundfile.read(io.BytesIO(reply.audio), dtype="int16")
    assert (rate, len(file), reply.sample_count) == (RATE, made.codes.frame_count * HOP, len(file))
    assert np.array_equal(file[: len(whole)], whole)


@pytest.mark.parametrize("books", [1, 2, 3, 4])
async def test_fewer_codebooks_are_those_of_a_narrower_model(codec: Codec, books: int) -> None:
    data = encoded("wav", tone(0.5))
    codec.reference.set_num_codebooks(books)
    try:
        expected = reference_codes(codec, data)
    finally:
        codec.reference.set_num_codebooks(BOOKS)
    for fields in ({"codebook_count": books}, {"bandwidth_kbps": books * 0.45}):
        reply = await encode(codec, data, **fields)
        assert np.array_equal(unpack_codes(reply.codes), expected)
        assert reply.bandwidth_kbps == pytest.approx(books * 0.45)
    reply = await decode(codec, reply.codes, output_format=F32)
    assert np.abs(np.frombuffer(reply.audio, "<f4") - reference_audio(codec, expected)[0]).max() < 1e-5


async def test_quality_chooses_the_codebooks(codec: Codec) -> None:
    data = encoded("wav", tone(0.2))
    chosen = [
        (await encode(codec, data, quality=quality)).codes.codebook_count
        for quality in (codec_pb2.QUALITY_DRAFT, codec_pb2.QUALITY_STANDARD, codec_pb2.QUALITY_HIGH)
    ]
    assert chosen == [1, BOOKS, BOOKS]
    assert (await encode(codec, data, bandwidth_kbps=1.34)).codes.codebook_count == 2


async def test_calls_do_not_disturb_each_other(codec: Codec) -> None:
    files = [encoded("wav", tone(0.3 + 0.1 * index, frequency=200.0 + 50 * index)) for index in range(4)]
    expected = [reference_codes(codec, data) for data in files]
    calls = [(index, books) for books in (1, 4, 2, 3) for index in range(4)]
    replies = await asyncio.gather(*(encode(codec, files[index], codebook_count=books) for index, books in calls))
    for (index, books), reply in zip(calls, replies, strict=True):
        assert np.array_equal(unpack_codes(reply.codes), expected[index][:books])
    parts = [some_codes(20 + index)[:books] for index, books in calls]
    decoded = await asyncio.gather(*(decode(codec, pack_codes(part, BITS), output_format=F32) for part in parts))
    for part, reply in zip(parts, decoded, strict=True):
        assert np.abs(np.frombuffer(reply.audio, "<f4") - reference_audio(codec, part)[0]).max() < 1e-5


async def test_streams_a_wav_file(codec: Codec) -> None:
    codes = some_codes(200)
    expected = np.clip(reference_audio(codec, codes)[0], -1, 1) * 32767
    values = [codec_pb2.CodebookValues(values=book.tolist()) for book in codes]
    for request in (
        codec_pb2.DecodeFileRequest(codes=pack_codes(codes, BITS), sample_count=100_000),
        codec_pb2.DecodeFileRequest(values=values, sample_count=100_000),
    ):
        pieces = [piece async for piece in codec.stub.DecodeFile(request)]
        assert [piece.content_type for piece in pieces] == ["audio/wav"] + [""] * (len(pieces) - 1)
        assert len(pieces) == 4
        assert max(len(piece.data) for piece in pieces) <= 65_536
        samples, rate = soundfile.read(io.BytesIO(b"".join(piece.data for piece in pieces)), dtype="int16")
        assert (rate, len(samples)) == (RATE, 100_000)
        assert np.abs(samples - expected[:100_000]).max() <= 1


SECOND = encoded("wav", tone(1.0))
NAN = tone(0.2)
NAN[100] = np.nan

BAD_ENCODING: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "empty": ({"audio": body(b"")}, INVALID, "audio"),
    "no audio": ({"audio": None}, INVALID, "audio"),
    "not audio": ({"audio": body(b"hello" * 100)}, INVALID, "audio"),
    "truncated": ({"audio": body(SECOND[:30_000])}, INVALID, "audio"),
    "64 channels": ({"audio": body(encoded("wav", tone(0.1, channels=64)))}, INVALID, "audio"),
    "too long": ({"audio": body(encoded("flac", tone(5.1)))}, INVALID, "audio"),
    "rate": ({"audio": body(encoded("wav", tone(0.1), 500_000))}, INVALID, "audio"),
    "NaN samples": ({"audio": body(encoded("wavf", NAN))}, INVALID, "audio"),
    "no sample left": ({"audio": body(encoded("wav", tone(1 / 48_000, 48_000), 48_000))}, INVALID, "audio"),
    "unknown model": ({"model": "nowhere"}, NOT_FOUND, "model"),
    "NaN bandwidth": ({"bandwidth_kbps": float("nan")}, INVALID, "bandwidth_kbps"),
    "infinite bandwidth": ({"bandwidth_kbps": float("inf")}, INVALID, "bandwidth_kbps"),
    "negative bandwidth": ({"bandwidth_kbps": -1.0}, INVALID, "bandwidth_kbps"),
    "narrow bandwidth": ({"bandwidth_kbps": 0.44}, INVALID, "bandwidth_kbps"),
    "wide bandwidth": ({"bandwidth_kbps": 1.81}, INVALID, "bandwidth_kbps"),
    "negative codebooks": ({"codebook_count": -1}, INVALID, "codebook_count"),
    "many codebooks": ({"codebook_count": 5}, INVALID, "codebook_count"),
    "both": ({"codebook_count": 2, "bandwidth_kbps": 0.9}, INVALID, "codebook_count"),
    "quality too": ({"codebook_count": 2, "quality": codec_pb2.QUALITY_HIGH}, INVALID, "quality"),
    "unknown quality": ({"quality": 99}, INVALID, "quality"),
}


@pytest.mark.parametrize("case", BAD_ENCODING)
async def test_refuses_to_encode(codec: Codec, case: str) -> None:
    fields, code, field = BAD_ENCODING[case]
    request = codec_pb2.EncodeRequest(**{"audio": body(SECOND), **fields})
    assert await refused(codec.stub.Encode(request)) == (code, field)
    assert await is_healthy(codec.channel, CodecService.name)
    assert (await encode(codec, SECOND)).sample_count == RATE


def packed(**changes: Any) -> audio_pb2.CodeFrames:
    """A second of codes with fields that do not fit."""
    frames = pack_codes(some_codes(), BITS)
    for name, value in changes.items():
        if name == "scales":
            frames.scales.extend(value)
        else:
            setattr(frames, name, value)
    return frames


def form(**fields: Any) -> audio_pb2.AudioFormat:
    return audio_pb2.AudioFormat(**fields)


BAD_DECODING: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no codes": ({"codes": None}, INVALID, "codes.codebook_count"),
    "short data": ({"codes": packed(data=bytes(224))}, INVALID, "codes.data"),
    "long data": ({"codes": packed(data=bytes(226))}, INVALID, "codes.data"),
    "no data": ({"codes": packed(data=b"")}, INVALID, "codes.data"),
    "no frames": ({"codes": packed(frame_count=0)}, INVALID, "codes.frame_count"),
    "many frames": ({"codes": packed(frame_count=2**32 - 1)}, INVALID, "codes.frame_count"),
    "too long": ({"codes": pack_codes(some_codes(251), BITS)}, INVALID, "codes.frame_count"),
    "many codebooks": ({"codes": pack_codes(some_codes(books=5), BITS)}, INVALID, "codes.codebook_count"),
    "other bits": ({"codes": pack_codes(some_codes(), 10)}, INVALID, "codes.bits_per_code"),
    "scales": ({"codes": packed(scales=[1.0] * 50)}, INVALID, "codes.scales"),
    "samples": ({"sample_count": 50 * HOP + 1}, INVALID, "sample_count"),
    "unknown encoding": ({"output_format": form(encoding=99)}, INVALID, "output_format.encoding"),
    "rate": ({"output_format": form(sample_rate_hz=7_999)}, INVALID, "output_format.sample_rate_hz"),
    "channels": ({"output_format": form(channel_count=3)}, INVALID, "output_format.channel_count"),
    "unknown model": ({"model": "nowhere"}, NOT_FOUND, "model"),
    "no such weights": ({"decoder": codec_pb2.DECODER_MULTI_BAND_DIFFUSION}, NOT_FOUND, "decoder"),
    "unknown decoder": ({"decoder": 99}, INVALID, "decoder"),
    "unknown quality": ({"quality": 99}, INVALID, "quality"),
    "both": ({"decoder": 1, "quality": codec_pb2.QUALITY_HIGH}, INVALID, "quality"),
}


@pytest.mark.parametrize("case", BAD_DECODING)
async def test_refuses_to_decode(codec: Codec, case: str) -> None:
    fields, code, field = BAD_DECODING[case]
    request = codec_pb2.DecodeRequest(**{"codes": packed(), **fields})
    assert await refused(codec.stub.Decode(request)) == (code, field)
    assert await is_healthy(codec.channel, CodecService.name)
    assert (await decode(codec, packed())).sample_count == 50 * HOP


def values(*books: list[int]) -> list[codec_pb2.CodebookValues]:
    return [codec_pb2.CodebookValues(values=book) for book in books]


BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "codes"),
    "both": ({"codes": packed(), "values": values([1])}, "codes"),
    "empty book": ({"values": values([])}, "values[0].values"),
    "uneven": ({"values": values([1, 2], [3])}, "values[1].values"),
    "large code": ({"values": values([1, 2], [3, 512])}, "values[1].values"),
    "negative code": ({"values": values([-1])}, "values[0].values"),
    "many books": ({"values": values(*([1] for _ in range(5)))}, "values"),
    "samples": ({"values": values([1]), "sample_count": HOP + 1}, "sample_count"),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_refuses_to_make_a_file(codec: Codec, case: str) -> None:
    fields, field = BAD_FILES[case]
    call = codec.stub.DecodeFile(codec_pb2.DecodeFileRequest(**fields))
    assert await refused(anext(aiter(call))) == (INVALID, field)
    assert await is_healthy(codec.channel, CodecService.name)


async def test_codes_beyond_the_codebook_are_refused(tmp_path: Path) -> None:
    """With 400 entries, 9 bits can name codes that do not exist."""
    config = checkpoints.CODEC_CONFIG.replace("bins: 512", "bins: 400")
    checkpoints.save(tmp_path / "compression_state_dict.bin", config, checkpoints.build_codec(config).state_dict())
    settings = CodecSettings(listen="127.0.0.1:0", metrics_listen="", models=(str(tmp_path),), device="cpu")
    async with serving(CodecService(settings), settings) as channel:
        stub = codec_pb2_grpc.CodecServiceStub(channel)
        for code, answer in ((399, None), (400, (INVALID, "codes.data"))):
            frames = pack_codes(np.full((4, 10), code, np.int32), 9)
            call = stub.Decode(codec_pb2.DecodeRequest(codes=frames))
            if answer:
                assert await refused(call) == answer
            else:
                assert (await call).sample_count == 10 * HOP


async def test_loudness_travels_with_the_codes(tmp_path: Path) -> None:
    """A codec that normalises its input needs the loudness back to decode."""
    causal, normalising = "causal: true, renormalize: false", "causal: false, renormalize: true"
    config = checkpoints.CODEC_CONFIG.replace(causal, normalising)
    checkpoints.save(tmp_path / "compression_state_dict.bin", config, checkpoints.build_codec(config).state_dict())
    reference = loader.load_codec(str(tmp_path)).model
    settings = CodecSettings(listen="127.0.0.1:0", metrics_listen="", models=(str(tmp_path),), device="cpu")
    async with serving(CodecService(settings), settings) as channel:
        stub = codec_pb2_grpc.CodecServiceStub(channel)
        made = await stub.Encode(codec_pb2.EncodeRequest(audio=body(SECOND)))
        audio, _ = read_audio(SECOND, AudioLimits())
        with torch.inference_mode():
            codes, scale = reference.encode(audio[None])
            expected = reference.decode(codes, scale)[0, 0].numpy()
        assert list(made.codes.scales) == [pytest.approx(float(scale))] * 50
        reply = await stub.Decode(codec_pb2.DecodeRequest(codes=made.codes, output_format=F32))
        assert np.abs(np.frombuffer(reply.audio, "<f4") - expected).max() < 1e-5
        good = list(made.codes.scales)
        for bad in ([], good[:-1], [*good[:-1], 2.0], [float("nan")] * 50, [-1.0] * 50):
            made.codes.ClearField("scales")
            made.codes.scales.extend(bad)
            call = stub.Decode(codec_pb2.DecodeRequest(codes=made.codes))
            assert await refused(call) == (INVALID, "codes.scales")
        call = stub.DecodeFile(codec_pb2.DecodeFileRequest(values=values([1])))
        assert await refused(anext(aiter(call))) == (INVALID, "values")


@pytest.mark.parametrize(
    ("given", "names"),
    [("tiny", ("tiny",)), ("a/b, c", ("a/b", "c")), ('["x", "y"]', ("x", "y"))],
)
async def test_reads_the_names_of_models(monkeypatch: pytest.MonkeyPatch, given: str, names: tuple[str, ...]) -> None:
    monkeypatch.setenv("ANTIPHON_MODELS", given)
    settings = CodecSettings()
    assert (settings.models, settings.listen) == (names, "127.0.0.1:50052")


@pytest.mark.parametrize("given", ["", "a,a", "a,,b", "[]", "[1", '[{"a": 1}]'])
async def test_refuses_names_of_models(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ANTIPHON_MODELS", given)
    with pytest.raises(ValueError, match="models"):
        CodecSettings()
