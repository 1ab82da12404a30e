"""Audio prompts from the Python client to the generator, and through a server that goes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from antiphon import AsyncClient
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.server import Server


async def test_a_piece_goes_on_from_a_file(tmp_path: Path) -> None:
    settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="")
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    path = tmp_path / "start.flac"
    seconds = np.arange(22_050) / 44_100
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * seconds), 44_100)
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        options = {"duration": 1.5, "seed": 4, "continue_from": path, "include_codes": True}
        whole = await client.generate("a piano", **options)
        stream = client.stream_generate("a piano", **options)
        streamed = np.concatenate([chunk.samples async for chunk in stream])
        alone = await client.generate("a piano", duration=1.5, seed=4, include_codes=True)
    await server.drain()
    assert whole.codes is not None and alone.codes is not None and stream.codes is not None
    np.testing.assert_array_equal(streamed, whole.samples)
    np.testing.assert_array_equal(stream.codes, whole.codes)
    # Half a second of 50 frames a second was given; a piece of the same seed without it begins otherwise.
    assert whole.codes.shape == alone.codes.shape == (4, 75)
    assert not np.array_equal(whole.codes[:, :25], alone.codes[:, :25])
