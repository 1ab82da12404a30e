"""`antiphon serve`, which runs the stack from the repository, and `antiphon doctor`, which says what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import antiphon
from antiphon.client import Client
from antiphon.command import Target, Tls, failed
from antiphon.connection import DEFAULT_TARGET, VERSION
from antiphon.errors import AntiphonError, UnavailableError
from antiphon.outputs import NO_PLAYER, compressor, player_command
from antiphon.results import HealthStatus
from antiphon.terminal import explain

QUICK_SECONDS = 5.0
CLONE = "clone Antiphon's repository and run make setup in it"
# What the services need and the client does not, by what they are for.
SERVER_PACKAGES = {"torch": "models", "audiocraft": "models", "soundfile": "audio files", "envoy": "the edge"}
COMPILERS = ("c++", "g++", "clang++")


def repository() -> Path | None:
    """Returns the folder of the repository, where the services are: this one, or the one that the client runs from."""
    places = (Path.cwd(), *Path.cwd().parents, *Path(antiphon.__file__).resolve().parents)
    return next((place for place in places if (place / "services" / "stack" / "__main__.py").is_file()), None)


def serve(
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8080,
    secure: Annotated[bool, typer.Option("--secure", help="TLS, an API key and mTLS, as in production.")] = False,
) -> None:
    """Run the whole stack on this machine: the three services and Envoy; Ctrl-C stops it."""
    folder = repository()
    if folder is None:
        raise failed("serve: the services are not here, this is the client alone", f"{CLONE}, then antiphon serve")
    python = folder / ".venv" / "bin" / "python"
    arguments = ["-m", "services.stack", "up", "--port", str(port), *(["--secure"] if secure else [])]
    sys.stdout.flush()
    os.chdir(folder)
    # In place of this process: signals and the exit code are then the stack's own.
    program = str(python) if python.exists() else sys.executable
    os.execv(program, [program, *arguments])


@dataclass(frozen=True)
class Finding:
    """What `doctor` looked at. `is_needed` is false for what only some uses need."""

    name: str
    is_good: bool
    told: str
    hint: str = ""
    is_needed: bool = True


def doctor(target: Target = None, tls: Tls = False) -> None:
    """Say what is there, what is missing and how to get it; exit with 1 where the client could not work."""
    findings = [*_here(), *_server(target, tls), *_stack()]
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        mark = "ok" if finding.is_good else "missing" if finding.is_needed else "-"
        print(f"{mark:<9}{finding.name:<{width}}{finding.told}")
        if finding.hint and not finding.is_good:
            print(f"{'':<{9 + width}}hint: {finding.hint}")
    if any(finding.is_needed and not finding.is_good for finding in findings):
        raise typer.Exit(1)


def _here() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("client", True, f"antiphon {VERSION}, Python {python}, {Path(antiphon.__file__).parent}")
    player = player_command()
    yield Finding("--play", player is not None, player[0] if player else "no player", NO_PLAYER, is_needed=False)
    package = compressor()
    told = "no soundfile" if package is None else f"soundfile {package.__version__}"
    yield Finding("--format flac, mp3", package is not None, told, "pip install soundfile", is_needed=False)


def _server(target: str | None, tls: bool) -> Iterator[Finding]:
    """Whether there is a server, and how its services and models are."""
    try:
        client = Client(target, tls=tls)
    except ValueError as error:
        yield Finding("server", False, str(error), "look at ANTIPHON_API_KEY")
        return
    with client:
        name = f"server {client.target}" if client.target != DEFAULT_TARGET else "server"
        if not _answers(client.target):
            hint = "antiphon serve or make up starts one; --target or ANTIPHON_TARGET names another"
            yield Finding(name, False, f"{client.target}: nobody listens there", hint)
            return
        try:
            statuses = client.health(timeout=QUICK_SECONDS)
            models = client.list_models(timeout=QUICK_SECONDS)
        except AntiphonError as error:
            yield Finding(name, False, *explain(error, client.target))
            return
        for service, status in statuses.items():
            hint = "it may be loading its models: look at its log, and again in a moment"
            yield Finding(service.value, status is HealthStatus.SERVING, status.value, hint)
        for service, failure in models.errors.items():
            if not isinstance(failure, UnavailableError):
                yield Finding(f"{service.value} models", False, *explain(failure, client.target))
        for model in models:
            told = f"{model.service.value}, {model.kind.value}, {model.precision} on {model.device}"
            hint = "its weights are not trained: what it says means nothing"
            yield Finding(model.name, model.is_trained, told, hint, is_needed=False)


def _answers(target: str) -> bool:
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        # A name that gRPC resolves in a way of its own.
        return True
    try:
        socket.create_connection((host.strip("[]") or "localhost", int(port)), QUICK_SECONDS).close()
    except OSError:
        return False
    return True


def _stack() -> Iterator[Finding]:
    """Whether `antiphon serve` would run here. No use of the client needs it."""
    folder = repository()
    if folder is None:
        yield Finding("antiphon serve", False, "the services are not here", CLONE, is_needed=False)
        return
    python = folder / ".venv" / "bin" / "python"
    missing = _missing_packages(python if python.exists() else Path(sys.executable))
    if missing:
        told = "; ".join(f"{name}, for {SERVER_PACKAGES[name]}" for name in missing)
        yield Finding("antiphon serve", False, f"not installed: {told}", f"make setup in {folder}", is_needed=False)
    else:
        yield Finding("antiphon serve", True, str(folder))
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    hint = "apt-get install g++; without it the services run in PyTorch's own loops, more slowly"
    yield Finding("C++ compiler", compiler is not None, compiler or "none", hint, is_needed=False)


def _missing_packages(python: Path) -> list[str]:
    if python.resolve() == Path(sys.executable).resolve() and python.parent == Path(sys.executable).parent:
        return [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    program = f"import importlib.util as u; print(*[n for n in {list(SERVER_PACKAGES)} if u.find_spec(n) is None])"
    asked = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return asked.stdout.split() if asked.returncode == 0 else list(SERVER_PACKAGES)
