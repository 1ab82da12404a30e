"""The programs and notebooks of clients/ against the real stack, with short pieces."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

import antiphon
from services.stack.stack import ROOT, Stack

EXAMPLES = ROOT / "clients" / "examples"
NOTEBOOKS = ROOT / "clients" / "notebooks"
SECONDS = 120


def command(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]


def ran(stack: Stack, name: str, *arguments: str | Path) -> str:
    """Runs a program and returns what it printed, which ends with how long it took."""
    return succeeded(stack, command(name, *arguments))


def succeeded(stack: Stack, arguments: list[str]) -> str:
    environment = {**os.environ, "ANTIPHON_TARGET": stack.address}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"took \d+\.\d s$", done.stdout.strip()), done.stdout
    return done.stdout


def audible(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path)
    assert np.abs(samples).max() > 0.005, f"{path.name} is silent"
    return samples, rate


@pytest.fixture(scope="module")
def has_sounds(stack: Stack) -> bool:
    with antiphon.Client(stack.address) as client:
        return any(model.kind is antiphon.ModelKind.SOUND for model in client.list_models())


def test_studio(stack: Stack, tmp_path: Path, has_sounds: bool) -> None:
    told = ran(stack, "studio", "--out", tmp_path, "--seconds", "1")
    song, rate = audible(tmp_path / "song.wav")
    assert len(song) == pytest.approx(4 * rate, rel=0.01)
    distributed, _ = audible(tmp_path / "distributed.wav")
    assert len(distributed) == len(song)
    assert (tmp_path / "song.ecdc").stat().st_size * 50 < len(song) * 2
    assert ("mixed in: rain" in told) == has_sounds
    assert ("no model for sounds" in told) != has_sounds


def test_game(stack: Stack, tmp_path: Path, has_sounds: bool) -> None:
    arguments = ("--out", tmp_path, "--seconds", "4", "--bed-seconds", "1")
    told = ran(stack, "game", *arguments)
    assert "4 made, 0 from the cache" in told
    assert ("no model for sounds" in told) != has_sounds
    scene, rate = audible(tmp_path / "scene.wav")
    assert len(scene) >= 4 * rate
    assert len(re.findall("tension #", told)) >= 3, "the music follows the scene"
    beds = list((tmp_path / "cache").glob("*.wav"))
    assert len(beds) == 4
    for bed in beds:
        samples, rate = audible(bed)
        assert len(samples) == pytest.approx(rate, abs=2)
    assert "0 made, 4 from the cache" in ran(stack, "game", "--out", tmp_path, "--seconds", "0.2", "--bed-seconds", "1")


def integrated_loudness(path: Path) -> float:
    """What FFmpeg's own meter says, in LUFS."""
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_abuffer(template=container.streams.audio[0])
        meter = graph.add("ebur128", "metadata=1")
        sink = graph.add("abuffersink")
        source.link_to(meter)
        meter.link_to(sink)
        graph.configure()
        for frame in container.decode(audio=0):
            graph.push(frame)
        graph.push(None)
        last = None
        while True:
            try:
                last = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
    assert last is not None
    return float(last.metadata["lavfi.r128.I"])


def test_podcast(stack: Stack, tmp_path: Path, has_sounds: bool) -> None:
    told = ran(stack, "podcast", "--out", tmp_path, "--seconds", "3", "--transition-seconds", "1")
    names = ["intro", *(f"transition-{index}" for index in range(1, 6))]
    assert sorted(path.stem for path in tmp_path.glob("*.wav")) == sorted(names)
    assert ("no model for sounds" in told) != has_sounds
    for name in names:
        samples, _ = audible(tmp_path / f"{name}.wav")
        assert np.abs(samples).max() <= 0.9
        line = next(line for line in told.splitlines() if line.startswith(f"{name}.wav"))
        level = float(re.findall(r"(-?\d+\.\d) LUFS", line)[0])
        assert level == pytest.approx(-16, abs=0.1) or "peaks" in line
        if name == "intro":
            assert integrated_loudness(tmp_path / f"{name}.wav") == pytest.approx(level, abs=0.5)


def test_batch(stack: Stack, tmp_path: Path) -> None:
    table, out = EXAMPLES / "pieces.csv", tmp_path / "out"
    assert "5 lines, 5 to make" in ran(stack, "batch", table, "--out", out, "--seconds", "0.5")
    (out / "menu.wav").unlink()
    assert "5 lines, 1 to make" in ran(stack, "batch", table, "--out", out, "--seconds", "0.5")
    with table.open(newline="") as wanted, (out / "made.csv").open(newline="") as made:
        rows, told = list(csv.DictReader(wanted)), list(csv.DictReader(made))
    assert [row["file"] for row in told] == [row["file"] for row in rows] + ["menu.wav"]
    for row, one in zip(rows, told, strict=False):
        assert one["seed"] == row["seed"] or not row["seed"]
        samples, rate = audible(out / row["file"])
        assert len(samples) == rate / 2


def test_radio(stack: Stack) -> None:
    """Listens as a player would, while the station turns to another prompt."""
    arguments = ("--port", "0", "--seconds", "3", "--change", "1", "--target", stack.address)
    with subprocess.Popen(command("radio", *arguments), stdout=subprocess.PIPE, text=True) as station:
        assert station.stdout is not None
        address = station.stdout.readline().split()[-1]
        with urllib.request.urlopen(address, timeout=SECONDS) as radio:
            assert radio.headers["content-type"] == "audio/wav"
            heard = radio.read()
        told = station.stdout.read()
    assert station.returncode == 0
    assert heard[:4] == b"RIFF" and heard[36:40] == b"data"
    samples = np.frombuffer(heard[44:], "<i2")
    assert len(samples) > 32_000 and np.abs(samples).max() > 100
    assert "next: " in told and re.search(r"took \d+\.\d s$", told.strip())


def test_notebooks(stack: Stack, tmp_path: Path) -> None:
    """Each shows players that hold audio, and pictures; what is committed has outputs for every cell."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) == 2
    program = [sys.executable, str(NOTEBOOKS / "execute.py"), "--out", str(tmp_path), *map(str, paths)]
    told = succeeded(stack, program)
    for path in paths:
        assert f"{path.name}; took " in told
        cells = [cell for cell in json.loads((tmp_path / path.name).read_text())["cells"] if "outputs" in cell]
        outputs = [output for cell in cells for output in cell["outputs"]]
        shown = [output["data"] for output in outputs if "data" in output]
        assert sum("image/jpeg" in one for one in shown) >= 3
        assert sum("data:audio/wav;base64,UklGR" in one.get("text/html", "") for one in shown) >= 3
        text = "".join("".join(output.get("text", "")) for output in outputs)
        assert "the same samples: True" in text
        committed = [cell for cell in json.loads(path.read_text())["cells"] if "outputs" in cell]
        assert [bool(cell["outputs"]) for cell in committed] == [bool(cell["outputs"]) for cell in cells]
