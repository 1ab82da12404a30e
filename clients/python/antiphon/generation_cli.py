"""`antiphon generate`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from antiphon.audio import WavWriter
from antiphon.command import INTERRUPTED, Target, Timeout, Tls, connected, is_standard, name_of
from antiphon.messages import AudioFile, GenerationOptions
from antiphon.results import Started
from antiphon.streams import GenerationStream
from antiphon.terminal import Meter, say


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make. Put -- before a prompt that starts with -.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="WAV file; - for stdout.")],
    weight: Annotated[
        float | None, typer.Option(help="What the prompt counts beside those of --mix; default 1.")
    ] = None,
    mix: Annotated[
        list[str] | None, typer.Option(help="Another prompt and its weight, as 'fast drums=0.5'; may be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="A name from `antiphon models`.")] = "",
    duration: Annotated[float | None, typer.Option(help="Seconds; default 10.")] = None,
    endless: Annotated[bool, typer.Option("--endless", help="Go on until Ctrl-C.")] = False,
    continue_from: Annotated[
        Path | None, typer.Option(help="Audio file that the piece begins with; - for stdin. --duration counts it.")
    ] = None,
    melody: Annotated[
        Path | None, typer.Option(help="Audio file whose melody the piece keeps; - for stdin. For melody models.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Above 0, at most 10; default 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 for no limit; default 250.")] = None,
    top_p: Annotated[float | None, typer.Option(help="0 to 1; 0, the default, for no limit.")] = None,
    cfg_coef: Annotated[float | None, typer.Option(help="Guidance, 0 to 20; 1 for none; default 3.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token always.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same piece again.")] = None,
    codes: Annotated[Path | None, typer.Option(help="Write the codes [K, T] to this .npy file too.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the next sample when the connection breaks.")] = True,
    target: Target = None,
    tls: Tls = False,
    timeout: Timeout = None,
) -> None:
    """Make audio from a text and write it while it comes in."""
    if endless and duration is not None:
        raise typer.BadParameter("--endless has no --duration; give one of them")
    if continue_from is not None and melody is not None:
        raise typer.BadParameter("--continue-from and --melody don't go together; give one of them")
    options: GenerationOptions = {
        "model": model,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "cfg_coef": cfg_coef,
        "use_sampling": False if greedy else None,
        "seed": seed,
        "include_codes": codes is not None,
        "encoding": "pcm_s16le",
        "endless": endless,
        "continue_from": _audio(continue_from),
        "melody": _audio(melody),
    }
    if duration is not None:
        options["duration"] = duration
    prompts = [prompt if weight is None else (prompt, weight), *map(_weighted, mix or [])]
    meter = Meter()
    interrupted = False
    with connected(target, tls, resume=resume) as client:
        stream = client.stream_generate(prompts, timeout=timeout, **options)
        try:
            _write(stream, output, meter, endless)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if codes is not None and stream.codes is not None:
                with codes.open("wb") as file:
                    np.save(file, stream.codes)
            if stream.started is not None:
                form = f"{stream.started.sample_rate_hz} Hz, seed {stream.started.seed}"
                say(f"{name_of(output)}: {meter.made:.1f} s, {form}, {meter.figures}")
    if interrupted:
        say("interrupted")
        raise typer.Exit(INTERRUPTED)


def _weighted(entry: str) -> tuple[str, float]:
    """Reads "text=weight"; the last = counts, as texts may hold others."""
    text, sign, weight = entry.rpartition("=")
    try:
        return text, float(weight if sign else "")
    except ValueError:
        raise typer.BadParameter(f"--mix: {entry!r} must be a prompt and its weight, as 'fast drums=0.5'") from None


def _audio(path: Path | None) -> AudioFile | None:
    return sys.stdin.buffer.read() if path is not None and is_standard(path) else path


def _write(stream: GenerationStream, output: Path, meter: Meter, endless: bool) -> None:
    with meter, stream:
        started = stream.started
        assert started is not None
        meter.start(None if endless else started.total_samples / started.sample_rate_hz)
        with _wav_writer(output, started, endless) as wav, _ctrl_c_stops(stream, endless):
            for chunk in stream:
                wav.write(chunk)
                meter.reach(wav.duration_seconds)


@contextmanager
def _ctrl_c_stops(stream: GenerationStream, endless: bool) -> Iterator[None]:
    """Lets the first Ctrl-C end an endless piece where it is; the second interrupts, as it does any other piece."""
    if not endless:
        yield
        return

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The handler runs in the thread that iterates, which may hold what `stop` waits for.
        threading.Thread(target=stream.stop, daemon=True).start()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wav_writer(output: Path, started: Started, endless: bool) -> WavWriter:
    writer = WavWriter(
        sys.stdout.buffer if is_standard(output) else output,
        sample_rate_hz=started.sample_rate_hz,
        channel_count=started.channel_count,
        total_samples=None if endless else started.total_samples,
    )
    # From here on there is a file, though an empty one.
    writer.flush()
    return writer
