"""`python -m tests.kubernetes`: `envoy` writes what is made of k8s/base/envoy; `pods` prints what podman plays.

The checks themselves are pytest's: `python -m pytest tests/kubernetes`, which `make k8s-check` runs.
"""

from __future__ import annotations

import argparse

from tests.kubernetes import edges, pods


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description="Keep k8s/ as it must be.")
    commands = parser.add_subparsers(required=True, dest="what", metavar="WHAT")
    commands.add_parser("envoy", help="write the edge's configurations for Kubernetes to k8s/base/envoy/made")
    commands.add_parser("pods", help="print the local overlay as `podman kube play -` takes it")
    if parser.parse_args().what == "pods":
        print(pods.text("local"), end="")
        return
    for path in edges.write():
        print(path)


if __name__ == "__main__":
    main()
