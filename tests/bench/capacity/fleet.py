"""A day of a fleet: callers, the edge, pods that come and go, and the autoscaler that decides it."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.capacity.autoscaler import SYNC_SECONDS, Autoscaler
from tests.bench.capacity.pods import FRAME_SECONDS, Curve, Piece, Pod

DAY_SECONDS = 86_400.0
SCRAPE_SECONDS = 5.0
RATE_SECONDS = 60.0


@dataclass(frozen=True)
class Traffic:
    """Listeners who each ask for some pieces a day; more in the evening than at night.

    The rate is a Poisson process that swings by `swing` around its mean, with its peak at `peak_hour`.
    """

    listeners: int
    pieces_a_day: float = 4.0
    piece_seconds: float = 30.0
    swing: float = 0.8
    peak_hour: float = 20.0

    def rate(self, seconds: float) -> float:
        """Return the pieces asked for in a second, at a time of the day."""
        phase = 2 * math.pi * (seconds / DAY_SECONDS - self.peak_hour / 24)
        return self.listeners * self.pieces_a_day / DAY_SECONDS * (1 + self.swing * math.cos(phase))

    def arrivals(self, seconds: float, generator: random.Random) -> Iterator[float]:
        """Yield the times of the requests, by thinning the process of the highest rate."""
        highest = self.listeners * self.pieces_a_day / DAY_SECONDS * (1 + self.swing)
        now = 0.0
        while True:
            now += generator.expovariate(highest)
            if now > seconds:
                return
            if generator.random() * highest < self.rate(now):
                yield now


@dataclass(frozen=True)
class Settings:
    """The fleet: what a pod is, and how long one takes to come."""

    curve: Curve
    slots: int
    queue_limit: int = 32
    warm_up_seconds: float = 20.0
    prepare_seconds: float = 0.0


@dataclass(frozen=True)
class Day:
    """What a day gave. Times in seconds."""

    pieces: int
    rejected: int
    first_audio: list[float]
    replica_seconds: float
    most_replicas: int
    behind: float
    """The part of the streams' time in which they were made slower than they play."""

    def first_audio_at(self, quantile: float) -> float:
        """Return a quantile of the time to first audio."""
        return self.first_audio[min(len(self.first_audio) - 1, int(quantile * len(self.first_audio)))]


class Balancer:
    """The edge: it looks at every ready replica and gives to the one with the least to do.

    Replicas of the same load lie together, so that the least is found without a look at thousands.
    """

    def __init__(self) -> None:
        self._by_load: list[dict[Pod, None]] = []
        self._load: dict[Pod, int] = {}

    def add(self, pod: Pod) -> None:
        """Take in a replica."""
        self._put(pod)

    def remove(self, pod: Pod) -> None:
        """Send nothing more to a replica."""
        del self._by_load[self._load.pop(pod)][pod]

    def update(self, pod: Pod) -> None:
        """Note that the load of a replica may have changed; of one that is not here nothing is noted."""
        known = self._load.get(pod)
        if known is not None and known != pod.load:
            del self._by_load[known][pod]
            self._put(pod)

    def least(self) -> Pod:
        """Return the replica with the least to do."""
        return next(iter(next(filter(None, self._by_load))))

    def _put(self, pod: Pod) -> None:
        while len(self._by_load) <= pod.load:
            self._by_load.append({})
        self._by_load[pod.load][pod] = None
        self._load[pod] = pod.load


class Scrapes:
    """What Prometheus knows of a replica: the last minute of those who wait and those who were served."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()
        self._waiting = 0

    def take(self, pod: Pod) -> None:
        """Scrape."""
        if len(self._samples) > RATE_SECONDS / SCRAPE_SECONDS:
            self._waiting -= self._samples.popleft()[0]
        self._samples.append((len(pod.waiting), pod.served))
        self._waiting += len(pod.waiting)

    @property
    def queue_wait_seconds(self) -> float:
        """Those who wait, by those who are served in a second."""
        served = (self._samples[-1][1] - self._samples[0][1]) / RATE_SECONDS
        return self._waiting / len(self._samples) / max(served, 1 / RATE_SECONDS)


class Fleet:
    """Runs a day. With an autoscaler of None the replicas stay `replicas`."""

    def __init__(self, settings: Settings, traffic: Traffic, autoscaler: Autoscaler | None, replicas: int) -> None:
        self._settings = settings
        self._traffic = traffic
        self._autoscaler = autoscaler
        self._events: list[tuple[float, int, int, Pod]] = []
        self._number = 0
        self._ready: list[Pod] = []
        self._edge = Balancer()
        self._scrapes: dict[Pod, Scrapes] = {}
        for _ in range(replicas):
            self._join()
        self._coming: deque[float] = deque()
        self._leaving: list[Pod] = []
        self._pieces: list[Piece] = []
        self._rejected = 0
        self._replica_seconds = 0.0
        self._most = replicas
        self._stream_seconds = self._behind_seconds = 0.0
        self._ticked = 0.0

    def run(self, seconds: float = DAY_SECONDS, seed: int = 0) -> Day:
        """Run until the day is over; what still runs then has had its first audio or is left out."""
        arrivals = self._traffic.arrivals(seconds, random.Random(seed))
        arrival = next(arrivals, None)
        tick = 0.0
        while True:
            soonest = min(self._events[0][0] if self._events else math.inf, tick)
            if arrival is not None and arrival <= soonest:
                self._submit(Piece(arrival, self._traffic.piece_seconds / FRAME_SECONDS + 3), arrival)
                arrival = next(arrivals, None)
            elif self._events and self._events[0][0] <= tick:
                now, version, _, pod = heapq.heappop(self._events)
                if pod.wake(now, version):
                    self._edge.update(pod)
            else:
                if tick >= seconds:
                    break
                self._tick(tick)
                tick += SCRAPE_SECONDS
        heard = sorted(piece.first_audio - piece.arrival for piece in self._pieces if piece.first_audio is not None)
        behind = self._behind_seconds / self._stream_seconds if self._stream_seconds else 0.0
        return Day(len(self._pieces) + self._rejected, self._rejected, heard, self._replica_seconds, self._most, behind)

    def _join(self) -> None:
        settings = self._settings
        pod = Pod(settings.curve, settings.slots, settings.queue_limit, self._schedule, settings.prepare_seconds)
        self._ready.append(pod)
        self._scrapes[pod] = Scrapes()
        self._edge.add(pod)

    def _schedule(self, time: float, pod: Pod, version: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, version, self._number, pod))

    def _submit(self, piece: Piece, now: float) -> None:
        pod = self._edge.least()
        if pod.full:
            self._rejected += 1
            return
        self._pieces.append(piece)
        pod.submit(piece, now)
        self._edge.update(pod)

    def _tick(self, now: float) -> None:
        """A scrape, and every third time the autoscaler."""
        alive = len(self._ready) + len(self._coming) + len(self._leaving)
        self._replica_seconds += alive * (now - self._ticked)
        for pod in self._ready:
            self._stream_seconds += pod.running
            if pod.running and self._settings.curve(pod.running) > FRAME_SECONDS:
                self._behind_seconds += pod.running
        self._ticked = now
        self._leaving = [pod for pod in self._leaving if pod.load]
        while self._coming and self._coming[0] <= now:
            self._coming.popleft()
            self._join()
        if self._autoscaler is not None:
            for pod in self._ready:
                self._scrapes[pod].take(pod)
            if now % SYNC_SECONDS == 0:
                self._scale(now, self._autoscaler)

    def _scale(self, now: float, autoscaler: Autoscaler) -> None:
        replicas = len(self._ready) + len(self._coming)
        wanted = autoscaler.decide(now, replicas, self._metrics())
        self._coming.extend([now + self._settings.warm_up_seconds] * max(0, wanted - replicas))
        for _ in range(replicas - wanted):
            if self._coming:
                self._coming.pop()
            else:
                # It takes nothing new and ends what it has.
                pod = self._ready.pop()
                self._edge.remove(pod)
                del self._scrapes[pod]
                self._leaving.append(pod)
        self._most = max(self._most, wanted)

    def _metrics(self) -> dict[str, list[float]]:
        """The three of docs/metrics.md, by pod."""
        used, wait, step = [], [], []
        for pod in self._ready:
            used.append(pod.running / pod.slots)
            wait.append(self._scrapes[pod].queue_wait_seconds)
            step.append(self._settings.curve(pod.running) / FRAME_SECONDS if pod.running else 0.0)
        return {
            "antiphon_slots_used_ratio": used,
            "antiphon_queue_wait_seconds": wait,
            "antiphon_step_budget_ratio": step,
        }
