"""Runs the processes of a stack with honcho, in a process of its own: `python -m services.stack.runner PLAN`.

Of its own, because honcho forks, which a process with gRPC's threads must not do, and wants the main thread.
On stdin come orders, one a line: `stop`, `kill`; the end of stdin means `stop`, so that nothing is left when
the one who gave the orders dies. On stdout goes the state after each change, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import honcho.manager
from honcho.printer import Message, Printer

from services.stack.plan import Plan


class Logs(Printer):  # type: ignore[misc]  # honcho is untyped
    """Writes each process's output to `<name>.log` in a folder, with `console` to stderr too."""

    def __init__(self, folder: Path, *, console: bool, changed: Callable[[], None]) -> None:
        super().__init__(sys.stderr)
        self._folder, self._console, self._changed = folder, console, changed
        self._files: dict[str, BinaryIO] = {}

    def write(self, message: Message) -> None:
        """Takes a line of a process, or of honcho, which says one after each start and stop."""
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME:
            self._changed()
        else:
            if message.name not in self._files:
                self._files[message.name] = (self._folder / f"{message.name}.log").open("wb", buffering=0)
            self._files[message.name].write(message.data)
        if self._console:
            super().write(message)


class Supervisor(honcho.manager.Manager):  # type: ignore[misc]  # honcho is untyped
    """honcho's manager, but proxies stop last: what services finish while they drain goes through them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(Logs(Path(plan.folder), console=plan.console, changed=self._report))
        self._plan = plan
        self._stop = threading.Event()
        for command in plan.commands:
            # `exec`, so that the process is the command and not a shell around it.
            line = f"exec {shlex.join(command.arguments)}"
            inherited = {key: value for key, value in os.environ.items() if key.upper() not in command.removed}
            self.add_process(command.name, line, env={**inherited, **command.environment})
        threading.Thread(target=self._stop_in_order, daemon=True).start()

    def terminate(self) -> None:
        """Asks for an orderly end; returns at once."""
        self._stop.set()

    def _any_stopped(self) -> bool:
        # honcho ends the rest, and begins to count to KILL_WAIT, when this turns true.
        return self._stop.is_set() or (not self._plan.keep_going and bool(super()._any_stopped()))

    def _stop_in_order(self) -> None:
        self._stop.wait()
        while not self._all_started():
            time.sleep(0.05)
        services = [name for name in self._processes if name not in self._plan.proxies]
        for group in (services, self._plan.proxies):
            for name in group:
                if self._processes[name].get("returncode") is None:
                    self._procmgr.terminate(self._processes[name]["pid"])
            while any(self._processes[name].get("returncode") is None for name in group):
                time.sleep(0.05)

    def _report(self) -> None:
        state: Mapping[str, Mapping[str, int | None]] = {
            name: {"pid": process["pid"], "returncode": process.get("returncode")}
            for name, process in self._processes.items()
            if process.get("pid") is not None
        }
        # Who gave the orders may be dead; what runs has to be ended all the same. Not print, whose buffer would keep
        # the line for a second try.
        with contextlib.suppress(BrokenPipeError):
            os.write(1, f"{json.dumps(state)}\n".encode())


def obey(supervisor: Supervisor) -> None:
    """Carries out the orders on stdin until it ends."""
    # Not sys.stdin: its lock, held in this thread while honcho forks, would never come free in the child.
    while order := os.read(0, 1024):
        if b"kill" in order:
            supervisor.kill()
        else:
            supervisor.terminate()
    supervisor.terminate()


def main() -> None:
    """Runs the plan whose file is the first argument until all its processes have ended."""
    plan = Plan.load(Path(sys.argv[1]))
    honcho.manager.KILL_WAIT = plan.grace_seconds
    supervisor = Supervisor(plan)
    threading.Thread(target=obey, args=(supervisor,), daemon=True).start()
    supervisor.loop()


if __name__ == "__main__":
    main()
