"""`python -m services.stack run`: a program with a stack around it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from services.stack import __main__ as command
from services.stack.errors import ProcessDiedError

PROGRAM = "import os, sys; print('given', os.environ['ANTIPHON_TARGET'], *sys.argv[1:], file=sys.stderr); sys.exit(3)"


class FakeStack:
    """Has an address, and tells whether it was left."""

    address = "127.0.0.1:1"
    left = False

    def __init__(self, **options: Any) -> None:
        assert options["ports"].edge

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        type(self).left = True


def test_the_program_gets_the_address_and_its_exit_code_counts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Stack", FakeStack)
    done = CliRunner().invoke(command.app, ["run", "--", sys.executable, "-c", PROGRAM, "--seconds", "1"])
    assert done.exit_code == 3
    assert "given 127.0.0.1:1 --seconds 1" in capfd.readouterr().err
    assert FakeStack.left


def test_a_stack_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(**_: Any) -> FakeStack:
        raise ProcessDiedError("generator", 1, Path("log"), ["boom"])

    monkeypatch.setattr(command, "Stack", dies)
    assert CliRunner().invoke(command.app, ["run", "true"]).exit_code == 1
