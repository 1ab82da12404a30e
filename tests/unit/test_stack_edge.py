"""The edge's configuration, and what the local stack changes in it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from services.stack import edge
from services.stack.ports import SERVICES

CLUSTERS = {
    "generator": [("127.0.0.1", 1001), ("127.0.0.1", 1004)],
    "codec": [("127.0.0.1", 1002)],
    "analyzer": [("127.0.0.1", 1003)],
}


def rendered() -> str:
    return edge.render(edge.CONFIG.read_text(), edge=("127.0.0.1", 8000), admin=("127.0.0.1", 9000), clusters=CLUSTERS)


def addresses(node: Any) -> list[tuple[str, int]]:
    """Every socket address in the document, in order."""
    if isinstance(node, dict):
        own = [(node["address"], node["port_value"])] if "port_value" in node else []
        return own + [found for value in node.values() for found in addresses(value)]
    if isinstance(node, list):
        return [found for value in node for found in addresses(value)]
    return []


def without_addresses(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_addresses(value) for key, value in node.items() if key not in ("address", "endpoints")}
    if isinstance(node, list):
        return [without_addresses(value) for value in node]
    return node


def manager(document: dict[str, Any]) -> dict[str, Any]:
    (listener,) = document["static_resources"]["listeners"]
    config: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return config


def test_kubernetes_addresses_are_the_names_of_the_services() -> None:
    document = yaml.safe_load(edge.CONFIG.read_text())
    assert addresses(document) == [
        ("127.0.0.1", 9901),
        ("0.0.0.0", 8080),
        ("generator", 50051),
        ("codec", 50052),
        ("analyzer", 50053),
    ]


def test_local_addresses_are_those_given() -> None:
    hosts = [host for group in CLUSTERS.values() for host in group]
    expected = [("127.0.0.1", 9000), ("127.0.0.1", 8000), *hosts]
    assert addresses(yaml.safe_load(rendered())) == expected


def test_nothing_but_addresses_differs_locally() -> None:
    original = yaml.safe_load(edge.CONFIG.read_text())
    assert without_addresses(yaml.safe_load(rendered())) == without_addresses(original)


def test_a_cluster_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters"):
        edge.render(edge.CONFIG.read_text(), edge=("127.0.0.1", 1), admin=("127.0.0.1", 2), clusters={})


def test_every_service_has_a_route_and_a_health_check_of_its_own() -> None:
    document = yaml.safe_load(edge.CONFIG.read_text())
    routes = manager(document)["route_config"]["virtual_hosts"][0]["routes"]
    by_prefix = {route["match"].get("prefix"): route["route"]["cluster"] for route in routes}
    checks = {
        cluster["name"]: cluster["health_checks"][0]["grpc_health_check"]["service_name"]
        for cluster in document["static_resources"]["clusters"]
    }
    assert checks == dict(SERVICES)
    for name, service in SERVICES.items():
        assert by_prefix[f"/{service}/"] == name


def test_windows_are_small_on_both_sides() -> None:
    document = yaml.safe_load(edge.CONFIG.read_text())
    sides = [manager(document)["http2_protocol_options"]]
    for cluster in document["static_resources"]["clusters"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        sides.append(options["explicit_http_config"]["http2_protocol_options"])
    assert [side["initial_stream_window_size"] for side in sides] == [65535] * 4
    assert all(side["initial_connection_window_size"] >= 16 * 65535 for side in sides)


def test_the_access_log_has_no_query_and_no_body() -> None:
    (log,) = manager(yaml.safe_load(edge.CONFIG.read_text()))["access_log"]
    fields = log["typed_config"]["log_format"]["json_format"]
    assert fields["path"] == "%PATH(NQ)%"
    headers = [value for value in fields.values() if value.startswith("%REQ(")]
    assert sorted(headers) == ["%REQ(:METHOD)%", "%REQ(X-REQUEST-ID)%"]
