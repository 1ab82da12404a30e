"""The analyzer's discriminators in our form and in AudioCraft's, in one run, over the same weights and windows.

Ours in our own kernels, ours in PyTorch's calls, and AudioCraft's modules: those window by window and all windows in
one call, of which the better counts. Each is timed in turn, round after round, and the best round counts: what else
runs on the machine only ever slows a round down.

- ``rtf``: seconds of audio for each second of time.
- ``largest_score_difference``: between our scores and AudioCraft's, over all windows and families.
- ``hour_rss_growth_megabytes``: by how much the resident memory ever passes that after half a minute, while the
  engine analyzes an hour-long file.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from services.analyzer.engine import SHIPPED, UNTRAINED, AnalyzerEngine
from services.analyzer.requests import Analysis
from services.models import discriminators
from services.models.audio import AudioLimits
from services.models.calibration import FAMILIES, WEIGHTS_FILE
from services.models.discriminators import Discriminators
from tests.bench.codec import resident_megabytes

SUMMARY = "Time the discriminators beside AudioCraft's own forward; watch the memory over an hour-long file."
FILE_RATE = 8_000
WARM_UP_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--windows", type=int, default=8, help="windows that are scored at once (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="torch's threads (default: 1 2)")
    parser.add_argument("--soak-seconds", type=float, default=3600.0, help="audio of the memory test (default: 3600)")
    parser.add_argument("--weights", default="", help='folder, or "untrained"; default: what is shipped')
    parser.add_argument("--quick", action="store_true", help="a trial of a second; no figures to quote")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table and, as the last line, one JSON object."""
    if arguments.quick:
        arguments.windows, arguments.rounds, arguments.soak_seconds = 2, 1, 3.0
    modules, ours, plain = build(arguments.weights)
    generator = torch.Generator().manual_seed(0)
    windows = 0.1 * torch.randn(arguments.windows, ours.info.window_samples, generator=generator)
    contenders = {
        "ours": lambda: ours.listen(windows),
        "ours_pytorch": lambda: plain.listen(windows),
        "audiocraft_one_by_one": lambda: [forward(modules, window[None]) for window in windows],
        "audiocraft_together": lambda: forward(modules, windows),
    }
    results = {
        count: time_all(contenders, arguments.windows * ours.info.window_seconds, arguments.rounds, count)
        for count in arguments.threads
    }
    first = arguments.threads[0]
    torch.set_num_threads(max(arguments.threads))
    facts: dict[str, Any] = {
        "model": ours.info.name,
        "parameters": ours.info.parameter_count,
        "kernels": ours.is_native,
        "threads": first,
        "windows": arguments.windows,
        "torch": torch.__version__,
        **results[first],
        **{f"threads_{count}": figures for count, figures in results.items() if count != first},
        "largest_score_difference": difference(modules, ours, windows),
        "soak_seconds": arguments.soak_seconds,
        "hour_rss_growth_megabytes": round(memory_growth(arguments.weights, arguments.soak_seconds), 2),
    }
    if arguments.quick:
        facts["quick"] = True
    table = Table(title="discriminators, seconds of audio a second" + (" (quick: not to quote)" * arguments.quick))
    for heading in ("threads", "implementation", "seconds a second"):
        table.add_column(heading, justify="left" if heading == "implementation" else "right")
    for count, figures in results.items():
        for name, each in figures.items():
            table.add_row(str(count), name, f"{each['rtf']:.1f}")
    Console().print(table)
    print(json.dumps(facts))


def build(weights: str) -> tuple[dict[Any, Any], Discriminators, Discriminators]:
    """Return AudioCraft's modules, and the same weights with our kernels and without."""
    from safetensors.torch import load_file

    folder = Path(weights) if weights else SHIPPED
    if weights == UNTRAINED:
        ours = discriminators.build_untrained()
        modules = discriminators.build_untrained_modules()
    else:
        ours = discriminators.load(folder)
        assert ours.card is not None
        modules = discriminators.build_modules(ours.card.architecture, load_file(folder / WEIGHTS_FILE))
    return modules, ours, Discriminators(modules, ours.info, ours.card, kernels=False)


@torch.inference_mode()
def forward(modules: dict[Any, Any], windows: torch.Tensor) -> list[torch.Tensor]:
    """Return the score of each family and window, by AudioCraft's own forward over windows ``[B, T]``."""
    return [
        torch.stack([logit.sigmoid().flatten(1).mean(dim=1) for logit in modules[family](windows[:, None])[0]]).mean(0)
        for family in FAMILIES
    ]


def difference(modules: dict[Any, Any], ours: Discriminators, windows: torch.Tensor) -> float:
    """Return how far our scores are from AudioCraft's, at most."""
    theirs = torch.stack(forward(modules, windows), dim=1)
    mine = torch.tensor([[getattr(each.scores, family) for family in FAMILIES] for each in ours.listen(windows)])
    return float((mine - theirs).abs().max())


def time_all(
    contenders: dict[str, Callable[[], Any]], seconds: float, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Time each in turn, round after round, after one that does not count."""
    torch.set_num_threads(threads)
    best = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds + 1):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - begin)
    theirs = min(best["audiocraft_one_by_one"], best["audiocraft_together"])
    return {
        name: {"rtf": round(seconds / taken, 2)}
        for name, taken in {"ours": best["ours"], "ours_pytorch": best["ours_pytorch"], "audiocraft": theirs}.items()
    }


def memory_growth(weights: str, seconds: float) -> float:
    """Analyze a file of so many seconds; return by how much the resident memory passes that at its start, at most."""
    limits = AudioLimits(max_bytes=1 << 30, max_seconds=2 * seconds + WARM_UP_SECONDS, max_values=1 << 62)
    engine = AnalyzerEngine(weights, "cpu", 0, limits)
    engine.load()
    data = noise_file(seconds)
    highest = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.05):
            highest = max(highest, resident_megabytes())

    async def analyze(file: bytes) -> None:
        await engine.analyze(Analysis(file, 0.5, False, False))

    asyncio.run(analyze(noise_file(min(seconds, WARM_UP_SECONDS))))
    gc.collect()
    before = resident_megabytes()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        asyncio.run(analyze(data))
    finally:
        ended.set()
        watcher.join()
        engine.close()
    return highest - before


def noise_file(seconds: float) -> bytes:
    """Return a 16-bit WAV of noise."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", FILE_RATE, 1, "PCM_16", format="WAV") as file:
        left = round(seconds * FILE_RATE)
        while left > 0:
            count = min(left, 60 * FILE_RATE)
            file.write((random.standard_normal(count) * 3_000).astype(np.int16))
            left -= count
    return buffer.getvalue()
