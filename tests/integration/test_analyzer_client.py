"""The client's analyze, stream_analyze and `antiphon analyze`, against a real analyzer."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import antiphon
from antiphon import Verdict, analyzer_cli, cli
from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from services.runtime.server import Server
from tests import analyzer_models
from tests.audio_files import encoded, tone

RATE = 24_000


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an analyzer that runs in a thread, so that tests may wait for their calls."""
    folder = tmp_path_factory.mktemp("analyzer")
    analyzer_models.save(folder)
    settings = AnalyzerSettings(
        listen="127.0.0.1:0", metrics_listen="", analyzer_weights=str(folder), device="cpu", threads=1
    )
    server = Server(AnalyzerService(settings), settings)
    loop = asyncio.new_event_loop()

    async def start() -> None:
        await server.start()
        await server.wait_ready()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.drain(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def noisy(seconds: float, level: float = 1.0) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((round(seconds * RATE), 1))
    return (level * (tone(seconds, RATE) * 0.5 + 0.1 * noise)).astype(np.float32)


LOUD_IN_THE_MIDDLE = np.concatenate([noisy(1.0, 0.005), noisy(2.0), noisy(1.0, 0.005)])
FILE = encoded("wavf", LOUD_IN_THE_MIDDLE, RATE)


def test_analyzes_a_file(target: str, tmp_path: Path) -> None:
    path = tmp_path / "piece.wav"
    path.write_bytes(FILE)
    with antiphon.Client(target) as client:
        found = client.analyze(path, threshold=0.3, include_feature_maps=True, include_images=True)
        plain = client.analyze(FILE)
    assert found.is_real == (found.scores.mean > 0.3)
    assert found.scores == plain.scores
    assert found.windows == plain.windows
    assert (found.model.name, found.model.is_trained, len(found.model.digest)) == ("made-up-1", True, 64)
    assert found.training_sources == analyzer_models.SOURCES
    assert found.thresholds is not None
    assert (found.thresholds.generated, found.thresholds.real) == pytest.approx((0.9, 0.2))
    assert [window.start_seconds for window in found.windows] == [0, 1, 2, 3]
    assert found.windows[-1].end_seconds == 4
    suspect = [window.verdict is Verdict.GENERATED for window in found.windows]
    assert suspect == [False, True, True, False]
    assert found.suspects == ((1.0, 3.0),)
    assert [picture.name for picture in found.pictures] == ["spectrogram", "mpd", "msd", "msstftd"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in found.pictures)
    assert len(found.feature_maps) == 66
    first = found.feature_maps[0]
    assert (first.family, first.values.shape, first.values.dtype) == ("mpd", (4000, 2), np.dtype("<f4"))
    assert not plain.feature_maps
    assert not plain.pictures


def test_streams_what_it_analyzes(target: str) -> None:
    with antiphon.Client(target) as client:
        whole = client.analyze(FILE)
        stream = client.stream_analyze(np.array_split(LOUD_IN_THE_MIDDLE, 9), sample_rate_hz=RATE)
        with pytest.raises(antiphon.FailedPreconditionError):
            _ = stream.result
        windows = list(stream)
        assert tuple(windows) == whole.windows
        assert stream.result == whole
        with pytest.raises(antiphon.InvalidArgumentError, match="shape"):
            list(client.stream_analyze([np.zeros((10, 2), np.float32)], sample_rate_hz=RATE))
        with pytest.raises(antiphon.InvalidArgumentError, match="sample_rate_hz"):
            list(client.stream_analyze([np.zeros(10, np.int16)], sample_rate_hz=1))


async def test_asyncio_does_the_same(target: str) -> None:
    async def blocks() -> Any:
        for block in np.array_split(LOUD_IN_THE_MIDDLE, 4):
            await asyncio.sleep(0)
            yield block[:, 0]

    async with antiphon.AsyncClient(target) as client:
        whole = await client.analyze(FILE, include_feature_maps=True)
        stream = client.stream_analyze(blocks(), sample_rate_hz=RATE, threshold=0.5)
        assert [window async for window in stream] == list(whole.windows)
        assert stream.result.suspects == whole.suspects == ((1.0, 3.0),)
        with pytest.raises(antiphon.InvalidArgumentError) as caught:
            await client.analyze(FILE, threshold=2.0)
        assert caught.value.violations[0].field == "threshold"


def run(*arguments: str) -> int:
    return cli.main(["analyze", *arguments])


def test_the_command_tells_in_words(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plot = tmp_path / "piece.wav", tmp_path / "out.png"
    path.write_bytes(FILE)
    assert run(str(path), "--target", target, "--plot", str(plot), "--threshold", "0") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["from", "to", "generated", "MPD", "MSD", "MS-STFT-D"]
    assert lines[2].split()[:2] == ["0:01.0", "0:02.0"]
    assert len([line for line in lines if "%" in line and line.startswith("0:")]) == 4
    assert "from 0:01.0 to 0:03.0" in out
    assert any(line.split(":")[0] in ("REAL", "GENERATED", "CAN'T TELL") for line in lines)
    assert "is above the threshold 0." in out
    assert lines[-1].startswith("Model made-up-1 (")
    assert "trained on recordings of nothing, the same through a decoder" in lines[-1]
    assert "out-mpd.png" in err
    for name in ("out.png", "out-mpd.png", "out-msd.png", "out-msstftd.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert run(str(path), "--target", target, "--plot", str(plot)) == 1
    assert "is there already" in capsys.readouterr().err
    assert run(str(path), "--target", target, "--plot", str(plot), "--force") == 0
    assert run(str(path), "--target", target, "--plot", str(tmp_path / "out.jpg")) == 2


def test_the_command_prints_json(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "piece.wav"
    path.write_bytes(encoded("wav", LOUD_IN_THE_MIDDLE, RATE))
    assert run(str(path), "--target", target, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    with antiphon.Client(target) as client:
        analysis = client.analyze(path)
    assert values["verdict"] == analysis.verdict.value
    assert values["generated_probability"] == pytest.approx(analysis.generated_probability)
    assert [window["start_seconds"] for window in values["windows"]] == [0, 1, 2, 3]
    assert values["windows"][1]["scores"]["mpd"] == pytest.approx(analysis.windows[1].scores.mpd)
    assert values["suspects"] == [[1.0, 3.0]]
    assert values["thresholds"] == {"generated": pytest.approx(0.9), "real": pytest.approx(0.2)}
    assert (values["model"]["digest"], values["training_sources"]) == (
        analysis.model.digest,
        list(analysis.training_sources),
    )
    # What is too long for one call goes through a stream, with the same result.
    monkeypatch.setattr(analyzer_cli, "STREAM_BYTES", 1000)
    assert run(str(path), "--target", target, "--json") == 0
    assert json.loads(capsys.readouterr().out) == values
    assert run(str(path), "--target", target, "--plot", str(tmp_path / "out.png")) == 1
    assert "too long for pictures" in capsys.readouterr().err


def test_the_command_reads_stdin_and_says_what_is_wrong(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        buffer = io.BytesIO(b"not audio")

    monkeypatch.setattr("sys.stdin", Stdin)
    assert run("-", "--target", target) == 1
    assert "audio: is not audio that can be read" in capsys.readouterr().err
    assert run("/nowhere/in.wav", "--target", target) == 1
    assert "/nowhere/in.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (Verdict.REAL, "REAL: nothing here sounds like the neural decoders that the model knows (the odds that"),
        (Verdict.GENERATED, "GENERATED: this sounds as if a neural decoder had made it"),
        (Verdict.INCONCLUSIVE, "CAN'T TELL: the reason (the odds that one did: 97.0 %)."),
        (Verdict.UNSPECIFIED, "NO VERDICT: the reason."),
    ],
)
def test_every_verdict_has_words(target: str, verdict: Verdict, says: str) -> None:
    window = antiphon.WindowAnalysis(0.0, 1.0, antiphon.Scores(0.5, 0.5, 0.5), 0.97, Verdict.GENERATED)
    with antiphon.Client(target) as client:
        (model,) = [model for model in client.list_models() if model.name == "made-up-1"]
    windows = (window, dataclasses.replace(window, start_seconds=1.0, verdict=Verdict.REAL))
    analysis = antiphon.Analysis(
        antiphon.Scores(0.5, 0.5, 0.5), None, verdict, 0.97, windows, model, (), reason="the reason"
    )
    text = "\n".join(analyzer_cli.in_words(analysis, None))
    assert says in text
    assert ("from 0:00.0 to 0:01.0" in text) == (verdict is not Verdict.UNSPECIFIED)
    everywhere = dataclasses.replace(analysis, windows=(window,), training_sources=tuple(map(str, range(40))))
    text = "\n".join(analyzer_cli.in_words(everywhere, None))
    assert "plainest" not in text, "it is everywhere"
    assert text.endswith("trained on 40 sources of audio and decoders, which --json names.")


def test_long_pieces_name_the_longest_places() -> None:
    spans = [(float(10 * index), float(10 * index + 1 + index % 3)) for index in range(400)]
    text = analyzer_cli.places(spans)
    assert text.count("from") == 6
    assert text.endswith(" and in 394 shorter places")
    assert analyzer_cli.places([(3599.96, 3661.0)]) == "from 1:00:00.0 to 1:01:01.0"
