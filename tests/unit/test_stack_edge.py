"""The edge's configuration, and what the local stack changes in it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

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


def with_hosts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The clusters, without the one that is made of them."""
    return [cluster for cluster in document["static_resources"]["clusters"] if cluster["name"] != "any"]


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
    local = rendered().replace(str(edge.REST), f"{edge.MOUNT}/rest")
    assert without_addresses(yaml.safe_load(local)) == without_addresses(original)


def test_a_cluster_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters"):
        edge.render(edge.CONFIG.read_text(), edge=("127.0.0.1", 1), admin=("127.0.0.1", 2), clusters={})


def test_every_service_has_a_route_and_a_health_check_of_its_own() -> None:
    document = yaml.safe_load(edge.CONFIG.read_text())
    routes = manager(document)["route_config"]["virtual_hosts"][0]["routes"]
    by_prefix = {route["match"].get("prefix"): route["route"]["cluster"] for route in routes if "route" in route}
    checks = {
        cluster["name"]: cluster["health_checks"][0]["grpc_health_check"]["service_name"]
        for cluster in with_hosts(document)
    }
    assert checks == dict(SERVICES)
    for name, service in SERVICES.items():
        assert by_prefix[f"/{service}/"] == name


def test_windows_are_small_on_both_sides() -> None:
    document = yaml.safe_load(edge.CONFIG.read_text())
    sides = [manager(document)["http2_protocol_options"]]
    for cluster in with_hosts(document):
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


def local_replies() -> list[dict[str, Any]]:
    mappers: list[dict[str, Any]] = manager(yaml.safe_load(edge.CONFIG.read_text()))["local_reply_config"]["mappers"]
    return mappers


@pytest.mark.parametrize("reason", ["TOO_MANY_CALLS", "RATE_LIMITED"])
def test_what_envoy_refuses_itself_has_the_details_of_a_services_refusal(reason: str) -> None:
    found = {}
    for mapper in local_replies():
        headers = {entry["header"]["key"]: entry["header"]["value"] for entry in mapper.get("headers_to_add", [])}
        if "grpc-status-details-bin" not in headers:
            continue
        status = status_pb2.Status.FromString(base64.b64decode(headers["grpc-status-details-bin"] + "=="))
        # A client believes the details only where code and message are those of the call.
        assert (status.code, status.message) == (8, mapper["body"]["inline_string"])
        retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(retry) and status.details[1].Unpack(info)
        assert (retry.retry_delay.seconds, info.domain) == (int(headers["retry-after"]), "antiphon")
        found[info.reason] = status
    assert reason in found


def secured() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(edge.configuration(secure=True))
    return document


def test_production_asks_who_calls_and_how_often_and_the_base_does_not() -> None:
    base = {item["name"]: item for item in manager(yaml.safe_load(edge.CONFIG.read_text()))["http_filters"]}
    production = {item["name"]: item for item in manager(secured())["http_filters"]}
    assert list(base) == list(production)
    assert list(base)[-1] == "envoy.filters.http.router"
    for name in ("identity", "rate_limit"):
        assert base[name]["disabled"] is True
        assert production[name]["disabled"] is False
    assert list(base).index("identity") < list(base).index("rate_limit")
    assert "typed_config" not in production["identity"]


def test_production_speaks_tls_to_all_sides() -> None:
    document = secured()
    (listener,) = document["static_resources"]["listeners"]
    assert all("transport_socket" in chain for chain in listener["filter_chains"])
    for cluster in with_hosts(document):
        tls = cluster["transport_socket"]["typed_config"]
        (name,) = tls["common_tls_context"]["combined_validation_context"]["default_validation_context"][
            "match_typed_subject_alt_names"
        ]
        assert tls["sni"] == name["matcher"]["exact"] == f"{cluster['name']}.antiphon.internal"


def test_a_sidecar_lets_in_the_edge_alone_and_leads_to_the_socket_alone() -> None:
    document = yaml.safe_load(edge.SIDECAR.read_text())
    inbound = document["static_resources"]["listeners"][0]
    tls = inbound["filter_chains"][0]["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True
    clusters = {cluster["name"]: cluster for cluster in document["static_resources"]["clusters"]}
    (group,) = clusters["application"]["load_assignment"]["endpoints"]
    assert group["lb_endpoints"] == [{"endpoint": {"address": {"pipe": {"path": "/run/antiphon/service.sock"}}}}]


def test_no_secret_is_in_the_tree() -> None:
    for path in edge.FOLDER.rglob("*.yaml"):
        assert "PRIVATE KEY" not in path.read_text()
        assert "inline_bytes" not in path.read_text()
    assert "credentials" not in edge.SECURED.read_text()
