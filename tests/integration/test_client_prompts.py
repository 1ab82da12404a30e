"""Audio prompts and batches from the Python clients to the generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from antiphon import AsyncClient, Client, GeneratedAudio, GenerationOptions, InvalidArgumentError, NotFoundError
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.server import Server


@pytest.fixture
async def target() -> AsyncIterator[str]:
    settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="")
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    yield f"127.0.0.1:{server.port}"
    await server.drain()


async def test_a_piece_goes_on_from_a_file(target: str, tmp_path: Path) -> None:
    path = tmp_path / "start.flac"
    seconds = np.arange(22_050) / 44_100
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * seconds), 44_100)
    async with AsyncClient(target) as client:
        options: GenerationOptions = {"duration": 1.5, "seed": 4, "continue_from": path, "include_codes": True}
        whole = await client.generate("a piano", **options)
        stream = client.stream_generate("a piano", **options)
        streamed = np.concatenate([chunk.samples async for chunk in stream])
        alone = await client.generate("a piano", duration=1.5, seed=4, include_codes=True)
    assert whole.codes is not None and alone.codes is not None and stream.codes is not None
    np.testing.assert_array_equal(streamed, whole.samples)
    np.testing.assert_array_equal(stream.codes, whole.codes)
    # Half a second of 50 frames a second was given; a piece of the same seed without it begins otherwise.
    assert whole.codes.shape == alone.codes.shape == (4, 75)
    assert not np.array_equal(whole.codes[:, :25], alone.codes[:, :25])


def same(one: GeneratedAudio, other: GeneratedAudio) -> bool:
    return np.array_equal(one.samples, other.samples) and np.array_equal(one.codes, other.codes)  # type: ignore[arg-type]


async def test_a_batch_is_what_its_pieces_are_alone(target: str) -> None:
    pieces: list[Any] = [
        "a piano",
        {"prompt": ["a flute", ("rain", 0.5)], "seed": 8, "duration": 0.3},
        [("drums", 2.0), "a bass"],
        {"prompt": "", "use_sampling": False, "include_codes": False},
    ]
    async with AsyncClient(target) as client:
        made = await client.generate_batch(pieces, duration=0.6, include_codes=True)
        with Client(target) as waiting:
            seeds = [piece.seed for piece in made]
            asked: list[Any] = [{**_request(piece), "seed": seed} for piece, seed in zip(pieces, seeds, strict=True)]
            again = await asyncio.to_thread(waiting.generate_batch, asked, duration=0.6, include_codes=True)
        alone = [await client.generate(**({"duration": 0.6, "include_codes": True} | piece)) for piece in asked]
    assert len(set(seeds)) == 4
    assert seeds[1] == 8
    assert [piece.started.prompts for piece in made] == [
        (("a piano", 1.0),), (("a flute", 1.0), ("rain", 0.5)), (("drums", 2.0), ("a bass", 1.0)), (("", 1.0),),
    ]  # fmt: skip
    assert [len(piece.samples) for piece in made] == [19200, 9600, 19200, 19200]
    assert [piece.codes is None for piece in made] == [False, False, False, True]
    assert all(piece.finished.steps == piece.started.total_steps for piece in made)
    assert all(map(same, made, again))
    assert all(map(same, made, alone))


def _request(piece: Any) -> dict[str, Any]:
    return dict(piece) if isinstance(piece, dict) else {"prompt": piece}


async def test_one_wrong_piece_is_named_and_none_is_made(target: str) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (["a", {"prompt": "b", "temperature": -1.0}], {}, "configs[1].sampling.temperature"),
        (["a", {"prompt": "b", "seed": -1}], {}, "configs[1].seed"),
        (["a", "b"], {"endless": True}, "configs[0].endless"),
        (["a", {"prompt": "b", "melody": b"RIFF"}], {}, "configs[1].prompt_audio"),
        ([], {}, "configs"),
        (["a"] * 33, {}, "configs"),
        ("a piano", {}, "configs"),
    ]
    async with AsyncClient(target) as client:
        with Client(target) as waiting:
            for pieces, options, field in wrong:
                with pytest.raises(InvalidArgumentError) as refused:
                    await client.generate_batch(pieces, **options)
                assert refused.value.violations[0].field == field
                with pytest.raises(InvalidArgumentError) as refused:
                    await asyncio.to_thread(waiting.generate_batch, pieces, **options)
                assert refused.value.violations[0].field == field
        with pytest.raises(NotFoundError) as missing:
            await client.generate_batch(["a"], model="huge")
    assert missing.value.request_id


async def test_who_gives_a_batch_up_frees_its_slots(target: str) -> None:
    async with AsyncClient(target) as client:
        batch = asyncio.create_task(client.generate_batch(["a piano"] * 32, duration=30))
        await asyncio.sleep(0.2)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert len((await client.generate("a flute", duration=0.2)).samples) == 6400
