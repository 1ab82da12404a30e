"""Where `antiphon generate` puts a piece while it comes in: a file of some format, a player, or both."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import typer

from antiphon.audio import WavWriter
from antiphon.command import failed, is_standard
from antiphon.results import Chunk, Started
from antiphon.terminal import say

PLAYERS = (
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-i", "-"),
    ("mpv", "--no-video", "--really-quiet", "-"),
    ("aplay", "-q", "-"),
    ("play", "-q", "--ignore-length", "-t", "wav", "-"),
)
"""Programs that play a WAV from stdin, whose header knows no length; the first that is installed is taken."""
NO_PLAYER = "install one of ffplay (ffmpeg), mpv, aplay (alsa-utils) or play (sox), or set ANTIPHON_PLAYER"
FORMATS = ("wav", "flac", "mp3")


class Writer(Protocol):
    """Takes the chunks of a piece."""

    def write(self, audio: Chunk) -> None: ...


def format_of(output: Path, given: str) -> str:
    """Returns the format that was asked for, or the one that the name ends with.

    Raises:
        typer.BadParameter: There is no such format, or it can't go to stdout.
    """
    ending = output.suffix.lower().removeprefix(".")
    chosen = given.lower() or (ending if ending in FORMATS else "wav")
    if chosen not in FORMATS:
        raise typer.BadParameter(f"{given} is not one of {', '.join(FORMATS)}", param_hint="--format")
    if chosen != "wav" and is_standard(output):
        raise typer.BadParameter(f"{chosen} needs a file, and stdout is none; WAV goes there", param_hint="--format")
    return chosen


def player_command() -> list[str] | None:
    """Returns the command that plays a WAV from stdin: ANTIPHON_PLAYER, or what is installed; None for neither."""
    if given := os.environ.get("ANTIPHON_PLAYER"):
        return shlex.split(given)
    return next((list(command) for command in PLAYERS if shutil.which(command[0])), None)


def compressor() -> ModuleType | None:
    """Returns the package that writes FLAC and MP3, where it is installed."""
    try:
        import soundfile
    except (ImportError, OSError):
        return None
    module: ModuleType = soundfile
    return module


@contextmanager
def opened(output: Path | None, form: str, play: bool, started: Started, endless: bool) -> Iterator[list[Writer]]:
    """Yields what takes the chunks, 16-bit PCM. Ends the command where the player or the package is missing."""
    with ExitStack() as stack:
        writers: list[Writer] = []
        if output is not None:
            total = None if endless else started.total_samples
            if form == "wav":
                wav = _wav(sys.stdout.buffer if is_standard(output) else output, started, total)
                writers.append(stack.enter_context(wav))
            else:
                writers.append(stack.enter_context(_compressed(output, form, started)))
        if play:
            writers.append(stack.enter_context(_player(started, output is not None)))
        yield writers


def _wav(destination: object, started: Started, total_samples: int | None) -> WavWriter:
    writer = WavWriter(
        destination,  # type: ignore[arg-type]
        sample_rate_hz=started.sample_rate_hz,
        channel_count=started.channel_count,
        total_samples=total_samples,
    )
    # From here on there is a file, though an empty one.
    writer.flush()
    return writer


class _Compressed:
    def __init__(self, file: object, channel_count: int) -> None:
        self._file, self._channels = file, channel_count

    def write(self, audio: Chunk) -> None:
        self._file.write(np.frombuffer(audio.data, "<i2").reshape(-1, self._channels))  # type: ignore[attr-defined]


@contextmanager
def _compressed(output: Path, form: str, started: Started) -> Iterator[_Compressed]:
    soundfile = compressor()
    if soundfile is None:
        raise failed(f"{form}: the package soundfile is not installed", "pip install soundfile, or write a .wav")
    with soundfile.SoundFile(output, "w", started.sample_rate_hz, started.channel_count, format=form.upper()) as file:
        yield _Compressed(file, started.channel_count)


class _Player:
    """A player that reads from us. One that ends early is an error, unless a file is written too."""

    def __init__(self, process: subprocess.Popen[bytes], wav: WavWriter, may_end: bool) -> None:
        self._process, self._wav, self._may_end = process, wav, may_end
        self._ended = False

    def write(self, audio: Chunk) -> None:
        if self._ended:
            return
        try:
            self._wav.write(audio)
        except BrokenPipeError:
            self._ended = True
            name = self._process.args[0] if isinstance(self._process.args, list) else "the player"
            if not self._may_end:
                raise failed(f"{name}: ended before the piece", "ANTIPHON_PLAYER names another player") from None
            say(f"{name} ended; the file goes on")


@contextmanager
def _player(started: Started, may_end: bool) -> Iterator[_Player]:
    command = player_command()
    if command is None:
        raise failed("--play: no player is installed", NO_PLAYER)
    try:
        # A session of its own: Ctrl-C is for us, and what has come is still heard.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise failed(f"{command[0]}: {error.strerror}", NO_PLAYER) from None
    assert process.stdin is not None
    try:
        player = _Player(process, _wav(process.stdin, started, None), may_end)
        yield player
        process.stdin.close()
        if process.wait() and not may_end:
            raise failed(f"{command[0]}: exit code {process.returncode}", "ANTIPHON_PLAYER names another player")
    except BrokenPipeError:
        raise failed(f"{command[0]}: takes no audio", "ANTIPHON_PLAYER names another player") from None
    except BaseException:
        process.terminate()
        raise
