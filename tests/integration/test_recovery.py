"""Streams that survive: a server goes away in mid-stream, and the listener hears one unbroken, identical piece."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import antiphon
from antiphon import AsyncClient, Client, UnavailableError
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.server import Server
from services.stack.ports import Ports
from services.stack.stack import Stack
from tests.integration import calls, plain_service

PROMPT = "a happy fast piano melody"
OPTIONS: dict[str, Any] = {"duration": 2.0, "seed": 11, "encoding": "pcm_s16le"}
HEARD = 16_000
"""Samples that the first credit allows: so it is known where the piece is when the server goes."""
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[list[Server]]:
    started = []
    for _ in range(2):
        settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="", drain_grace_seconds=0.01)
        started.append(Server(GeneratorService(settings), settings))
        await started[-1].start()
        await started[-1].wait_ready()  # one after the other: transformers loads in one thread at a time
    yield started
    await asyncio.gather(*(server.drain() for server in started))


def both(servers: list[Server]) -> str:
    """A target that goes to the first server while it is there."""
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


async def heard(target: str, cut: Callable[[], Any] | None, *, resume: bool = True) -> bytes:
    """A piece with an update in it, whose server may be cut off after half a second of audio and the update."""
    async with AsyncClient(target, resume=resume) as client:
        stream = client.stream_generate(PROMPT, initial_credit=HEARD / 32_000, include_codes=True, **OPTIONS)
        chunks = []
        async for chunk in stream:
            chunks.append(chunk)
            samples = chunk.first_sample + len(chunk.samples)
            if samples == HEARD:
                stream.update("a sad slow guitar melody", cfg_coef=2.0, blend_steps=10)
                stream.grant(0.7)
            if samples == HEARD + 22_400:
                if cut is not None:
                    await cut()
                stream.grant(60)
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert stream.codes is not None and stream.codes.shape == (4, 100)
    return b"".join(chunk.data for chunk in chunks)


async def test_a_server_that_goes_down_is_not_heard_by_the_asyncio_client(servers: list[Server]) -> None:
    reference = await heard(f"127.0.0.1:{servers[1].port}", None)
    assert await heard(both(servers), servers[0].drain) == reference


async def test_one_setting_turns_it_off(servers: list[Server]) -> None:
    with pytest.raises(UnavailableError):
        await heard(both(servers), servers[0].drain, resume=False)


async def test_a_server_that_goes_down_is_not_heard_by_the_client_for_threads(servers: list[Server]) -> None:
    loop = asyncio.get_running_loop()

    def listen(target: str, cut: bool) -> bytes:
        with Client(target) as client:
            stream = client.stream_generate(PROMPT, initial_credit=HEARD / 32_000, **OPTIONS)
            audio = b""
            for chunk in stream:
                audio += chunk.data
                if len(audio) == 2 * HEARD:
                    stream.pause()
                    if cut:
                        asyncio.run_coroutine_threadsafe(servers[0].drain(), loop).result(30)
                    stream.grant(60)
                    stream.resume()
        assert stream.codes is None  # they were not asked for
        return audio

    reference = await asyncio.to_thread(listen, f"127.0.0.1:{servers[1].port}", False)
    assert await asyncio.to_thread(listen, both(servers), True) == reference
    assert len(np.frombuffer(reference, "<i2")) == 64_000


class Replica:
    """A generator as a process of its own."""

    def __init__(self, port: int, metrics_port: int) -> None:
        self.port, self._metrics_port = port, metrics_port
        addresses = {
            "ANTIPHON_LISTEN": f"127.0.0.1:{port}",
            "ANTIPHON_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
        }
        command = [sys.executable, "-m", "services.generator"]
        environment = {**os.environ, **addresses}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    @property
    def is_busy(self) -> bool:
        return 'antiphon_slots_active{model="tiny"} 1.0' in calls.get(f"http://127.0.0.1:{self._metrics_port}/metrics")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


def wait_healthy(target: str) -> None:
    with Client(target) as client:
        deadline = time.monotonic() + 100
        while client.health(timeout=5)[antiphon.Service.GENERATOR] is not antiphon.HealthStatus.SERVING:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    free = Ports.free()
    started = [Replica(free.services[name], free.metrics[name]) for name in ("generator", "codec")]
    yield started
    for replica in started:
        replica.kill()


@pytest.mark.timeout(180)
def test_a_replica_killed_behind_envoy_is_not_heard(replicas: list[Replica], tmp_path: Path) -> None:
    for replica in replicas:
        wait_healthy(f"127.0.0.1:{replica.port}")
    hosts = {"generator": [("127.0.0.1", one.port) for one in replicas]}
    with Stack(services=["codec"], commands=plain_service.commands(), folder=tmp_path, hosts=hosts) as stack:
        wait_healthy(stack.address)
        with Client(stack.address) as client:
            reference = b"".join(chunk.data for chunk in client.stream_generate(PROMPT, **OPTIONS))
            audio, killed = b"", []
            stream = client.stream_generate(PROMPT, initial_credit=HEARD / 32_000, **OPTIONS)
            for chunk in stream:
                audio += chunk.data
                if len(audio) == 2 * HEARD:
                    killed = [replica for replica in replicas if replica.is_busy]
                    assert len(killed) == 1
                    killed[0].kill()
                    stream.grant(60)
    assert audio == reference
