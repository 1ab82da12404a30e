"""`antiphon analyze`."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from antiphon.analysis import Analysis, Verdict, WindowAnalysis
from antiphon.client import Client
from antiphon.command import Target, Timeout, Tls, check_output, connected, failed, is_standard
from antiphon.terminal import progress, say
from antiphon.wav_input import long_wav, wav_blocks

# One call carries the whole file: above, a WAV is streamed.
STREAM_BYTES = 32 << 20
MAX_ROWS = 40
_MOST_SOURCES = 6
_FAMILIES = ("mpd", "msd", "msstftd")


def analyze(
    source: Annotated[Path, typer.Argument(help="Audio file of any kind; - for stdin.")],
    *,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of the spectrogram, suspect places marked; heat maps are put beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as one JSON object.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Also say whether the mean score is above this, 0 to 1.")
    ] = None,
    model: Annotated[str, typer.Option(help="A name from `antiphon models`.")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace pictures that are there.")] = False,
    target: Target = None,
    tls: Tls = False,
    timeout: Timeout = None,
) -> None:
    """Say whether a neural decoder made an audio file, how sure that is, and where it is heard."""
    outputs = _outputs(plot)
    for output in outputs.values():
        check_output(output, source, force)
    with connected(target, tls) as client:
        analysis = _analyzed(client, source, model, threshold, plot is not None, timeout)
    for picture in analysis.pictures:
        outputs[picture.name].write_bytes(picture.png)
    if as_json:
        print(json.dumps(_as_json(analysis)))
    else:
        _print_table(analysis.windows)
        for line in in_words(analysis, threshold):
            print(line)
    if plot is not None:
        say(f"{plot}: the spectrogram; {', '.join(str(outputs[name]) for name in _FAMILIES)}: what each family made")


def _outputs(plot: Path | None) -> dict[str, Path]:
    if plot is None:
        return {}
    if plot.suffix.lower() != ".png":
        raise typer.BadParameter(f"{plot}: must end in .png", param_hint="--plot")
    return {"spectrogram": plot, **{name: plot.with_name(f"{plot.stem}-{name}{plot.suffix}") for name in _FAMILIES}}


def _analyzed(
    client: Client, source: Path, model: str, threshold: float | None, with_images: bool, timeout: float | None
) -> Analysis:
    with io.BytesIO(sys.stdin.buffer.read()) if is_standard(source) else source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        wav = long_wav(file, 0.0) if size > STREAM_BYTES else None
        if wav is None:
            file.seek(0)
            with progress("analyzing", 0.0):
                return client.analyze(
                    file.read(), model=model, threshold=threshold, include_images=with_images, timeout=timeout
                )
        if with_images:
            raise failed(f"{source}: too long for pictures", "cut it, or turn it into FLAC, Ogg or MP3 first")
        rate, channels = wav.getframerate(), wav.getnchannels()
        with (
            progress("analyzing", wav.getnframes() / rate) as reached,
            closing(wav),
            client.stream_analyze(
                wav_blocks(wav, reached),
                sample_rate_hz=rate,
                channel_count=channels,
                model=model,
                threshold=threshold,
                timeout=timeout,
            ) as stream,
        ):
            for _ in stream:
                pass
        return stream.result


def _print_table(windows: Sequence[WindowAnalysis]) -> None:
    # A long file has more windows than anyone reads: then a row is the mean of several.
    step = -(-len(windows) // MAX_ROWS)
    table = Table(box=None, pad_edge=False)
    for heading in ("from", "to", "generated", "MPD", "MSD", "MS-STFT-D"):
        table.add_column(heading, justify="right", no_wrap=True)
    for first in range(0, len(windows), step):
        rows = windows[first : first + step]
        known = [row.generated_probability for row in rows if row.generated_probability is not None]
        means = (sum(getattr(row.scores, family) for row in rows) / len(rows) for family in _FAMILIES)
        table.add_row(
            _time(rows[0].start_seconds),
            _time(rows[-1].end_seconds),
            f"{100 * sum(known) / len(known):.1f} %" if known else "-",
            *(f"{mean:.3f}" for mean in means),
        )
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, markup=False, highlight=False).print(table)


def in_words(analysis: Analysis, threshold: float | None) -> list[str]:
    """Returns the verdict as one would tell it a musician, and which model spoke."""
    chance = analysis.generated_probability
    likely = "" if chance is None else f" (the odds that one did: {100 * chance:.1f} %)"
    heard = places(analysis.suspects)
    lines = [""]
    match analysis.verdict:
        case Verdict.REAL:
            lines.append(f"REAL: nothing here sounds like the neural decoders that the model knows{likely}.")
            if heard:
                lines.append(f"Taken alone, it would sound made {heard}; so short a stretch is often misjudged.")
        case Verdict.GENERATED:
            lines.append(f"GENERATED: this sounds as if a neural decoder had made it{likely}.")
            if heard and not all(window.verdict is Verdict.GENERATED for window in analysis.windows):
                lines.append(f"It is plainest {heard}.")
        case Verdict.INCONCLUSIVE:
            lines.append(f"CAN'T TELL: {analysis.reason}{likely}.")
            if heard:
                lines.append(f"Listen again {heard}.")
        case _:
            lines.append(f"NO VERDICT: {analysis.reason or 'this server gives none'}.")
    if analysis.is_real is not None and threshold is not None:
        relation = "above" if analysis.is_real else "not above"
        lines.append(f"The mean score, {analysis.scores.mean:.3f}, is {relation} the threshold {threshold:g}.")
    lines.append(f"Model {analysis.model.name} ({analysis.model.digest[:12]}){_trained_on(analysis.training_sources)}.")
    return lines


def _trained_on(sources: Sequence[str]) -> str:
    if len(sources) > _MOST_SOURCES:
        return f", trained on {len(sources)} sources of audio and decoders, which --json names"
    return f", trained on {', '.join(sources)}" if sources else ""


def places(suspects: Sequence[tuple[float, float]], most: int = 6) -> str:
    """Returns stretches, from and to in seconds, in words: the longest ones, in the order of the piece."""
    chosen = sorted(sorted(suspects, key=lambda span: span[0] - span[1])[:most])
    words = [f"from {_time(begin)} to {_time(end)}" for begin, end in chosen]
    if len(suspects) > most:
        words.append(f"in {len(suspects) - most} shorter places")
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _time(seconds: float) -> str:
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _as_json(analysis: Analysis) -> dict[str, Any]:
    values = {
        field.name: getattr(analysis, field.name)
        for field in dataclasses.fields(analysis)
        if field.name not in ("pictures", "feature_maps")
    }
    plain = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for name, value in values.items()
    }
    windows = [dataclasses.asdict(window) for window in analysis.windows]
    return {**plain, "windows": windows, "suspects": analysis.suspects}
