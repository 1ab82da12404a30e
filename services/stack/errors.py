"""What can go wrong with the local stack.

StackError
 ├─ PortTakenError     something else listens where a process of the stack should
 ├─ ProcessDiedError   a process ended by itself
 └─ NotReadyError      a service did not become healthy in time
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class StackError(RuntimeError):
    """The stack can't start or go on. The text says all that a user needs."""


class PortTakenError(StackError):
    """A port is in use; `port` and `name` say which, and for what."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"port {port} for {name} is in use")
        self.name, self.port = name, port


class ProcessDiedError(StackError):
    """A process ended before it was told to; the text ends with the last lines of its log."""

    def __init__(self, name: str, returncode: int, log: Path, tail: Sequence[str]) -> None:
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with status {returncode}"
        lines = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
        super().__init__(f"{name} {how}; the end of {log}:\n{lines}")
        self.name, self.returncode = name, returncode


class NotReadyError(StackError):
    """Services were not healthy in time; `names` lists them."""

    def __init__(self, names: Sequence[str], seconds: float, folder: Path) -> None:
        super().__init__(f"not healthy after {seconds:.0f} s: {', '.join(names)}; the logs are in {folder}")
        self.names = list(names)
