"""`python -m services.stack up` runs the stack until Ctrl-C; `demo` streams one piece through it, `run` any program."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.stack import edge
from services.stack.errors import PortTakenError, StackError
from services.stack.ports import Ports
from services.stack.stack import Stack

app = typer.Typer(help="Runs the generator, the codec, the analyzer and Envoy on this machine.", add_completion=False)
console = Console()
errors = Console(stderr=True)

PROMPT = "a happy piano melody in C major, 125 bpm"


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Envoy's port.")] = Ports().edge,
    secure: Annotated[
        bool, typer.Option("--secure", help="The production path: TLS, an API key, mTLS; certificates thrown away.")
    ] = False,
    origins: Annotated[
        str,
        typer.Option(envvar="ANTIPHON_CORS_ORIGINS", help="Origins of web pages that may call, with commas between."),
    ] = "",
) -> None:
    """Start every service and Envoy, print the addresses, stop all on Ctrl-C."""
    try:
        patch = edge.allowed(origin.strip() for origin in origins.split(",") if origin.strip())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--origins") from error
    with _ends_well(), Stack(ports=Ports(edge=port), console=True, secure=secure, patch=patch) as stack:
        console.print(_addresses(stack))
        console.print(_access(stack), soft_wrap=True, highlight=False)
        console.print("Ready. Ctrl-C stops; running streams finish first.")
        stack.wait()


@app.command()
def demo(
    prompt: Annotated[str, typer.Option(help="What to play.")] = PROMPT,
    duration: Annotated[float, typer.Option(help="Seconds to make.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same piece.")] = 7,
    port: Annotated[int | None, typer.Option(help="Envoy's port; a free one by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.wav and demo.png.")] = Path("out"),
) -> None:
    """Stream one piece through Envoy to out/demo.wav and draw it as out/demo.png."""
    # Here and not above, so that `up` needs neither a plotting library nor a client.
    from antiphon import AntiphonError
    from services.stack.demo import record
    from services.stack.picture import draw

    with _ends_well():
        try:
            with (
                console.status("starting the services and Envoy"),
                Stack(ports=Ports.free(edge=port)) as stack,
            ):
                console.print(_addresses(stack))
                take = record(stack.address, prompt, duration=duration, seed=seed, path=out / "demo.wav")
        except AntiphonError as error:
            raise StackError(f"the stream failed: {error}") from error
        draw(take.samples, take.sample_rate_hz, prompt, out / "demo.png")
        console.print(take.table())
        console.print(f"{out / 'demo.wav'}  {out / 'demo.png'}")


@app.command()
def run(command: Annotated[list[str], typer.Argument(help="A command and its arguments, after --.")]) -> None:
    """Start the stack on free ports, run a command with its address in ANTIPHON_TARGET, stop; exits as the command."""
    with _ends_well():
        with Stack(ports=Ports.free()) as stack:
            environment = {**os.environ, "ANTIPHON_TARGET": stack.address}
            code = subprocess.run(command, env=environment, check=False).returncode
        raise typer.Exit(code)


def main() -> None:
    """Runs the command line."""
    # One way out for `kill`, Ctrl-C and timeouts. SIGINT too: a shell that starts a job in the background
    # has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    app(prog_name="python -m services.stack")


@contextmanager
def _ends_well() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped.")
    except StackError as error:
        errors.print(f"[red]error[/red]: {escape(str(error))}", soft_wrap=True, highlight=False)
        if isinstance(error, PortTakenError):
            errors.print("hint: stop what listens there (`ss -ltnp` shows it), or choose another with --port")
        raise typer.Exit(1) from None


def _access(stack: Stack) -> str:
    """Who may call, and how."""
    if stack.secured is None:
        return "Without TLS and without keys: everything listens on 127.0.0.1 only. With --secure it has both."
    root = stack.folder / "root.pem"
    root.write_bytes(stack.secured.credentials.root_certificates)
    return f"TLS: trust {root}\nAPI key: {stack.secured.credentials.api_key}"


def _addresses(stack: Stack) -> Table:
    table = Table("what", "address", title="Antiphon")
    for name, address in stack.addresses.items():
        table.add_row(name, address)
    return table


if __name__ == "__main__":
    main()
