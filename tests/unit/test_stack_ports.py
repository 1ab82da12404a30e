"""The ports of the local stack."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from services.stack.errors import PortTakenError
from services.stack.ports import HOST, SERVICES, Ports


def all_of(ports: Ports) -> list[int]:
    return [ports.edge, ports.admin, *ports.services.values(), *ports.metrics.values(), *ports.watch.values()]


def test_defaults_are_those_of_the_documentation() -> None:
    assert all_of(Ports()) == [8080, 9901, 50051, 50052, 50053, 9101, 9102, 9103, 9111, 9112, 9113]


def test_free_ports_differ_and_pass_the_check() -> None:
    ports = Ports.free()
    assert len(set(all_of(ports))) == len(all_of(ports))
    ports.check(SERVICES)


def test_free_ports_keep_the_edge_that_is_given() -> None:
    assert Ports.free(edge=1234).edge == 1234


@pytest.mark.parametrize("name", ["Envoy", "Envoy's admin", "codec", "codec's metrics", "codec's sidecar"])
def test_a_taken_port_is_named(name: str) -> None:
    ports = Ports.free()
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        changed = {
            "Envoy": replace(ports, edge=taken),
            "Envoy's admin": replace(ports, admin=taken),
            "codec": replace(ports, services={**ports.services, "codec": taken}),
            "codec's metrics": replace(ports, metrics={**ports.metrics, "codec": taken}),
            "codec's sidecar": replace(ports, watch={**ports.watch, "codec": taken}),
        }[name]
        with pytest.raises(PortTakenError, match=f"port {taken} for {name} is in use"):
            changed.check(SERVICES, secure=True)


def test_ports_of_services_that_do_not_run_may_be_taken() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        ports = Ports.free()
        ports = replace(ports, services={**ports.services, "codec": other.getsockname()[1]})
        ports.check(["generator", "analyzer"])
