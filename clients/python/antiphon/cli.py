"""The command line: `antiphon generate`, `encode`, `decode`, `models` and `health`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from antiphon.audio import WavWriter
from antiphon.codec_cli import decode, encode
from antiphon.command import Target, Timeout, Tls, connected, is_standard, name_of
from antiphon.connection import VERSION
from antiphon.results import HealthStatus, Service, Started
from antiphon.streams import GenerationStream
from antiphon.terminal import Meter, complain, explain, say

INTERRUPTED = 130
QUICK_SECONDS = 5.0

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Streams music and sound from text, and turns audio into codes and back.\n\n"
    "Settings: ANTIPHON_TARGET, ANTIPHON_API_KEY.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"antiphon {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to make. Put -- before a prompt that starts with -.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="WAV file; - for stdout.")],
    model: Annotated[str, typer.Option(help="A name from `antiphon models`.")] = "",
    duration: Annotated[float, typer.Option(help="Seconds.")] = 10.0,
    temperature: Annotated[float | None, typer.Option(help="Above 0, at most 10; default 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 for no limit; default 250.")] = None,
    top_p: Annotated[float | None, typer.Option(help="0 to 1; 0, the default, for no limit.")] = None,
    cfg_coef: Annotated[float | None, typer.Option(help="Guidance, 0 to 20; 1 for none; default 3.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token always.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same piece again.")] = None,
    codes: Annotated[Path | None, typer.Option(help="Write the codes [K, T] to this .npy file too.")] = None,
    target: Target = None,
    tls: Tls = False,
    timeout: Timeout = None,
) -> None:
    """Make audio from a text and write it while it comes in."""
    meter = Meter()
    interrupted = False
    with connected(target, tls) as client:
        stream = client.stream_generate(
            prompt,
            model=model,
            duration=duration,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            cfg_coef=cfg_coef,
            use_sampling=False if greedy else None,
            seed=seed,
            include_codes=codes is not None,
            encoding="pcm_s16le",
            timeout=timeout,
        )
        try:
            _write(stream, output, meter)
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


def _write(stream: GenerationStream, output: Path, meter: Meter) -> None:
    with meter, stream:
        started = stream.started
        assert started is not None
        meter.start(started.total_samples / started.sample_rate_hz)
        with _wav_writer(output, started) as wav:
            for chunk in stream:
                wav.write(chunk)
                meter.reach(wav.duration_seconds)


def _wav_writer(output: Path, started: Started) -> WavWriter:
    writer = WavWriter(
        sys.stdout.buffer if is_standard(output) else output,
        sample_rate_hz=started.sample_rate_hz,
        channel_count=started.channel_count,
        total_samples=started.total_samples,
    )
    # From here on there is a file, though an empty one.
    writer.flush()
    return writer


app.command()(encode)
app.command()(decode)


@app.command()
def models(target: Target = None, tls: Tls = False, timeout: Timeout = QUICK_SECONDS) -> None:
    """List the models that are loaded."""
    with connected(target, tls) as client:
        found = client.list_models(timeout=timeout)
        if len(found.errors) == len(Service):
            raise found.errors[Service.GENERATOR]
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "service", "kind", "Hz", "channels", "longest", "device", "weights"):
        table.add_column(heading, no_wrap=True, overflow="ignore")
    for model in found:
        table.add_row(
            f"{model.name} (default)" if model.is_default else model.name,
            model.service.value,
            model.kind.value,
            str(model.sample_rate_hz),
            str(model.channel_count),
            f"{model.max_duration_seconds:g} s" if model.max_duration_seconds else "-",
            model.device,
            model.precision if model.is_trained else f"{model.precision}, not trained",
        )
    # What is piped on must not be cut to a terminal's width.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, markup=False, highlight=False).print(table)
    for service, error in found.errors.items():
        message, hint = explain(error, client.target)
        complain(f"{service.value}: {message}", hint)


@app.command()
def health(target: Target = None, tls: Tls = False, timeout: Timeout = QUICK_SECONDS) -> None:
    """Show how the services are; exit with 1 unless all are SERVING."""
    with connected(target, tls) as client:
        statuses = client.health(timeout=timeout)
    for service, status in statuses.items():
        print(f"{service.value:<10}{status.value}")
    if any(status is not HealthStatus.SERVING for status in statuses.values()):
        complain(
            f"{client.target}: not all services are serving",
            "they may be loading their models; antiphon health --target names another address",
        )
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    try:
        code = app(arguments, prog_name="antiphon", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        complain(f"{error.filename or 'file'}: {error.strerror or error}", "choose another path, or free space")
        return 1
    except Exception as error:
        # Typer's usage errors have no public base class; they all can format themselves.
        if not hasattr(error, "format_message"):
            complain(f"{type(error).__name__}: {error}", "this is a fault of the client; please report it")
            return 1
        command = getattr(getattr(error, "ctx", None), "command_path", "antiphon")
        hint = f"{command} --help shows the options; put -- before a prompt that starts with -"
        complain(error.format_message(), hint)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
