"""Our engine at each precision beside AudioCraft's own loop and transformers', in one run.

Nothing goes through gRPC. A first short piece of each is not counted. Of each loop and number of streams:

- ``ms_per_step``: a step of the transformer with sampling and what the loop does around it, without the codec: the
  mean over a whole guided piece, because a step's cost grows with its position.
- ``rtf``: seconds of audio for each second of time, all streams together, text and codec included.
- ``first_audio_seconds``: until every stream has had its first samples. The other loops have none before their end.

``roofline`` is what a step of one of our streams would take were it only bound by the memory: the bytes that it must
read (weights, and the caches of both rows at the middle of the piece) over the bandwidth that the same run measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from services.models.codecs import codec_of
from services.models.execution import weight_bytes
from services.models.loader import LoadedGenerator
from services.models.sessions import Frames
from tests.bench import shapes
from tests.bench.loops import Figures, Loop, Ours, loops

SUMMARY = "Time our engine, AudioCraft's own loop and transformers' on models of one shape."
SECONDS, STREAMS = 10.0, (1, 2, 4, 8)
POSITIONS = (10, 250, 490)
WARM_UP_FRAMES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=shapes.SHAPES, default="tiny", help="model (default: tiny)")
    parser.add_argument("--streams", type=_counts, default=STREAMS, help="how many at a time (default: 1,2,4,8)")
    parser.add_argument("--seconds", type=_positive, default=SECONDS, help=f"of each piece (default: {SECONDS:g})")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--loops", type=lambda text: text.split(","), help="as ours_int8,audiocraft (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help=f"only steps at positions {POSITIONS}, in place of whole pieces"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table and, as the last line, one JSON object."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    loaded, weights = shapes.load(arguments.shape, arguments.device)
    frames = max(1, round(arguments.seconds * loaded.info.frame_rate_hz))
    facts: dict[str, Any] = {
        "shape": arguments.shape,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "weights": weights,
        "seconds": frames / loaded.info.frame_rate_hz,
        "quick": arguments.quick,
    }
    found: dict[str, dict[int, Figures]] = {}
    for loop in loops(loaded, lambda name: not arguments.loops or name in arguments.loops):
        found[loop.name] = {}
        for count in arguments.streams:
            found[loop.name][count] = _measure(loop, count, frames, arguments.quick)
            # A run of the small shape takes half an hour: what it has found so far outlives it.
            print(loop.name, count, found[loop.name][count], file=sys.stderr, flush=True)
        facts[loop.name] = {str(count): asdict(figures) for count, figures in found[loop.name].items()}
        if isinstance(loop, Ours) and "roofline" not in facts:
            facts["roofline"] = _roofline(loaded, loop, frames)
        del loop
        gc.collect()
    if arguments.shape == "tiny" and "ours_fp32" in facts:
        facts["ours"] = facts["ours_fp32"]
    facts["chunk_ms"] = _chunks(loaded)
    Console().print(_table(facts, loaded, found))
    print(json.dumps(facts))


def _measure(loop: Loop, count: int, frames: int, quick: bool) -> Figures:
    if quick:
        return Figures(round(sum(loop.position(count, place) for place in POSITIONS) / len(POSITIONS), 3))
    loop.generate(count, WARM_UP_FRAMES)
    return loop.generate(count, frames)


def _roofline(loaded: LoadedGenerator, loop: Ours, frames: int) -> dict[str, Any]:
    """Return what the memory allows one guided stream."""
    lm, precision = loaded.lm, loop.engine.info.precision
    layers, width = len(lm.transformer.layers), {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[precision]
    row = 2 * layers * lm.dim * width  # keys and values of one position
    bytes_per_step = weight_bytes(lm, precision) + 2 * row * frames // 2
    bandwidth = _bandwidth(lm.emb[0].weight.device)
    return {
        "precision": precision,
        "bytes_per_step": bytes_per_step,
        "gigabytes_per_second": round(bandwidth / 1e9, 2),
        "ms_per_step": round(1000 * bytes_per_step / bandwidth, 3),
        "cache_bytes_per_stream": 2 * row * frames,
    }


def _bandwidth(device: torch.device) -> float:
    """Return the bytes a second at which a buffer larger than any cache can be read: the best of some times."""
    buffer = torch.ones(1 << 28, device=device)
    best = float("inf")
    for _ in range(6):
        begin = time.perf_counter()
        float(buffer.sum())
        best = min(best, time.perf_counter() - begin)
    return buffer.numel() * 4 / best


def _chunks(loaded: LoadedGenerator) -> dict[str, float]:
    """Return the milliseconds of decoding the second and the hundredth chunk of half a second."""
    codec = codec_of(loaded.codec)
    session, frames = codec.decoding(), max(1, round(loaded.info.frame_rate_hz / 2))
    device, times = loaded.lm.emb[0].weight.device, []
    with torch.inference_mode():
        for _ in range(104):
            codes = torch.randint(0, loaded.info.codebook_size, (loaded.info.codebook_count, frames), device=device)
            begin = time.perf_counter()
            codec.decode_many([session], [Frames(codes)], [False])[0].cpu()
            times.append(1000 * (time.perf_counter() - begin))
    # Of five neighbours each, the best: a single chunk says more about the machine.
    return {"first": round(min(times[1:6]), 2), "hundredth": round(min(times[99:]), 2)}


def _table(facts: dict[str, Any], loaded: LoadedGenerator, found: dict[str, dict[int, Figures]]) -> Table:
    title = (
        f"{facts['shape']} ({facts['weights']} weights, {loaded.info.parameter_count / 1e6:.0f} M parameters), "
        f"{facts['device']}, {facts['threads']} threads, {facts['seconds']:g} s guided"
    )
    table = Table(title=title + (", quick: a few steps only" if facts["quick"] else ""))
    for heading in ("streams", "loop", "ms a step", "rtf", "first audio, s"):
        table.add_column(heading, justify="left" if heading == "loop" else "right")
    for name, of_counts in found.items():
        for count, figures in of_counts.items():
            cells = [f"{value:.3g}" if value else "" for value in (figures.rtf, figures.first_audio_seconds)]
            table.add_row(str(count), name, f"{figures.ms_per_step:.2f}", *cells)
    return table


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"must be numbers above 0 and commas, is {text!r}")
    return counts


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number <= 30.0:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 30 seconds, is {text!r}")
    return number
