"""Which calls may come in, and which are running.

One event loop owns an `Admission`; no method may be called from another thread.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.runtime.errors import ResourceExhausted, Unavailable

# Health and reflection answer in every state, and never count as load.
_INFRASTRUCTURE = ("grpc.health.", "grpc.reflection.")


class Phase(enum.Enum):
    """Where the process is in its life."""

    LOADING = "the model is loading"
    SERVING = "serving"
    DRAINING = "the server is shutting down"


class Admission:
    """Admits calls up to a limit while the server serves, and knows the tasks of those that run.

    `client_limit` is how many of them may be one client's; 0 for no limit of its own.
    """

    def __init__(self, limit: int, client_limit: int = 0) -> None:
        self.phase = Phase.LOADING
        self._limit = limit
        self._client_limit = client_limit
        self._clients: Counter[str] = Counter()
        self._calls: set[asyncio.Task[object]] = set()
        self._infrastructure: set[asyncio.Task[object]] = set()
        self._cut: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self, service: str, client: str = "") -> Iterator[None]:
        """Holds a place for the current task's call.

        Raises:
            Unavailable: the server is loading or draining.
            ResourceExhausted: as many calls run as may, in all or of this client.
        """
        task = asyncio.current_task()
        assert task is not None
        if service.startswith(_INFRASTRUCTURE):
            self._infrastructure.add(task)
        elif self.phase is not Phase.SERVING:
            raise Unavailable(self.phase.value, 1.0, elsewhere=True)
        elif len(self._calls) >= self._limit:
            raise ResourceExhausted(f"{self._limit} calls are running, as many as may", 1.0, elsewhere=True)
        elif self._client_limit and self._clients[client] >= self._client_limit:
            # Not to be tried elsewhere: the limit would be the number of replicas times as high.
            message = f"{self._client_limit} calls of this client are running, as many as may"
            raise ResourceExhausted(message, 1.0, reason="CLIENT_LIMIT")
        else:
            self._calls.add(task)
            self._clients[client] += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._infrastructure.discard(task)
            if task in self._calls:
                self._calls.remove(task)
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]
            self._cut.discard(task)
            if not self._calls:
                self._idle.set()

    def was_cut(self) -> bool:
        """Whether the current task's cancellation came from `cut`, not from its caller."""
        return asyncio.current_task() in self._cut

    async def wait_idle(self, timeout_seconds: float) -> bool:
        """Waits until no call runs, infrastructure aside. False when some still do after the time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    def cut(self) -> int:
        """Cancels every call, health watchers too. Returns how many were real ones."""
        cut = len(self._calls)
        for task in (*self._calls, *self._infrastructure):
            self._cut.add(task)
            task.cancel()
        return cut
