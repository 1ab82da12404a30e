"""The codec's calls of both clients against a real server: streams, files, compression."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import antiphon
from antiphon import AsyncClient, Client, EcdcFile, EncodedAudio, FailedPreconditionError, InvalidArgumentError
from antiphon.errors import CancelledError, ProtocolError
from antiphon.v1 import audio_pb2, codec_pb2
from tests.integration.client_server import CHANNELS, FRAME, RATE, Served, piece_codes, served, tone
from tests.integration.codec_server import COMPRESSED, MADE, StreamingCodec

pytestmark = pytest.mark.timeout(30)
TOTAL = 10 * FRAME - 7
FLOATS = (tone(0, TOTAL) / 32767).astype(np.float32)


@pytest.fixture
def codec() -> StreamingCodec:
    return StreamingCodec()  # type: ignore[abstract]


@pytest.fixture
def server(codec: StreamingCodec) -> Iterator[Served]:
    with served(codec=codec) as running:
        yield running


class SyncCaller:
    """Gives `Client` the face of `AsyncClient`, so that one test covers both."""

    def __init__(self, target: str) -> None:
        self.client = Client(target)

    async def drained(self, method: str, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        stream = getattr(self.client, method)(*arguments, **options)
        return await asyncio.to_thread(list, stream), stream

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    async def close(self) -> None:
        self.client.close()


class AsyncCaller:
    def __init__(self, target: str) -> None:
        self.client = AsyncClient(target)

    async def drained(self, method: str, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        stream = getattr(self.client, method)(*arguments, **options)
        return [out async for out in stream], stream

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*arguments, **options)

    async def close(self) -> None:
        await self.client.close()


Caller = SyncCaller | AsyncCaller


@pytest.fixture(params=[SyncCaller, AsyncCaller])
async def caller(request: pytest.FixtureRequest, server: Served) -> AsyncIterator[Caller]:
    made: Caller = request.param(server.target)
    yield made
    await made.close()


def blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@pytest.mark.parametrize("size", [1, 333, 100_000])
async def test_encodes_a_stream(caller: Caller, codec: StreamingCodec, size: int) -> None:
    samples = FLOATS[:50] if size == 1 else FLOATS
    options = {"model": "tiny", "bandwidth_kbps": 2.0, "sample_rate_hz": 44_100, "channel_count": 2}
    chunks, stream = await caller.drained("stream_encode", blocks(samples, size), **options)
    config = codec.encode_configs[0]
    assert (config.model, config.bandwidth_kbps) == ("tiny", 2.0)
    assert (config.format.sample_rate_hz, config.format.channel_count) == (44_100, 2)
    assert config.format.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE
    assert codec.heard == samples.astype("<f4").tobytes()
    assert [chunk.sequence for chunk in codec.chunks] == list(range(len(codec.chunks)))
    assert [chunk.is_final for chunk in codec.chunks[-2:]] == [False, True]
    frames = -(-len(samples) // FRAME)
    result = stream.result
    assert np.array_equal(result.codes, piece_codes(0, frames))
    assert np.array_equal(np.concatenate([chunk.codes for chunk in chunks], axis=1), result.codes)
    assert (result.sample_count, result.sample_rate_hz, result.channel_count) == (len(samples), RATE, CHANNELS)
    assert (result.model, result.bits_per_code, result.bandwidth_kbps) == ("tiny", 10, 2.0)


async def test_integers_travel_as_they_are(caller: Caller, codec: StreamingCodec) -> None:
    mono = np.ascontiguousarray(tone(0, 200)[:, 0])
    await caller.drained("stream_encode", [mono], sample_rate_hz=8000, quality="draft")
    assert codec.heard == mono.tobytes()
    config = codec.encode_configs[0]
    assert (config.format.encoding, config.format.channel_count) == (audio_pb2.AUDIO_ENCODING_PCM_S16LE, 1)
    assert config.quality == codec_pb2.QUALITY_DRAFT


async def test_a_stream_without_audio_is_the_servers_to_judge(caller: Caller, codec: StreamingCodec) -> None:
    chunks, stream = await caller.drained("stream_encode", [], sample_rate_hz=8000)
    assert chunks == []
    assert (stream.result.codes.shape, stream.result.sample_count) == ((4, 0), 0)
    assert [chunk.is_final for chunk in codec.chunks] == [True]


async def test_large_pieces_are_divided(caller: Caller, codec: StreamingCodec) -> None:
    await caller.drained("stream_encode", [np.zeros(200_000, np.float32)], sample_rate_hz=8000)
    assert max(chunk.sample_count for chunk in codec.chunks) == 1 << 16
    assert len(codec.heard) == 800_000


@pytest.mark.parametrize(
    "audio",
    [
        [np.zeros((5, 2), np.float32)],
        [np.zeros(5, np.int32)],
        [np.zeros(5, np.complex64)],
        [np.zeros((1, 1, 5), np.float32)],
        [np.zeros(5, np.float32), np.zeros(5, np.int16)],
    ],
)
async def test_refuses_pieces_that_cannot_be_sent(caller: Caller, audio: list[np.ndarray]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await caller.drained("stream_encode", audio, sample_rate_hz=8000)
    assert caught.value.violations[0].field == "audio"


async def test_a_failing_source_comes_out_as_it_is(caller: Caller, codec: StreamingCodec) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield np.zeros(500, np.float32)
        raise OSError("the microphone is gone")

    with pytest.raises(OSError, match="the microphone is gone"):
        await caller.drained("stream_encode", failing(), sample_rate_hz=8000)
    # The source may fail before the call has reached the server; a call that has must end.
    assert not codec.encode_configs or await asyncio.to_thread(codec.ended.wait, 10)


@pytest.mark.parametrize("fault", ["gap", "truncated", "no start"])
async def test_breaches_of_the_contract_are_found(caller: Caller, fault: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        await caller.drained("stream_encode", blocks(FLOATS, 400), sample_rate_hz=8000, channel_count=2, model=fault)
    assert caught.value.request_id
    if fault != "no start":
        pieces = [piece_codes(0, 3), piece_codes(3, 2)]
        with pytest.raises(ProtocolError):
            await caller.drained("stream_decode", pieces, model=fault)


def encoded(frames: int = 10, books: int = 4) -> EncodedAudio:
    codes = piece_codes(0, frames)[:books].astype(np.int32)
    return EncodedAudio(codes, 10, "tiny", frames * FRAME - 7, RATE, CHANNELS, 0.5 * books, ())


async def test_decodes_a_stream(caller: Caller, codec: StreamingCodec) -> None:
    pieces = [piece_codes(0, 3), piece_codes(3, 1), piece_codes(4, 6)]
    options = {"model": "tiny", "sample_count": TOTAL, "sample_rate_hz": RATE, "channel_count": 2, "quality": "high"}
    chunks, stream = await caller.drained("stream_decode", iter(pieces), encoding="pcm_s16le", **options)
    joined = b"".join(chunk.data for chunk in chunks)
    assert joined == tone(0, 10 * FRAME).tobytes()
    assert stream.sample_count == 10 * FRAME
    assert np.array_equal(codec.codes, piece_codes(0, 10))
    assert [frames.first_frame for frames in codec.frames] == [0, 3, 4]
    config = codec.decode_configs[0]
    assert (config.model, config.sample_count, config.quality) == ("tiny", TOTAL, codec_pb2.QUALITY_HIGH)
    assert (config.output_format.sample_rate_hz, config.output_format.channel_count) == (RATE, 2)


async def test_decodes_a_piece_as_it_describes_itself(caller: Caller, codec: StreamingCodec) -> None:
    chunks, _ = await caller.drained("stream_decode", encoded(5000))
    assert np.array_equal(codec.codes, piece_codes(0, 5000))
    assert max(frames.frame_count for frames in codec.frames) == 4096
    config = codec.decode_configs[0]
    assert (config.model, config.sample_count) == ("tiny", 5000 * FRAME - 7)
    assert chunks[0].samples.dtype == np.float32


async def test_a_file_comes_as_bytes(caller: Caller, codec: StreamingCodec) -> None:
    chunks, _ = await caller.drained("stream_decode", [piece_codes(0, 3)], encoding="mp3")
    assert (chunks[0].data, chunks[0].encoding, chunks[0].samples.shape) == (MADE, "mp3", (0, 2))
    assert await caller.call("decode_file", encoded(), encoding="flac") == MADE
    assert codec.requests[-1].output_format.encoding == audio_pb2.AUDIO_ENCODING_FLAC
    assert codec.requests[-1].sample_count == TOTAL


async def test_what_one_stream_yields_feeds_the_other(caller: Caller, codec: StreamingCodec) -> None:
    chunks, _ = await caller.drained("stream_encode", blocks(FLOATS, 500), sample_rate_hz=8000, channel_count=2)
    await caller.drained("stream_decode", chunks)
    assert np.array_equal(codec.codes, piece_codes(0, 10))


@pytest.mark.parametrize(
    ("codes", "options", "field"),
    [
        ([np.zeros(3, np.int32)], {}, "codes"),
        ([np.full((1, 3), 1024)], {}, "codes"),
        ([np.zeros((1, 3))], {}, "codes"),
        ([], {"codebook_size": 0}, "codebook_size"),
        ([], {"decoder": "best"}, "decoder"),
        ([], {"quality": "ultra"}, "quality"),
        ([], {"encoding": "mp4"}, "output_format.encoding"),
        ([], {"sample_rate_hz": 1 << 40}, "output_format.sample_rate_hz"),
    ],
)
async def test_refuses_codes_that_cannot_be_sent(
    caller: Caller, codes: list[np.ndarray], options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await caller.drained("stream_decode", codes, **options)
    assert caught.value.violations[0].field == field


async def test_compresses_and_expands(caller: Caller, codec: StreamingCodec) -> None:
    file = await caller.call("compress", encoded())
    assert (file.is_entropy_coded, file.payload, file.model) == (True, COMPRESSED, "tiny")
    back = await caller.call("expand", EcdcFile.read(file.to_bytes()))
    assert np.array_equal(back.codes, piece_codes(0, 5))
    request = codec.requests[-1]
    assert (request.data, request.codebook_count, request.sample_count) == (COMPRESSED, 4, TOTAL)
    with pytest.raises(FailedPreconditionError, match="no language model"):
        await caller.call("compress", encoded(books=1))


async def test_plain_files_need_no_server_to_expand(caller: Caller, codec: StreamingCodec) -> None:
    back = await caller.call("expand", EcdcFile.pack(encoded()), model="other")
    assert np.array_equal(back.codes, encoded().codes)
    assert (back.model, codec.requests) == ("other", [])


async def test_a_result_before_the_end_is_refused(server: Served) -> None:
    with Client(server.target) as client, pytest.raises(FailedPreconditionError):
        _ = client.stream_encode([], sample_rate_hz=8000).result


def test_leaving_early_cancels(server: Served, codec: StreamingCodec) -> None:
    def endless() -> Iterator[np.ndarray]:
        while not codec.ended.is_set():
            yield np.zeros(FRAME, np.float32)

    with Client(server.target) as client:
        with client.stream_encode(endless(), sample_rate_hz=8000) as stream:
            for _ in stream:
                break
        assert codec.ended.wait(10)
        with pytest.raises(CancelledError):
            list(stream)


async def test_leaving_early_cancels_in_asyncio(server: Served, codec: StreamingCodec) -> None:
    async def endless() -> AsyncIterator[np.ndarray]:
        while True:
            await asyncio.sleep(0)
            yield np.zeros(FRAME, np.float32)

    async with AsyncClient(server.target) as client:
        async with client.stream_encode(endless(), sample_rate_hz=8000) as stream:
            async for _ in stream:
                break
        assert await asyncio.to_thread(codec.ended.wait, 10)
        with pytest.raises(antiphon.CancelledError):
            _ = [chunk async for chunk in stream]
