"""Fetches models from the hub, and checks that they load, before a service that must not wait for it starts.

    python -m services.models.fetch generator facebook/musicgen-small,facebook/audiogen-medium
    python -m services.models.fetch codec tiny,facebook/encodec_24khz

What is there already is not fetched again. Exits with 1 and a line for each model that can't be had.
"""

from __future__ import annotations

import argparse
import gc
import sys

from services.models.checkpoint import CheckpointError
from services.models.diffusion import load_diffusions
from services.models.loader import load_codec, load_generator


def fetch(service: str, name: str) -> None:
    """Load what a service would load of a model, on the CPU, and drop it. Raises `CheckpointError`."""
    if service == "generator":
        load_generator(name)
    else:
        load_diffusions(name, load_codec(name).model, "cpu")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service", choices=("generator", "codec"))
    parser.add_argument("names", help="with commas between, as in ANTIPHON_MODELS")
    options = parser.parse_args(arguments)
    failed = 0
    for name in filter(None, (part.strip() for part in options.names.split(","))):
        try:
            fetch(options.service, name)
        except CheckpointError as error:
            failed = 1
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: ready")
        gc.collect()  # one model in memory at a time
    return failed


if __name__ == "__main__":
    sys.exit(main())
