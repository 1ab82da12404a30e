"""`antiphon generate`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from antiphon import outputs
from antiphon.command import INTERRUPTED, Target, Timeout, Tls, connected, is_standard, name_of
from antiphon.messages import AudioFile, GenerationOptions
from antiphon.streams import GenerationStream
from antiphon.terminal import Meter, say


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make. Put -- before a prompt that starts with -.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Audio file; - for stdout. Not needed with --play.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(outputs.FORMATS)}; default: by the name, else wav.")
    ] = "",
    play: Annotated[bool, typer.Option("--play", help="Play it while it comes in.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as one JSON object.")] = False,
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
    """Make audio from a text, and write or play it while it comes in."""
    if output is None and not play:
        raise typer.BadParameter("give -o FILE to write the piece, --play to hear it, or both")
    if as_json and output is not None and is_standard(output):
        raise typer.BadParameter("--json and the audio can't both go to stdout")
    form = outputs.format_of(output or Path(), form)
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
            _write(stream, output, form, play, endless, meter)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if codes is not None and stream.codes is not None:
                with codes.open("wb") as file:
                    np.save(file, stream.codes)
            if stream.started is not None:
                facts = f"{stream.started.sample_rate_hz} Hz, seed {stream.started.seed}"
                name = "played" if output is None else name_of(output)
                say(f"{name}: {meter.made:.1f} s, {facts}, {meter.figures}")
    if as_json:
        print(json.dumps(_as_json(stream, output, form, meter, interrupted)))
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


def _write(stream: GenerationStream, output: Path | None, form: str, play: bool, endless: bool, meter: Meter) -> None:
    with meter, stream:
        started = stream.started
        assert started is not None
        meter.start(None if endless else started.total_samples / started.sample_rate_hz)
        made = 0
        with outputs.opened(output, form, play, started, endless) as writers, _ctrl_c_stops(stream, endless):
            for chunk in stream:
                made += len(chunk.samples)
                # Heard later than it came: the time that playing takes is not the server's.
                meter.reach(made / started.sample_rate_hz)
                for writer in writers:
                    writer.write(chunk)


def _as_json(
    stream: GenerationStream, output: Path | None, form: str, meter: Meter, interrupted: bool
) -> dict[str, Any]:
    started, finished = stream.started, stream.finished
    assert started is not None
    return {
        "output": None if output is None else str(output),
        "format": None if output is None else form,
        "model": started.model,
        "prompts": [{"text": text, "weight": weight} for text, weight in started.prompts],
        "seed": started.seed,
        "seconds": round(meter.made, 6),
        "sample_rate_hz": started.sample_rate_hz,
        "channel_count": started.channel_count,
        "first_audio_seconds": meter.first_audio,
        "real_time_factor": meter.speed,
        "reason": "interrupted" if interrupted or finished is None else finished.reason.value,
        "request_id": stream.request_id,
    }


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
