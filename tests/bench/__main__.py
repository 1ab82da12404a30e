"""`python -m tests.bench WHAT`: measure; the last line of the output is one JSON object."""

from __future__ import annotations

import argparse
import sys

from tests.bench import generator


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure.")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    command = commands.add_parser("generator", help=generator.SUMMARY, description=generator.SUMMARY)
    generator.add_arguments(command)
    command.set_defaults(run=generator.run)
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
