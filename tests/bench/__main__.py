"""`python -m tests.bench WHAT`: measure; the last line of the output is one JSON object."""

from __future__ import annotations

import argparse
import sys

from tests.bench import analyzer, capacity, codec, codec_soak, edge, generator, precision


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure.")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    benches = {
        "generator": generator,
        "precision": precision,
        "codec": codec,
        "codec-soak": codec_soak,
        "capacity": capacity,
        "analyzer": analyzer,
        "edge": edge,
    }
    for name, bench in benches.items():
        command = commands.add_parser(name, help=bench.SUMMARY, description=bench.SUMMARY)
        bench.add_arguments(command)
        command.set_defaults(run=bench.run)
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
