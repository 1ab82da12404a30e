"""Two checkpoints over real gRPC, in memory for one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from antiphon import AsyncClient, GeneratedAudio, ResourceExhaustedError
from services.generator.engine import GeneratorEngine
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.models.loader import load_generator
from services.runtime.metrics import METRICS
from services.runtime.server import Server
from tests import generator_models


def in_memory(folder: Path) -> bool:
    return METRICS.registry.get_sample_value("antiphon_model_resident", {"model": str(folder)}) == 1


async def test_two_models_share_the_memory_of_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(1)
    folders = [generator_models.build(tmp_path / kind, kind) for kind in ("text", "sound")]
    one = GeneratorEngine(load_generator(str(folders[0])), "fp32").weight_bytes
    settings = GeneratorSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        models=tuple(map(str, folders)),
        precision="fp32",
        memory_budget_bytes=one * 3 // 2,
    )
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:

        async def piece(folder: Path) -> GeneratedAudio:
            return await client.generate("a piano", model=str(folder), duration=0.4, seed=3, include_codes=True)

        listed = [model.name for model in await client.list_models() if model.service == "generator"]
        first, second = [await piece(folder) for folder in folders]
        assert [in_memory(folder) for folder in folders] == [False, True]
        with caplog.at_level(logging.INFO, "antiphon.generator"):
            again = await asyncio.gather(*(piece(folders[0]) for _ in range(3)))
        loads = [record for record in caplog.records if record.message == "model loaded"]
        assert [in_memory(folder) for folder in folders] == [True, False]
        # What makes music stays, and the other is told to come again.
        async with client.stream_generate("a piano", model=str(folders[0]), endless=True, initial_credit=0.1):
            with pytest.raises(ResourceExhaustedError) as refused:
                await piece(folders[1])
        last = await piece_when_there(client, folders[1])
    await server.drain()
    assert listed == [str(folder) for folder in folders]
    assert (first.started.model, second.started.model) == tuple(listed)
    assert refused.value.retry_after_seconds
    assert len(loads) == 1
    for other in again:
        np.testing.assert_array_equal(other.codes, first.codes)
        np.testing.assert_array_equal(other.samples, first.samples)
    np.testing.assert_array_equal(last.codes, second.codes)
    assert (first.sample_rate_hz, second.sample_rate_hz) == (32000, 16000)
    assert first.codes is not None and second.codes is not None
    assert first.codes.shape == second.codes.shape == (4, 20)
    assert not np.array_equal(first.codes, second.codes)


async def piece_when_there(client: AsyncClient, folder: Path) -> GeneratedAudio:
    """The server takes a moment to see that the other stream has gone."""
    while True:
        try:
            return await client.generate("a piano", model=str(folder), duration=0.4, seed=3, include_codes=True)
        except ResourceExhaustedError:
            await asyncio.sleep(0.02)
