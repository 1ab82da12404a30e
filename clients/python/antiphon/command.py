"""What the commands of the command line share: options, the connection, and where results go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from antiphon.client import Client
from antiphon.connection import DEFAULT_TARGET
from antiphon.errors import AntiphonError
from antiphon.terminal import complain, explain

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

Target = Annotated[str | None, typer.Option(help=f"host:port; default: ANTIPHON_TARGET, else {DEFAULT_TARGET}.")]
Tls = Annotated[bool, typer.Option("--tls", help="Use TLS with the system's root certificates.")]
Timeout = Annotated[float | None, typer.Option(help="Give up after so many seconds.")]


@contextmanager
def connected(target: str | None, tls: bool, *, resume: bool = True) -> Iterator[Client]:
    """Yields a client; an error of its calls ends the command with two lines and exit code 1."""
    try:
        client = Client(target, tls=tls, resume=resume)
    except ValueError as error:
        raise failed(str(error), "look at ANTIPHON_API_KEY") from None
    with client:
        try:
            yield client
        except AntiphonError as error:
            raise failed(*explain(error, client.target)) from None


def failed(message: str, hint: str) -> typer.Exit:
    """Prints an error and what to do about it; returns what ends the command with exit code 1."""
    complain(message, hint)
    return typer.Exit(1)


def is_standard(path: Path) -> bool:
    """Tells whether a path stands for stdin or stdout."""
    return str(path) == "-"


def name_of(output: Path) -> str:
    """Returns what messages call an output."""
    return "stdout" if is_standard(output) else str(output)


def check_output(output: Path, source: Path, force: bool) -> None:
    """Ends the command where writing would destroy a file that nobody gave up."""
    if is_standard(output) or not output.exists():
        return
    if not is_standard(source) and source.exists() and output.samefile(source):
        raise failed(f"{output}: is the input", "choose another path")
    if not force and output.is_file() and output.stat().st_size:
        raise failed(f"{output}: is there already", "choose another path, or replace it with --force")
