"""The command line: `antiphon generate`, `encode`, `decode`, `analyze`, `models`, `health`, `serve` and `doctor`."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from antiphon.analyzer_cli import analyze
from antiphon.codec_cli import decode, encode
from antiphon.command import INTERRUPTED, Target, Timeout, Tls, connected
from antiphon.connection import VERSION
from antiphon.generation_cli import generate
from antiphon.local_cli import doctor, serve
from antiphon.results import HealthStatus, ModelList, Service
from antiphon.terminal import complain, explain

QUICK_SECONDS = 5.0

app = typer.Typer(
    pretty_exceptions_enable=False,
    help="Streams music and sound from text, turns audio into codes and back, and tells whether a decoder made it.\n\n"
    "Settings: ANTIPHON_TARGET, ANTIPHON_API_KEY, ANTIPHON_PLAYER.",
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


app.command()(generate)
app.command()(encode)
app.command()(decode)
app.command()(analyze)
app.command()(serve)
app.command()(doctor)

AsJson = Annotated[bool, typer.Option("--json", help="Print all as one JSON object.")]


@app.command()
def models(as_json: AsJson = False, target: Target = None, tls: Tls = False, timeout: Timeout = QUICK_SECONDS) -> None:
    """List the models that are loaded."""
    with connected(target, tls) as client:
        found = client.list_models(timeout=timeout)
        if len(found.errors) == len(Service):
            raise found.errors[Service.GENERATOR]
    if as_json:
        told = {service.value: explain(error, client.target)[0] for service, error in found.errors.items()}
        print(json.dumps({"models": [dataclasses.asdict(model) for model in found], "errors": told}))
        return
    _print_models(found)
    for service, error in found.errors.items():
        message, hint = explain(error, client.target)
        complain(f"{service.value}: {message}", hint)


def _print_models(found: ModelList) -> None:
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


@app.command()
def health(as_json: AsJson = False, target: Target = None, tls: Tls = False, timeout: Timeout = QUICK_SECONDS) -> None:
    """Show how the services are; exit with 1 unless all are SERVING."""
    with connected(target, tls) as client:
        statuses = client.health(timeout=timeout)
    if as_json:
        print(json.dumps({service.value: status.value for service, status in statuses.items()}))
    else:
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
