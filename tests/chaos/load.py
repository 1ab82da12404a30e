"""Listeners: each hears a piece through Envoy and compares it, sample by sample, with the one it has to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from antiphon import AntiphonError, Client, ResourceExhaustedError

PROMPT = "a happy fast piano melody"
SECONDS = 6.0
STEP = 0.25
"""Seconds of audio that a listener asks for at a time, and how much faster than it plays it hears."""
SPEED = 2.0
PATIENCE_SECONDS = 180.0


@dataclass
class Tally:
    """What listeners have met with."""

    streams: int = 0
    samples_lost: int = 0
    broken: list[str] = field(default_factory=list)
    refused: int = 0
    retry_seconds: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Listeners:
    """Clients with resume on, in threads; `expected` holds the pieces by seed."""

    def __init__(self, target: str, expected: Mapping[int, bytes]) -> None:
        self.tally = Tally()
        self._target = target
        self._expected = expected
        self._pool = ThreadPoolExecutor(96)
        self._futures: list[Future[None]] = []

    def begin(self, count: int, *, pause_seconds: float = 0.0) -> None:
        """Lets so many more begin; each may stop reading in its middle for a while."""
        seeds = sorted(self._expected)
        self._futures += [self._pool.submit(self._listen, seeds[n % len(seeds)], pause_seconds) for n in range(count)]

    @property
    def present(self) -> int:
        """How many have begun, or wait to begin, and not ended."""
        return sum(not future.done() for future in self._futures)

    def wait_playing(self, count: int) -> None:
        """Waits until so many have heard something and go on."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.tally.running < count and time.monotonic() < deadline:
            time.sleep(0.05)

    def end(self) -> Tally:
        """Waits for all. Raises TimeoutError when one neither ends nor gives up."""
        for future in self._futures:
            future.result(timeout=2 * PATIENCE_SECONDS)
        self._pool.shutdown()
        return self.tally

    def _listen(self, seed: int, pause_seconds: float) -> None:
        heard = b""
        tally = self.tally
        with tally.lock:
            tally.streams += 1
        try:
            heard = self._hear(seed, pause_seconds)
        except AntiphonError as error:
            with tally.lock:
                tally.broken.append(f"{type(error).__name__}: {error}"[:200])
        with tally.lock:
            tally.samples_lost += lost(self._expected[seed], heard)

    def _hear(self, seed: int, pause_seconds: float) -> bytes:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._play(seed, pause_seconds)
            except ResourceExhaustedError as error:
                # Refused before the first sample: come again when one is told to.
                with self.tally.lock:
                    self.tally.refused += 1
                    self.tally.retry_seconds.append(error.retry_after_seconds or 0.0)
                if time.monotonic() > deadline:
                    raise
                time.sleep(min(5.0, error.retry_after_seconds or 1.0))

    def _play(self, seed: int, pause_seconds: float) -> bytes:
        data = b""
        with Client(self._target) as client:
            stream = client.stream_generate(
                PROMPT, duration=SECONDS, seed=seed, encoding="pcm_s16le", initial_credit=2 * STEP
            )
            try:
                for chunk in stream:
                    if not data:
                        self._count(1)
                    data += chunk.data
                    stream.grant(max(STEP, len(chunk.data) / 64_000))
                    time.sleep(len(chunk.data) / 64_000 / SPEED)
                    if pause_seconds and len(data) > SECONDS * 64_000 / 2:
                        time.sleep(pause_seconds)
                        pause_seconds = 0.0
            finally:
                if data:
                    self._count(-1)
        return data

    def _count(self, step: int) -> None:
        with self.tally.lock:
            self.tally.running += step
            self.tally.most_running = max(self.tally.most_running, self.tally.running)


def lost(expected: bytes, heard: bytes) -> int:
    """Samples that are not there, or not those that have to be."""
    want, got = _samples(expected), _samples(heard)
    common = min(len(want), len(got))
    return int((want[:common] != got[:common]).sum()) + abs(len(want) - len(got))


def _samples(data: bytes) -> NDArray[np.int16]:
    return np.frombuffer(data, "<i2")


def pieces(target: str, count: int) -> dict[int, bytes]:
    """What each seed has to sound like, made while all is well."""
    with Client(target) as client:
        return {
            seed: b"".join(
                chunk.data
                for chunk in client.stream_generate(PROMPT, duration=SECONDS, seed=seed, encoding="pcm_s16le")
            )
            for seed in range(count)
        }
