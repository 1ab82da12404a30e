"""`antiphon generate`, as a process of its own, against the real generator: audio prompts and endless pieces."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import wave
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import torch

from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.server import Server
from tests import generator_models

pytestmark = pytest.mark.asyncio(loop_scope="module")
RATE = 32_000


@pytest.fixture(scope="module")
def melody_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return generator_models.build(tmp_path_factory.mktemp("models") / "melody", "melody")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(melody_model: Path) -> AsyncIterator[str]:
    settings = GeneratorSettings(listen="127.0.0.1:0", metrics_listen="", models=("tiny", str(melody_model)))
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    yield f"127.0.0.1:{server.port}"
    await server.drain()


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a tone."""
    path = tmp_path_factory.mktemp("audio") / "song.flac"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100), 44_100)
    return path


async def start(target: str, *arguments: str | Path) -> Process:
    command = ["-m", "antiphon.cli", "generate", *map(str, arguments), "--target", target]
    return await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def run(target: str, *arguments: str | Path, given: bytes = b"") -> tuple[int | None, bytes, list[str]]:
    process = await start(target, *arguments)
    out, errors = await asyncio.wait_for(process.communicate(given), 30)
    return process.returncode, out, errors.decode().splitlines()


async def read(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


def length(content: bytes) -> int:
    with wave.open(io.BytesIO(content)) as wav:
        assert len(content) == 44 + 2 * wav.getnframes()
        return int(wav.getnframes())


async def test_a_piece_goes_on_from_a_file_or_stdin(target: str, song: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes.npy"
    options = ("a piano", "--duration", "1", "--seed", "4", "--codes", codes, "-o")
    status, _, errors = await run(target, *options, tmp_path / "on.wav", "--continue-from", song)
    assert status == 0, errors
    heard = np.load(codes)
    status, piped, errors = await run(target, *options, "-", "--continue-from", "-", given=await read(song))
    assert status == 0, errors
    status, alone, errors = await run(target, *options, "-")
    assert status == 0, errors
    assert piped == await read(tmp_path / "on.wav")
    assert length(piped) == length(alone) == RATE
    assert heard.shape == (4, 50)
    assert not np.array_equal(heard[:, :25], np.load(codes)[:, :25])


async def test_a_piece_keeps_a_melody(target: str, song: Path, melody_model: Path) -> None:
    options = ("a piano", "--duration", "0.4", "--seed", "4", "--model", melody_model, "-o", "-")
    pieces = []
    for more in (("--melody", song), ("--melody", song), ()):
        status, piece, errors = await run(target, *options, *more)
        assert status == 0, errors
        pieces.append(piece)
    assert length(pieces[0]) == RATE * 2 // 5
    assert pieces[0] == pieces[1] != pieces[2]
    status, _, errors = await run(target, "a piano", "-o", "-", "--melody", song)
    assert status == 1
    assert len(errors) == 2
    assert errors[0].startswith("error: ")
    assert errors[1].startswith("hint: ")


async def test_an_endless_piece_ends_with_ctrl_c(target: str, tmp_path: Path) -> None:
    out, codes = tmp_path / "out.wav", tmp_path / "codes.npy"
    options = ("a piano", "--endless", "--seed", "3", "--codes", codes, "-o", out)
    process = await start(target, *options)
    assert process.stderr is not None
    # Past where a piece without the option ends; in the middle of it the file can be read.
    seconds = 0.0
    while seconds < 10.5:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        assert " of " not in line
        seconds = float(line.split()[0])
    assert length(await read(out)) >= 10.5 * RATE
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, errors
    assert errors.decode().splitlines()[-1].startswith(f"{out}: ")
    # What was made when the server heard of it came too, to the last frame.
    endless = await read(out)
    made = length(endless)
    assert made == np.load(codes).shape[1] * 640
    status, limited, lines = await run(target, "a piano", "--duration", str(made / RATE), "--seed", "3", "-o", "-")
    assert status == 0, lines
    assert limited[44 : -2 * RATE] == endless[44 : -2 * RATE]
