"""What the production path costs: TLS edge, mTLS sidecar and Unix socket, beside the service's own socket.

Both ways lead to the same process, and each run measures both by turns.

- Latency: a service without a model sends chunks of the generator's usual size at an even pace, on one stream through
  the edge and one around it, half an interval apart. A chunk bears the time at which it was handed to gRPC; what is
  measured is how much later the client has it. ``added_ms_*`` are differences of percentiles. The 99th is taken of
  each half thousand and the median of these counts, so that one hiccup of the machine is one of many. The pace is that
  of 170 listeners. At that of 50 (``sparse``) the cores fall asleep between two chunks, and what is measured is mostly
  how long a core needs to wake, twice more by the edge.
- Throughput: the real generator with the model ``tiny`` and all its slots in use, so that its engine, and nothing
  before it, is what limits. Seconds of audio that all clients get in a second, first one way, then the other, in
  rounds; ``throughput_loss`` is the median of the rounds' losses. Half of the cores are the generator's, the other half
  the sidecar's, the edge's and the clients', as their requests keep them apart in Kubernetes. ``shared`` is the same
  with all cores for all, where every chunk that passes through the edge also takes time from the engine.
- ``wire_megabytes_per_second``, for what it is worth: chunks as fast as one stream takes them, without an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import duration_pb2
from rich.console import Console
from rich.table import Table

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.stack.stack import Stack

SUMMARY = "Measure what the edge adds to each chunk, and what it takes from the throughput."
CHUNK_BYTES = 32_000
"""Half a second of 32 kHz, 16 bits: what the generator sends but for its first chunks."""
INTERVAL_MS, SPARSE_INTERVAL_MS = 3.0, 10.0
BLOCK = 500
WARM_UP = 200
STREAMS = 8

WAYS = ("direct", "edge")
_GENERATOR = (
    "import os, runpy; os.sched_setaffinity(0, {cores}); runpy.run_module('services.generator', run_name='__main__')"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunks", type=int, default=6000, help="chunks each way for the latency (default: 6000)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds for the throughput (default: 8)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each piece of a round (default: 12)")
    parser.add_argument("--quick", action="store_true", help="a trial of some seconds; no figures to quote")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table and, as the last line, one JSON object."""
    if arguments.quick:
        arguments.chunks, arguments.rounds, arguments.seconds = 100, 1, 1.0
    with _stack([sys.executable, "-m", "tests.bench.chunk_service"]) as stack:
        print("latency", file=sys.stderr, flush=True)
        latency = asyncio.run(_latency(stack, arguments.chunks, INTERVAL_MS))
        sparse = asyncio.run(_latency(stack, arguments.chunks // 3, SPARSE_INTERVAL_MS))
        print("wire", file=sys.stderr, flush=True)
        wire = asyncio.run(_wire(stack, 200 if arguments.quick else 8000))
    cores, carried = os.sched_getaffinity(0), {}
    half = set(sorted(cores)[: max(1, len(cores) // 2)])
    for name, own, others in (("own", half, cores - half or cores), ("shared", cores, cores)):
        os.sched_setaffinity(0, others)
        with _stack([sys.executable, "-c", _GENERATOR.format(cores=own)]) as stack:
            rates = asyncio.run(_throughput(stack, arguments.rounds, arguments.seconds))
        losses = [1 - edge / direct for direct, edge in zip(*(rates[way] for way in WAYS), strict=True)]
        carried[name] = {
            "audio_seconds_per_second": {way: round(statistics.median(rates[way]), 2) for way in WAYS},
            "loss_of_each_round": [round(loss, 4) for loss in losses],
            "throughput_loss": round(statistics.median(losses), 4),
        }
    facts: dict[str, Any] = {
        "chunk_bytes": CHUNK_BYTES,
        "chunks": arguments.chunks,
        "wire_megabytes_per_second": wire,
        "quick": arguments.quick,
        "sparse": _added(sparse),
        "shared": carried["shared"],
        **_added(latency),
        **carried["own"],
    }
    Console().print(_table(facts))
    print(json.dumps(facts))


def _added(latency: dict[str, list[float]]) -> dict[str, Any]:
    """Return median and 99th percentile of either way, and their differences."""
    p50, p99 = ({way: _percentile(latency[way], part) for way in WAYS} for part in (50, 99))
    return {
        "latency_ms_median": p50,
        "latency_ms_p99": p99,
        "added_ms_median": round(p50["edge"] - p50["direct"], 4),
        "added_ms_p99": round(p99["edge"] - p99["direct"], 4),
    }


@contextmanager
def _stack(generator: list[str]) -> Iterator[Stack]:
    # The rate limit counts the beginnings of streams; a round begins few.
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(services=["generator"], commands={"generator": generator}, folder=Path(folder), secure=True) as stack,
    ):
        yield stack


def _channels(stack: Stack) -> dict[str, grpc.aio.Channel]:
    assert stack.secured is not None
    trusted = grpc.ssl_channel_credentials(stack.secured.credentials.root_certificates)
    return {
        "direct": grpc.aio.insecure_channel(f"unix:{stack.secured.socket('generator')}"),
        "edge": grpc.aio.secure_channel(stack.address, trusted),
    }


def _key(stack: Stack) -> tuple[str, str]:
    assert stack.secured is not None
    return "x-api-key", stack.secured.credentials.api_key


def _chunks(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> Any:
    stub: Any = generator_pb2_grpc.GeneratorServiceStub(channel)
    request = generator_pb2.StreamGenerateRequest(config=generator_pb2.GenerationConfig())
    return stub.StreamGenerate(iter([request]), metadata=metadata)


async def _latency(stack: Stack, count: int, interval_ms: float) -> dict[str, list[float]]:
    """Return milliseconds from the service to the client, of each chunk."""

    async def listen(way: str, channel: grpc.aio.Channel) -> list[float]:
        asked = {
            "x-chunks": WARM_UP + count,
            "x-bytes": CHUNK_BYTES,
            "x-interval-ms": interval_ms,
            "x-phase": 0.5 * WAYS.index(way),
        }
        times = []
        async for response in _chunks(channel, _key(stack), *((key, str(value)) for key, value in asked.items())):
            now = time.monotonic_ns()
            times.append((now - int.from_bytes(response.audio.data[:8], "little")) / 1e6)
        return times[WARM_UP:]

    channels = _channels(stack)
    heard = await asyncio.gather(*(listen(way, channels[way]) for way in WAYS))
    for channel in channels.values():
        await channel.close()
    return dict(zip(WAYS, heard, strict=True))


async def _wire(stack: Stack, count: int) -> dict[str, float]:
    """Return how many megabytes a second one stream without pace carries, each way: the best of three."""
    channels, best = _channels(stack), dict.fromkeys(WAYS, 0.0)
    asked = (("x-chunks", str(count)), ("x-bytes", str(CHUNK_BYTES)), ("x-interval-ms", "0"), ("x-phase", "0"))
    for _ in range(3):
        for way in WAYS:
            begin = time.perf_counter()
            async for _response in _chunks(channels[way], _key(stack), *asked):
                pass
            rate = count * CHUNK_BYTES / 1e6 / (time.perf_counter() - begin)
            best[way] = max(best[way], round(rate, 1))
    for channel in channels.values():
        await channel.close()
    return best


async def _throughput(stack: Stack, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return seconds of audio in a second of each round, after one that does not count."""
    channels = _channels(stack)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        # By turns first: whatever drifts in the machine falls on both.
        for way in WAYS if number % 2 else reversed(WAYS):
            begin = time.perf_counter()
            samples = await asyncio.gather(
                *(_piece(channels[way], _key(stack), seconds, seed) for seed in range(STREAMS))
            )
            rate = sum(samples) / (time.perf_counter() - begin)
            print("round", number, way, round(rate, 2), file=sys.stderr, flush=True)
            if number:
                rates[way].append(rate)
    for channel in channels.values():
        await channel.close()
    return rates


async def _piece(channel: grpc.aio.Channel, key: tuple[str, str], seconds: float, seed: int) -> float:
    """Generate a piece; return the seconds of audio that have come."""
    config = generator_pb2.GenerationConfig(
        prompts=[generator_pb2.WeightedPrompt(text="a happy fast marimba melody")],
        duration=duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9)),
        seed=seed,
    )
    stub: Any = generator_pb2_grpc.GeneratorServiceStub(channel)
    rate, samples = 0, 0
    async for response in stub.StreamGenerate(
        iter([generator_pb2.StreamGenerateRequest(config=config)]), metadata=[key]
    ):
        if response.HasField("started"):
            rate = response.started.format.sample_rate_hz
        samples += response.audio.sample_count
    return samples / rate


def _percentile(times: list[float], part: float) -> float:
    blocks = [times[start : start + BLOCK] for start in range(0, len(times), BLOCK)]
    return round(statistics.median(float(np.percentile(block, part)) for block in blocks), 4)


def _table(facts: dict[str, Any]) -> Table:
    table = Table(title=f"The edge: {facts['chunks']} chunks of {facts['chunk_bytes']} bytes each way")
    for heading in ("", *WAYS, "difference"):
        table.add_column(heading, justify="left" if not heading else "right")

    def row(name: str, values: dict[str, float], difference: str) -> None:
        table.add_row(name, *(f"{values[way]:.3f}" for way in WAYS), difference)

    for name, found in (("a chunk", facts), ("a chunk, sparse", facts["sparse"])):
        row(f"{name}, median, ms", found["latency_ms_median"], f"{found['added_ms_median']:+.3f}")
        row(f"{name}, 99th percentile, ms", found["latency_ms_p99"], f"{found['added_ms_p99']:+.3f}")
    streams = f"{STREAMS} streams, s of audio a second"
    for name, found in ((streams, facts), (f"{streams}, shared cores", facts["shared"])):
        row(name, found["audio_seconds_per_second"], f"{-found['throughput_loss']:+.2%}")
    row("wire alone, MB a second", facts["wire_megabytes_per_second"], "")
    return table
