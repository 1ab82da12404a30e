"""The local overlay as podman takes it: all that it serves with, and nothing that podman refuses or passes over."""

from __future__ import annotations

import base64

from services.stack.ports import SERVICES, Ports
from services.stack.stack import ROOT
from tests.kubernetes import pods, render

OVERLAY = render.overlay("local")
REST = ROOT / "k8s" / "base" / "envoy" / "rest"


def test_a_pod_bears_the_name_under_which_the_edge_seeks_it() -> None:
    made = [each["metadata"]["name"] for each in pods.pods(OVERLAY) if each["kind"] == "Pod"]
    assert sorted(made) == sorted(["edge", *SERVICES]) == sorted(render.of_kind(OVERLAY, "Service"))


def test_the_edge_finds_every_file_and_knows_its_name() -> None:
    documents = tuple(pods.pods(OVERLAY))
    maps, edge = render.of_kind(documents, "ConfigMap"), render.of_kind(documents, "Pod")["edge"]
    (rest,) = [each["configMap"]["name"] for each in edge["spec"]["volumes"] if each["name"] == "rest"]
    held = {name: value.encode() for name, value in maps[rest]["data"].items()}
    held |= {name: base64.b64decode(value) for name, value in maps[rest]["binaryData"].items()}
    assert held == {path.name: path.read_bytes() for path in REST.iterdir()}
    arguments = edge["spec"]["containers"][0]["args"]
    assert not [each for each in arguments if "$" in each]
    assert arguments[arguments.index("--service-node") + 1] == "edge"


def test_no_two_pods_share_a_port_or_a_folder() -> None:
    made = [each["spec"] for each in pods.pods(OVERLAY) if each["kind"] == "Pod"]
    ports = [port["hostPort"] for spec in made for each in spec["containers"] for port in each["ports"]]
    assert sorted(ports) == sorted([Ports().edge, *Ports().metrics.values()])
    folders = [volume["name"] for spec in made for volume in spec["volumes"] if "emptyDir" in volume]
    assert len(folders) == len(set(folders))
    for spec in made:
        mounted = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_overlay_stays_as_it_was() -> None:
    before = pods.text("local")
    assert pods.text("local") == before
    assert all("readinessProbe" in render.containers(each)[0] for each in OVERLAY if each["kind"] == "Deployment")
