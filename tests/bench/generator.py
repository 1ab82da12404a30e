"""The generator's engine beside AudioCraft's own loop, in one run, over the same weights, both in fp32.

Ours is driven as the scheduler drives it: begin N sequences, step them together, decode what is due. AudioCraft's is
what its MusicGen does: ``lm.generate`` over a batch of N, then ``codec.decode`` of the whole. Neither goes through
gRPC. A first short piece of each is not counted. Of each number of streams:

- ``ms_per_step``: the time of the whole guided generation, text and decoding included, over its steps. Whole, because
  a step's cost grows with its position.
- ``rtf``: seconds of audio for each second of time, all streams together; above the number of streams, each of them
  is faster than it plays.
- ``first_audio_seconds``: until every stream has had its first samples. AudioCraft's loop has none before its end.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.conditions import Prompt
from services.models.loader import LoadedGenerator
from services.models.sampling import Sampling
from tests.bench import shapes

SUMMARY = "Time our engine and AudioCraft's own loop on the same weights."
SECONDS, STREAMS = 10.0, (1, 2, 4, 8)
QUICK_SECONDS, QUICK_STREAMS = 0.5, (1, 2)
WARM_UP_FRAMES = 10


@dataclass(frozen=True)
class Figures:
    """What one number of streams gave."""

    ms_per_step: float
    rtf: float
    first_audio_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=shapes.SHAPES, default="tiny", help="model (default: tiny)")
    parser.add_argument("--streams", type=_counts, help="how many at a time, as 1,2,4,8 (the default)")
    parser.add_argument("--seconds", type=_positive, help=f"length of each piece (default: {SECONDS:g})")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a trial of {QUICK_SECONDS:g} seconds of 1 and 2 streams, unless told otherwise; no figures to quote",
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table and, as the last line, one JSON object."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    streams = arguments.streams or (QUICK_STREAMS if arguments.quick else STREAMS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    loaded, weights = shapes.load(arguments.shape, arguments.device)
    frames = max(1, round(seconds * loaded.info.frame_rate_hz))
    engine = GeneratorEngine(loaded)
    ours, theirs = {}, {}
    for count in streams:
        time_ours(engine, count, WARM_UP_FRAMES)
        ours[count] = time_ours(engine, count, frames)
        time_audiocraft(loaded, count, WARM_UP_FRAMES, engine.step_count(WARM_UP_FRAMES))
        theirs[count] = time_audiocraft(loaded, count, frames, engine.step_count(frames))
    facts: dict[str, Any] = {
        "shape": arguments.shape,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "weights": weights,
        "seconds": frames / loaded.info.frame_rate_hz,
        "ours_fp32": _plain(ours),
        "audiocraft": _plain(theirs),
    }
    if arguments.shape == "tiny":
        facts["ours"] = facts["ours_fp32"]
    if arguments.quick:
        facts["quick"] = True
    Console().print(_table(facts, loaded, ours, theirs))
    print(json.dumps(facts))


def time_ours(engine: GeneratorEngine, count: int, frames: int) -> Figures:
    """Run ``count`` guided sequences together through the engine."""
    begin = time.perf_counter()
    sequences = [engine.begin(_request(engine.info.name, index, frames)) for index in range(count)]
    waiting, first_audio, steps = set(range(count)), 0.0, 0
    final = False
    while not final:
        outputs = engine.step(sequences)
        steps += 1
        waiting -= {index for index in waiting if outputs[index].audio.numel()}
        if not waiting and not first_audio:
            first_audio = time.perf_counter() - begin
        final = outputs[0].final  # all are of one length
    return _figures(time.perf_counter() - begin, steps, count * frames / engine.info.frame_rate_hz, first_audio)


@torch.no_grad()
def time_audiocraft(loaded: LoadedGenerator, count: int, frames: int, steps: int) -> Figures:
    """Run a guided batch of ``count`` as AudioCraft's MusicGen does."""
    from audiocraft.modules.conditioners import ConditioningAttributes

    begin = time.perf_counter()
    requests = [_request(loaded.info.name, index, frames) for index in range(count)]
    sampling = requests[0].sampling
    codes = loaded.lm.generate(
        conditions=[ConditioningAttributes(text={"description": request.prompts[0].text}) for request in requests],
        max_gen_len=frames,
        use_sampling=sampling.use_sampling,
        temp=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        cfg_coef=sampling.cfg_coef,
    )
    # On the CPU, as a caller gets it: with a GPU this also waits for its end.
    loaded.codec.decode(codes, None).cpu()
    elapsed = time.perf_counter() - begin
    return _figures(elapsed, steps, count * frames / loaded.info.frame_rate_hz, elapsed)


def _request(model: str, index: int, frames: int) -> GenerationRequest:
    prompt = ("a slow piano melody in C minor", "fast happy guitar with drums at 140 bpm")[index % 2]
    return GenerationRequest(model, (Prompt(prompt),), frames, Sampling(seed=index))


def _figures(elapsed: float, steps: int, audio_seconds: float, first_audio: float) -> Figures:
    return Figures(round(1000 * elapsed / steps, 3), round(audio_seconds / elapsed, 3), round(first_audio, 4))


def _plain(figures: dict[int, Figures]) -> dict[str, dict[str, float]]:
    return {str(count): asdict(figure) for count, figure in figures.items()}


def _table(
    facts: dict[str, Any], loaded: LoadedGenerator, ours: dict[int, Figures], theirs: dict[int, Figures]
) -> Table:
    title = (
        f"{facts['shape']} ({facts['weights']} weights, {loaded.info.parameter_count / 1e6:.0f} M parameters), "
        f"{facts['device']}, {facts['threads']} threads, {facts['seconds']:g} s guided"
    )
    table = Table(title=title + (", quick: no figures to quote" if "quick" in facts else ""))
    for heading in ("streams", "loop", "ms a step", "rtf", "first audio, s"):
        table.add_column(heading, justify="left" if heading == "loop" else "right")
    for count, own in ours.items():
        for name, figure in (("ours, fp32", own), ("AudioCraft", theirs[count])):
            cells = (f"{figure.ms_per_step:.2f}", f"{figure.rtf:.2f}", f"{figure.first_audio_seconds:.3f}")
            table.add_row(str(count), name, *cells)
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
