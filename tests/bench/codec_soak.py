"""An hour of audio through Envoy and the codec service, and how much the service's memory grows.

The local stack is started, one StreamEncode is fed with noise as fast as it takes it, and its codes go straight into
one StreamDecode. The resident memory of the service is read after the first half minute of audio and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from antiphon.v1 import audio_pb2, codec_pb2, codec_pb2_grpc
from services.stack.stack import Stack

SUMMARY = "Stream an hour of audio through Envoy; watch the memory of the codec service."
RATE, BLOCK = 32_000, 16_000
WARM_UP_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the stream (default: 3600)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute; no figures to quote")


def run(arguments: argparse.Namespace) -> None:
    """Stream, and print as the last line one JSON object."""
    seconds = 60.0 if arguments.quick else arguments.seconds
    with tempfile.TemporaryDirectory() as folder, Stack(services=["codec"], folder=Path(folder)) as stack:
        pid = stack.processes["codec"].pid
        assert pid is not None
        facts = asyncio.run(soak(stack.address, pid, seconds))
    print(json.dumps(facts))


async def soak(target: str, pid: int, seconds: float) -> dict[str, Any]:
    """Encode and decode so much audio through ``target``; return what was seen."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = codec_pb2_grpc.CodecServiceStub(channel)
        begin, samples, before = time.perf_counter(), 0, 0.0
        async for response in stub.StreamDecode(decode_requests(stub.StreamEncode(audio(seconds)))):
            samples += response.audio.sample_count
            if not before and samples >= WARM_UP_SECONDS * RATE:
                before = resident_megabytes(pid)
        after = resident_megabytes(pid)
    return {
        "seconds": seconds,
        "samples": samples,
        "rtf": round(seconds / (time.perf_counter() - begin), 2),
        "rss_megabytes": round(after, 1),
        "hour_rss_growth_megabytes": round(after - before, 2),
    }


async def audio(seconds: float) -> AsyncIterator[codec_pb2.StreamEncodeRequest]:
    """Yield a config and noise in half seconds."""
    form = audio_pb2.AudioFormat(encoding=audio_pb2.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=RATE, channel_count=1)
    yield codec_pb2.StreamEncodeRequest(config=codec_pb2.StreamEncodeConfig(format=form))
    random = np.random.default_rng(0)
    for number in range(round(seconds * RATE / BLOCK)):
        data = (random.standard_normal(BLOCK) * 3_000).astype("<i2").tobytes()
        chunk = audio_pb2.AudioChunk(sequence=number, first_sample=number * BLOCK, sample_count=BLOCK, data=data)
        yield codec_pb2.StreamEncodeRequest(audio=chunk)


async def decode_requests(encoded: Any) -> AsyncIterator[codec_pb2.StreamDecodeRequest]:
    """Yield a config and the codes of an encoding."""
    yield codec_pb2.StreamDecodeRequest(config=codec_pb2.StreamDecodeConfig())
    async for response in encoded:
        if response.HasField("codes"):
            yield codec_pb2.StreamDecodeRequest(codes=response.codes)


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
