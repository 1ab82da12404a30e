"""Where `antiphon generate` puts a piece; `antiphon serve` and `antiphon doctor`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from antiphon.cli import main
from tests.integration.client_server import Served, served, tone

pytestmark = pytest.mark.timeout(60)
PIECE = ("generate", "slow sad piano", "--duration", "1", "--seed", "5")
RATE = 8000
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in a folder of its own; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")

    def run(target: str, *arguments: str | Path, player: str = "") -> tuple[int, str, str]:
        monkeypatch.setenv("ANTIPHON_TARGET", target)
        monkeypatch.setenv("ANTIPHON_PLAYER", player)
        code = main(list(map(str, arguments)))
        told = capfd.readouterr()
        return code, told.out, told.err

    return run


def player(folder: Path, script: str) -> str:
    """A command that runs a script in place of a player."""
    path = folder / "player.py"
    path.write_text(script)
    return f"{sys.executable} {path}"


def test_a_player_hears_what_was_made(cli: Cli, server: Served, tmp_path: Path) -> None:
    heard, out = tmp_path / "heard.wav", tmp_path / "out.wav"
    script = f"import sys; open({str(heard)!r}, 'wb').write(sys.stdin.buffer.read())"
    code, _, told = cli(server.target, *PIECE, "--play", player=player(tmp_path, script))
    assert code == 0, told
    assert told.splitlines()[-1].startswith("played: 1.0 s, 8000 Hz, seed 5, ")
    assert heard.read_bytes()[44:] == tone(0, RATE).tobytes()
    heard.unlink()
    code, _, told = cli(server.target, *PIECE, "--play", "-o", out, player=player(tmp_path, script))
    assert code == 0, told
    assert heard.read_bytes()[44:] == out.read_bytes()[44:]


def test_a_player_that_fails_is_told_of_and_spares_the_file(cli: Cli, server: Served, tmp_path: Path) -> None:
    broken = player(tmp_path, "raise SystemExit(3)")
    code, _, told = cli(server.target, *PIECE, "--play", player=broken)
    assert code == 1
    assert "hint: ANTIPHON_PLAYER names another player" in told
    out = tmp_path / "out.wav"
    code, _, told = cli(server.target, *PIECE, "--play", "-o", out, player=broken)
    assert code == 0, told
    assert out.read_bytes()[44:] == tone(0, RATE).tobytes()


def test_without_a_player_it_says_what_to_install(cli: Cli, server: Served) -> None:
    code, _, told = cli(server.target, *PIECE, "--play")
    assert code == 1
    assert "error: --play: no player is installed" in told
    assert "hint: install one of ffplay" in told


@pytest.mark.parametrize("options", [("-o", "piece.flac"), ("-o", "piece", "--format", "flac")])
def test_flac_has_the_same_samples(cli: Cli, server: Served, tmp_path: Path, options: tuple[str, ...]) -> None:
    code, _, told = cli(server.target, *PIECE, *options)
    assert code == 0, told
    path = tmp_path / options[1]
    assert path.read_bytes()[:4] == b"fLaC"
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(samples.ravel(), np.frombuffer(tone(0, RATE).tobytes(), "<i2"))


def test_mp3_is_written_too(cli: Cli, server: Served, tmp_path: Path) -> None:
    out = tmp_path / "piece.mp3"
    assert cli(server.target, *PIECE, "-o", out)[0] == 0
    samples, _ = soundfile.read(io.BytesIO(out.read_bytes()))
    assert len(samples) >= RATE


def test_json_tells_what_was_made(cli: Cli, server: Served, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    code, told, _ = cli(server.target, *PIECE, "-o", out, "--json")
    assert code == 0
    found = json.loads(told)
    assert found.pop("first_audio_seconds") > 0
    assert found.pop("real_time_factor") > 0
    assert found.pop("request_id")
    assert found == {
        "output": str(out),
        "format": "wav",
        "model": "tiny",
        "prompts": [{"text": "slow sad piano", "weight": 1.0}],
        "seed": 5,
        "seconds": 1.0,
        "sample_rate_hz": RATE,
        "channel_count": 2,
        "reason": "complete",
    }
    models = json.loads(cli(server.target, "models", "--json")[1])
    assert {model["service"] for model in models["models"]} | set(models["errors"]) == {
        "generator",
        "codec",
        "analyzer",
    }
    assert set(json.loads(cli(server.target, "health", "--json")[1])) == {"generator", "codec", "analyzer"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "give -o FILE"),
        (("-o", "-", "--json"), "can't both go to stdout"),
        (("-o", "x.wav", "--format", "ape"), "ape is not one of wav, flac, mp3"),
        (("-o", "-", "--format", "flac"), "flac needs a file"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Cli, server: Served, options: tuple[str, ...], why: str) -> None:
    code, _, told = cli(server.target, *PIECE, *options)
    assert code == 2
    assert why in told and "hint: " in told


def test_doctor_finds_a_server_and_its_absence(cli: Cli, server: Served) -> None:
    _, told, _ = cli(server.target, "doctor")
    lines = told.splitlines()
    assert any(line.startswith("ok ") and "generator" in line and "SERVING" in line for line in lines)
    assert any(line.startswith("- ") and "--play" in line for line in lines)
    assert any("hint: install one of ffplay" in line for line in lines)
    code, told, _ = cli("127.0.0.1:1", "doctor")
    assert code == 1
    assert "127.0.0.1:1: nobody listens there" in told
    assert "hint: antiphon serve or make up starts one" in told


def test_serve_runs_the_stack_of_the_repository(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, below = tmp_path / "services" / "stack", tmp_path / "below"
    package.mkdir(parents=True)
    below.mkdir()
    (package / "__main__.py").touch()
    monkeypatch.chdir(below)
    ran: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: ran.append([str(Path.cwd()), *arguments]))
    assert cli("", "serve", "--port", "1234", "--secure")[0] == 0
    arguments = ["-m", "services.stack", "up", "--port", "1234", "--secure"]
    assert ran == [[str(tmp_path.resolve()), sys.executable, *arguments]]


def test_serve_of_the_client_alone_says_where_the_services_are(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.__file__", str(tmp_path / "antiphon" / "__init__.py"))
    code, _, told = cli("", "serve")
    assert code == 1
    assert "this is the client alone" in told and "hint: clone" in told


def test_completion_is_made_for_the_shell(
    cli: Cli, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # typer would look for the shell among the parents of this process, and find make's.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as ended:
        cli("", "--show-completion", "bash")
    assert ended.value.code == 0
    assert "_ANTIPHON_COMPLETE" in capfd.readouterr().out
