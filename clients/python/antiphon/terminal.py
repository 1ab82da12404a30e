"""What the CLI shows on stderr: how a generation goes, and errors with a hint."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from antiphon.errors import (
    AntiphonError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

SECONDS_PER_LINE = 1.0


def say(text: str) -> None:
    """Prints one line to stderr, whatever the text holds."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def complain(message: str, hint: str) -> None:
    """Prints an error and what to do about it, a line each."""
    say(f"error: {message}")
    say(f"hint: {hint}")


@contextmanager
def progress(what: str, total_seconds: float) -> Iterator[Callable[[float], None]]:
    """Shows a bar on a terminal; yields what moves it. A total of 0 is not known."""
    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total_seconds or None, state="")

        def reached(seconds: float) -> None:
            bar.update(task, completed=seconds, state=f"{seconds:.0f} of {total_seconds:.0f} s")

        yield reached


class Meter:
    """Shows seconds made, real-time factor and time to first audio: a bar on a terminal, else plain lines."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("waiting", total=None, state="")
        self._begin = self._latest = time.perf_counter()
        self._next_line = SECONDS_PER_LINE
        self._total: float | None = None
        self.made = 0.0
        self.first_audio: float | None = None

    def start(self, total_seconds: float | None) -> None:
        """The server has begun a piece of `total_seconds`, or one without an end."""
        self._total = total_seconds
        if self._bar is not None:
            self._bar.update(self._task, description="generating", total=total_seconds)

    def reach(self, seconds: float) -> None:
        """So much audio has come."""
        self._latest = time.perf_counter()
        if self.first_audio is None:
            self.first_audio = self._latest - self._begin
        self.made = seconds
        if self._bar is not None:
            self._bar.update(self._task, completed=self.made, state=self.state)
        elif self.made >= self._next_line:
            self._next_line = self.made + SECONDS_PER_LINE
            say(self.state)

    @property
    def speed(self) -> float:
        """Seconds of audio a second, from the call to the last audio."""
        return self.made / max(self._latest - self._begin, 1e-9)

    @property
    def state(self) -> str:
        """The figures, in a line."""
        total = "" if self._total is None else f" of {self._total:.1f}"
        return f"{self.made:.1f}{total} s, {self.figures}"

    @property
    def figures(self) -> str:
        """Real-time factor (seconds of audio a second) and time to first audio."""
        first = "no audio yet" if self.first_audio is None else f"first audio after {self.first_audio:.2f} s"
        return f"{self.speed:.2f}x real time, {first}"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def explain(error: AntiphonError, target: str) -> tuple[str, str]:
    """Returns what went wrong, and what to do about it."""
    message = error.message
    if error.violations:
        message = "; ".join(f"{v.field}: {v.description}" for v in error.violations)
    match error:
        case InvalidArgumentError():
            hint = "--help after the command shows the ranges, antiphon models the longest duration"
        case NotFoundError():
            hint = "antiphon models shows the models that are loaded"
        case UnavailableError():
            message = f"{target}: no answer ({message})"
            hint = "start the services with make up, or name another address with --target or ANTIPHON_TARGET"
        case FailedPreconditionError():
            hint = "antiphon models shows what is loaded; leave out the option that asks for more"
        case ResourceExhaustedError():
            wait = error.retry_after_seconds
            hint = "the server is busy; try again " + (f"in {wait:g} s" if wait else "later")
        case DeadlineExceededError():
            hint = "raise --timeout, or ask for a shorter piece"
        case UnauthenticatedError() | PermissionDeniedError():
            hint = "set ANTIPHON_API_KEY to a key that this server knows"
        case UnimplementedError():
            hint = f"{target} does not offer this: is it Antiphon, and as new as this client?"
        case CancelledError():
            hint = "something between here and the server cancelled the call; try again"
        case ProtocolError():
            hint = f"client and server may be of different versions (request {error.request_id})"
        case _:
            hint = f"the server's log tells more (request {error.request_id})"
    return message, hint
