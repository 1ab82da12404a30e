"""`python -m tests.kubernetes envoy`: write what is made from the parts in k8s/base/envoy.

The checks themselves are pytest's: `python -m pytest tests/kubernetes`, which `make k8s-check` runs.
"""

from __future__ import annotations

import argparse

from tests.kubernetes import edges


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description="Keep k8s/ as it must be.")
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    commands.add_parser("envoy", help="write the edge's configurations for Kubernetes to k8s/base/envoy/made")
    parser.parse_args()
    for path in edges.write():
        print(path)


if __name__ == "__main__":
    main()
