"""A queue that is fair between clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a client; between clients, who holds least is next, and then in turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[T]] = {}
        """In the order in which the clients' turns come; none is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[T]:
        return (item for lane in self._lanes.values() for item in lane)

    def push(self, client: str, item: T) -> None:
        """Add an item behind those of its client."""
        self._lanes.setdefault(client, deque()).append(item)

    def pop(self, held: Mapping[str, int]) -> T:
        """Remove and return the next item.

        Args:
            held: slots that each client holds now; none where it is not named.

        Raises:
            ValueError: the queue is empty.
        """
        client = min(self._lanes, key=lambda name: held.get(name, 0))
        lane = self._lanes.pop(client)
        item = lane.popleft()
        if lane:
            self._lanes[client] = lane
        return item

    def displace(self, client: str) -> T | None:
        """Remove and return the newest item of who waits with most, if that leaves them no worse off than ``client``.

        So nobody can fill the queue against the others.
        """
        longest = max(self._lanes, key=lambda name: len(self._lanes[name]), default=None)
        if longest is None or len(self._lanes[longest]) < len(self._lanes.get(client, ())) + 2:
            return None
        return self._lanes[longest].pop()

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the items for which ``unwanted`` is true."""
        removed = [item for item in self if unwanted(item)]
        kept = {name: deque(item for item in lane if not unwanted(item)) for name, lane in self._lanes.items()}
        self._lanes = {name: lane for name, lane in kept.items() if lane}
        return removed
