"""A replica of the generator as a queue: what its scheduler does, at the speed that was measured.

A step advances every live stream by one position and takes as long as the curve says for their number. So all streams
of a pod share one clock, which counts its steps: a stream that joins at step V has its first audio at V + FIRST_STEPS
and ends at V + its length, however others come and go meanwhile. That makes a pod exact with one event for each thing
that happens.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

FRAME_SECONDS = 0.020
"""Of 50 frames a second, as all MusicGen and AudioGen checkpoints have."""
FIRST_STEPS = 12
"""Steps before the first audio: five frames, the delay of the codebooks, and what the decoder looks ahead."""


class Curve:
    """Seconds of a step by the number of streams: straight lines between what was measured, and on beyond it."""

    def __init__(self, milliseconds: Mapping[int, float]) -> None:
        points = sorted(milliseconds.items())
        if not points or points[0][0] < 1 or min(value for _, value in points) <= 0:
            raise ValueError("curve: must have numbers of streams from 1 on and milliseconds above 0")
        self._counts = [count for count, _ in points]
        self._seconds = [value / 1000 for _, value in points]
        self._known: dict[int, float] = {}

    def __call__(self, streams: int) -> float:
        """Return the seconds of a step for some streams, 1 or more."""
        if streams not in self._known:
            self._known[streams] = self._between(streams)
        return self._known[streams]

    def _between(self, streams: int) -> float:
        if len(self._counts) == 1:
            return self._seconds[0]
        right = min(max(bisect_right(self._counts, streams), 1), len(self._counts) - 1)
        left = right - 1
        slope = (self._seconds[right] - self._seconds[left]) / (self._counts[right] - self._counts[left])
        return max(self._seconds[left] + slope * (streams - self._counts[left]), self._seconds[0])


@dataclass(slots=True)
class Piece:
    """One request: when it came, how many steps it takes; what became of it."""

    arrival: float
    steps: float
    first_audio: float | None = None
    end: float | None = None


@dataclass(eq=False, slots=True)
class Pod:
    """One replica. `schedule(seconds, pod, version)` asks to be woken then with `wake`."""

    curve: Curve
    slots: int
    queue_limit: int
    schedule: Callable[[float, Pod, int], None]
    prepare_seconds: float = 0.0
    running: int = 0
    waiting: deque[Piece] = field(default_factory=deque)
    version: int = 0
    served: int = 0
    """Pieces that have had their first audio."""
    stepping: float = 0.0
    steps: float = 0.0
    _clock: float = 0.0
    _time: float = 0.0
    _marks: list[tuple[float, int, int, Piece]] = field(default_factory=list)
    _number: int = 0

    @property
    def load(self) -> int:
        """Requests that run or wait, which is what the edge balances by."""
        return self.running + len(self.waiting)

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return self.load >= self.slots + self.queue_limit

    def submit(self, piece: Piece, now: float) -> None:
        """Take a request that comes now."""
        self._advance(now)
        self.waiting.append(piece)
        self._seat()
        self._wake_later(now)

    def wake(self, now: float, version: int) -> bool:
        """Do what is due; False when the call is out of date."""
        if version != self.version:
            return False
        self._advance(now)
        while self._marks and self._marks[0][0] <= self._clock + 1e-9:
            _, kind, _, piece = heapq.heappop(self._marks)
            if kind == 0:
                piece.first_audio = now + self.prepare_seconds
                self.served += 1
            else:
                piece.end = now + self.prepare_seconds
                self.running -= 1
        self._seat()
        self._wake_later(now)
        return True

    def _advance(self, now: float) -> None:
        if self.running:
            done = (now - self._time) / self.curve(self.running)
            self._clock += done
            self.steps += done
            self.stepping += now - self._time
        self._time = now

    def _seat(self) -> None:
        while self.waiting and self.running < self.slots:
            piece = self.waiting.popleft()
            self.running += 1
            for kind, steps in ((0, min(FIRST_STEPS, piece.steps)), (1, piece.steps)):
                self._number += 1
                heapq.heappush(self._marks, (self._clock + steps, kind, self._number, piece))

    def _wake_later(self, now: float) -> None:
        self.version += 1
        if self._marks:
            seconds = max(0.0, (self._marks[0][0] - self._clock) * self.curve(self.running))
            self.schedule(now + seconds, self, self.version)


def alone(
    pieces: Sequence[Piece], curve: Curve, slots: int, queue_limit: int, prepare_seconds: float = 0.0
) -> Sequence[Piece]:
    """Play pieces, in the order of their arrival, to one replica; return them with what became of them."""
    calls: list[tuple[float, int]] = []

    def schedule(moment: float, _: Pod, version: int) -> None:
        heapq.heappush(calls, (moment, version))

    pod = Pod(curve, slots, queue_limit, schedule, prepare_seconds)
    for piece in pieces:
        while calls and calls[0][0] < piece.arrival:
            pod.wake(*heapq.heappop(calls))
        pod.submit(piece, piece.arrival)
    while calls:
        pod.wake(*heapq.heappop(calls))
    return pieces
