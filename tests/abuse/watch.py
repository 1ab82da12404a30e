"""What must be true after an attack: all live, nothing is held, and the next caller gets the piece it always got."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psutil

from services.stack.stack import Stack
from tests.abuse.calls import serve
from tests.integration import calls

SETTLE_SECONDS = 15.0
GAUGES = ("antiphon_slots_active", "antiphon_requests_waiting", "antiphon_streams_parked")


@dataclass
class Watch:
    """The stack as it was before: its processes, their memory in megabytes, and what it answers."""

    stack: Stack
    pids: dict[str, int] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    piece: bytes = b""

    def __post_init__(self) -> None:
        # The first calls make caches that stay.
        for _ in range(3):
            self.piece = serve(self.stack)
        self.pids = {name: process.pid for name, process in self.stack.processes.items()}
        self.megabytes = self._memory()

    def assert_well(self) -> None:
        """Raises AssertionError when something died, is held, or answers otherwise than before."""
        dead = {name: state.returncode for name, state in self.stack.processes.items() if state.returncode is not None}
        assert not dead
        assert {name: process.pid for name, process in self.stack.processes.items()} == self.pids
        assert serve(self.stack) == self.piece
        deadline = time.monotonic() + SETTLE_SECONDS
        while any((held := self.held()).values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(held.values()), held

    def held(self) -> dict[str, float]:
        """Slots, places in queues and parked streams that are taken."""
        lines = calls.get(self.stack.addresses["generator metrics"]).splitlines()
        return {line: float(line.rpartition(" ")[2]) for line in lines if line.startswith(GAUGES)}

    def growth(self) -> dict[str, float]:
        """Megabytes by which each process has grown."""
        return {name: round(now - self.megabytes[name], 1) for name, now in self._memory().items()}

    def _memory(self) -> dict[str, float]:
        return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in self.pids.items()}
