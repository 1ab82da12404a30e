"""The demo: streams a piece through Envoy into a WAV file while it is made, and measures it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from antiphon import Client, WavWriter


@dataclass(frozen=True)
class Take:
    """A recorded stream. Times are in seconds, from the call; `samples` is [n, channels], full scale 1.0."""

    prompt: str
    seed: int
    sample_rate_hz: int
    samples: NDArray[np.float32]
    chunks: int
    first_audio_seconds: float
    total_seconds: float

    @property
    def seconds(self) -> float:
        """Audio made."""
        return len(self.samples) / self.sample_rate_hz

    @property
    def real_time_factor(self) -> float:
        """Audio made by the time it took: above 1 a player never waits."""
        return self.seconds / self.total_seconds

    @property
    def peak(self) -> float:
        """Largest magnitude; full scale is 1.0."""
        return float(np.abs(self.samples).max(initial=0.0))

    def table(self) -> Table:
        """The measurements."""
        table = Table(title=self.prompt, show_header=False)
        table.add_row("time to first audio", f"{self.first_audio_seconds:.3f} s")
        table.add_row("real-time factor", f"{self.real_time_factor:.2f}")
        table.add_row("chunks", str(self.chunks))
        table.add_row("peak", f"{self.peak:.3f}")
        table.add_row("audio", f"{self.seconds:.2f} s at {self.sample_rate_hz} Hz")
        table.add_row("seed", str(self.seed))
        return table


def record(address: str, prompt: str, *, duration: float, seed: int, path: Path) -> Take:
    """Streams `duration` seconds from the server at `address` into the WAV file `path`.

    Raises:
        AntiphonError: The server can't be reached, refuses the request or breaks off.
        OSError: The file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces: list[NDArray[np.float32]] = []
    first_audio_seconds = 0.0
    with Client(address) as client:
        begun = time.perf_counter()
        with client.stream_generate(prompt, duration=duration, seed=seed) as stream, WavWriter(path) as wav:
            for chunk in stream:
                if not pieces:
                    first_audio_seconds = time.perf_counter() - begun
                wav.write(chunk)
                pieces.append(chunk.samples)
        total_seconds = time.perf_counter() - begun
    # The client refuses a stream that does not begin with `started`.
    assert stream.started is not None
    return Take(
        prompt=prompt,
        seed=stream.started.seed,
        sample_rate_hz=stream.started.sample_rate_hz,
        samples=np.concatenate(pieces),
        chunks=len(pieces),
        first_audio_seconds=first_audio_seconds,
        total_seconds=total_seconds,
    )
