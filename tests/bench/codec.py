"""EnCodec 24 kHz in four implementations, in one run, over the same weights.

Ours whole and ours in chunks of 80 ms, the public encodec package, AudioCraft's modules and transformers'. Random
weights of the true shape: speed does not depend on what weights say. Each is timed in turn, round after round, and the
best round counts: what else runs on the machine only ever slows a round down.

- ``encode_rtf``, ``decode_rtf``: seconds of audio for each second of time, as the EnCodec paper measures it.
- ``frame_latency_milliseconds``: from a frame's samples to its codes, and from its codes to its samples (median).
- ``hour_rss_growth_megabytes``: how much the resident memory grows while an hour is encoded and decoded in a stream.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from services.models.codecs import Codec, Frames, codec_of
from tests import codec_models

SUMMARY = "Time encode and decode beside the encodec package, AudioCraft and transformers."
RATE, HOP, KBPS, BOOKS = 24_000, 320, 6.0, 8
CHUNK_FRAMES = 6
Both = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the piece (default: 10)")
    parser.add_argument("--rounds", type=int, default=8, help="how often each is timed (default: 8)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="torch's threads (default: 1 2)")
    parser.add_argument("--soak-seconds", type=float, default=3600.0, help="audio of the memory test (default: 3600)")
    parser.add_argument("--quick", action="store_true", help="a trial of a second; no figures to quote")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table and, as the last line, one JSON object."""
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.soak_seconds = 1.0, 1, 5.0
    codec, contenders = build()
    audio = codec_models.noise(arguments.seconds, RATE)
    results = {count: time_all(contenders, audio, arguments.rounds, count) for count in arguments.threads}
    first = arguments.threads[0]
    torch.set_num_threads(first)
    facts: dict[str, Any] = {
        "model": "encodec_24khz",
        "kbps": KBPS,
        "threads": first,
        "seconds": arguments.seconds,
        "torch": torch.__version__,
        **results[first],
        **{f"threads_{count}": figures for count, figures in results.items() if count != first},
        "frame_latency_milliseconds": frame_latency(codec, audio),
        "soak_seconds": arguments.soak_seconds,
        "hour_rss_growth_megabytes": round(memory_growth(codec, arguments.soak_seconds), 2),
    }
    if arguments.quick:
        facts["quick"] = True
    table = Table(title="EnCodec 24 kHz, seconds of audio a second" + (" (quick: not to quote)" * arguments.quick))
    for heading in ("threads", "implementation", "encode", "decode"):
        table.add_column(heading, justify="left" if heading == "implementation" else "right")
    for count, figures in results.items():
        for name, each in figures.items():
            table.add_row(str(count), name, f"{each['encode_rtf']:.1f}", f"{each['decode_rtf']:.1f}")
    Console().print(table)
    print(json.dumps(facts))


def build() -> tuple[Codec, dict[str, Both]]:
    """Return our codec, and what encodes ``[1, T]`` and decodes ``[K, n]`` in each implementation."""
    import encodec.model

    model = codec_models.transformers_codec("encodec_24khz")
    codec = codec_of(codec_models.wrapped(model))
    public = encodec.model.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    public.set_target_bandwidth(KBPS)
    for mine, theirs in zip(model.quantizer.layers, public.quantizer.vq.layers, strict=True):
        theirs._codebook.embed.copy_(mine.codebook.embed)
    craft = codec_models.seanet_codec("encodec_24khz_full", filters=32)
    craft.set_num_codebooks(BOOKS)
    return codec, {
        "ours": (lambda audio: whole_encode(codec, audio), lambda codes: whole_decode(codec, codes)),
        "ours_streaming": (
            lambda audio: in_chunks(codec, audio, CHUNK_FRAMES * HOP),
            lambda codes: codes_in_chunks(codec, codes, CHUNK_FRAMES),
        ),
        "encodec": (
            lambda audio: torch.as_tensor(public.encode(audio[None])[0][0][0]),
            lambda codes: torch.as_tensor(public.decode([(codes[None], None)])[0]),
        ),
        "audiocraft": (
            lambda audio: torch.as_tensor(craft.encode(audio[None])[0][0]),
            lambda codes: torch.as_tensor(craft.decode(codes[None])[0]),
        ),
        "transformers": (
            lambda audio: torch.as_tensor(model.encode(audio[None], None, KBPS, return_dict=False)[0][0, 0]),
            lambda codes: torch.as_tensor(model.decode(codes[None, None], [None], return_dict=False)[0][0]),
        ),
    }


def whole_encode(codec: Codec, audio: torch.Tensor) -> torch.Tensor:
    """Encode as Encode does: a session, by the second."""
    return in_chunks(codec, audio, RATE)


def whole_decode(codec: Codec, codes: torch.Tensor) -> torch.Tensor:
    """Decode as Decode does."""
    return codes_in_chunks(codec, codes, 64)


def in_chunks(codec: Codec, audio: torch.Tensor, size: int) -> torch.Tensor:
    """Encode in one stream, chunk by chunk."""
    session, blocks = codec.encoding(BOOKS), torch.split(audio, size, dim=1)
    made = [
        codec.encode_many([session], [block], [index == len(blocks) - 1])[0].codes for index, block in enumerate(blocks)
    ]
    return torch.cat(made, dim=1)


def codes_in_chunks(codec: Codec, codes: torch.Tensor, size: int) -> torch.Tensor:
    """Decode in one stream, chunk by chunk."""
    session, blocks = codec.decoding(), torch.split(codes, size, dim=1)
    made = [
        codec.decode_many([session], [Frames(block)], [index == len(blocks) - 1])[0]
        for index, block in enumerate(blocks)
    ]
    return torch.cat([samples for samples in made if samples.shape[1]], dim=1)


@torch.inference_mode()
def time_all(
    contenders: dict[str, Both], audio: torch.Tensor, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Time each in turn, round after round, after one that does not count."""
    torch.set_num_threads(threads)
    codes = contenders["encodec"][0](audio)
    best = {name: [float("inf"), float("inf")] for name in contenders}
    for number in range(rounds + 1):
        for name, both in contenders.items():
            for way, (call, given) in enumerate(zip(both, (audio, codes), strict=True)):
                begin = time.perf_counter()
                call(given)
                if number:
                    best[name][way] = min(best[name][way], time.perf_counter() - begin)
    seconds = audio.shape[1] / RATE
    return {
        name: {"encode_rtf": round(seconds / each[0], 2), "decode_rtf": round(seconds / each[1], 2)}
        for name, each in best.items()
    }


def frame_latency(codec: Codec, audio: torch.Tensor) -> dict[str, float]:
    """Return the median time of one frame in a running stream, in milliseconds."""
    encoding, decoding = codec.encoding(BOOKS), codec.decoding()
    times: tuple[list[float], list[float]] = ([], [])
    for block in torch.split(audio, HOP, dim=1)[:200]:
        begin = time.perf_counter()
        (frames,) = codec.encode_many([encoding], [block], [False])
        middle = time.perf_counter()
        if frames.codes.shape[1] != 1:
            continue
        codec.decode_many([decoding], [frames], [False])
        times[0].append(middle - begin)
        times[1].append(time.perf_counter() - middle)
    encode, decode = (round(1000 * statistics.median(each[10:]), 3) for each in times)
    return {"encode": encode, "decode": decode}


def memory_growth(codec: Codec, seconds: float) -> float:
    """Encode and decode so much audio in one stream; return the growth of resident memory, in megabytes."""
    encoding, decoding = codec.encoding(BOOKS), codec.decoding()
    block = codec_models.noise(1.0, RATE)

    def push() -> None:
        (frames,) = codec.encode_many([encoding], [block], [False])
        codec.decode_many([decoding], [frames], [False])

    for _ in range(5):
        push()
    gc.collect()
    before = resident_megabytes()
    for _ in range(round(seconds)):
        push()
    gc.collect()
    return resident_megabytes() - before


def resident_megabytes() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6
