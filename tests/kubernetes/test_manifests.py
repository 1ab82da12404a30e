"""What no schema says: that the parts of k8s/ fit each other, the services and the laws of docs/."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.runtime.config import FOREIGN_VARIABLES
from services.stack.ports import SERVICES, Ports
from tests.bench.capacity import most_slots
from tests.bench.capacity.pods import Curve
from tests.kubernetes import render
from tests.kubernetes.render import Document, containers, of_kind

GIVEN_SECRETS = {"edge-public-tls", "edge-identity", "huggingface"}
"""Those that whoever installs brings (k8s/README.md); all others are cert-manager's."""
MEASURED_CORES = 2
MEASURED_STEPS = {1: 15.35, 8: 39.97}
"""Milliseconds of a step of MusicGen-small at int8 on those, by streams (docs/benchmarks.md)."""
CUT_SECONDS = 5
"""services/runtime/server.py allows these after the grace."""


@pytest.fixture(scope="module", params=[*render.OVERLAYS, "keda"])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, ...]:
    if request.param == "keda":
        return render.combination(("keda",), tmp_path_factory.mktemp("keda"))
    return render.overlay(request.param)


def settings(objects: tuple[Document, ...], name: str) -> dict[str, str]:
    """The settings of a service: those of its ConfigMap."""
    (found,) = (each for key, each in of_kind(objects, "ConfigMap").items() if key.startswith(f"{name}-settings"))
    data: dict[str, str] = found["data"]
    return data


def ports(deployment: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for each in containers(deployment) for port in each.get("ports", ())}


def labels_of(deployment: Document) -> dict[str, str]:
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels


def matches(selector: Document, labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(
        (labels.get(each["key"]) in each["values"]) == (each["operator"] == "In")
        for each in selector.get("matchExpressions", ())
    )


def test_every_pod_keeps_the_restricted_profile(objects: tuple[Document, ...]) -> None:
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in of_kind(objects, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}
        for each in containers(deployment):
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory", "ephemeral-storage"} <= each["resources"]["requests"].keys()
            assert {"cpu", "memory", "ephemeral-storage"} <= each["resources"]["limits"].keys()


def test_every_image_of_an_overlay_has_a_version(objects: tuple[Document, ...]) -> None:
    if not of_kind(objects, "ScaledObject"):
        images = {each["image"] for one in of_kind(objects, "Deployment").values() for each in containers(one)}
        assert all(re.fullmatch(r"antiphon/[a-z]+:\d+\.\d+\.\d+(-cuda)?", image) for image in images)


@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_are_the_services_own(
    objects: tuple[Document, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(objects, name)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    module = importlib.import_module(f"services.{name}.settings")
    read = getattr(module, f"{name.capitalize()}Settings")()  # refuses what it does not know
    deployment = of_kind(objects, "Deployment")[name]
    assert read.drain_delay_seconds + read.drain_grace_seconds + CUT_SECONDS < grace(deployment)
    (own,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {variable["name"] for variable in own["env"] if variable["name"].startswith("ANTIPHON_")}
    assert named <= read.variables() | FOREIGN_VARIABLES.keys()


def test_slots_are_what_the_cores_of_a_pod_play_in_time() -> None:
    objects = render.overlay("production-cpu")
    (own,) = of_kind(objects, "Deployment")["generator"]["spec"]["template"]["spec"]["containers"]
    assert own["resources"]["requests"]["cpu"] == own["resources"]["limits"]["cpu"] == str(MEASURED_CORES)
    assert settings(objects, "generator")["ANTIPHON_SLOTS"] == str(most_slots(Curve(MEASURED_STEPS)))


def grace(deployment: Document) -> int:
    seconds: int = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    return seconds


def test_the_edge_outlives_what_it_carries(objects: tuple[Document, ...]) -> None:
    deployments = of_kind(objects, "Deployment")
    edge = deployments["edge"]
    (envoy,) = edge["spec"]["template"]["spec"]["containers"]
    seconds = int(envoy["lifecycle"]["preStop"]["exec"]["command"][1])
    assert seconds < grace(edge)
    assert seconds >= float(settings(objects, "generator")["ANTIPHON_DRAIN_GRACE_SECONDS"])


def test_services_reach_pods_and_are_what_envoy_calls(objects: tuple[Document, ...]) -> None:
    deployments = of_kind(objects, "Deployment")
    (config,) = (each for key, each in of_kind(objects, "ConfigMap").items() if key.startswith("edge-envoy"))
    clusters = yaml.safe_load(config["data"]["envoy.yaml"])["static_resources"]["clusters"]
    called = {
        address["address"]: address["port_value"]
        for cluster in clusters
        for group in cluster.get("load_assignment", {}).get("endpoints", ())
        for host in group["lb_endpoints"]
        if (address := host["endpoint"]["address"].get("socket_address")) and cluster["name"] in SERVICES
    }
    assert called.keys() == SERVICES.keys()
    for name, service in of_kind(objects, "Service").items():
        (deployment,) = (
            each for each in deployments.values() if service["spec"]["selector"].items() <= labels_of(each).items()
        )
        assert deployment["metadata"]["name"] == name
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(deployment)
            if name in called:
                # Headless: the name is the pods' addresses, so the port called is the pods' own.
                assert service["spec"]["clusterIP"] == "None"
                assert called[name] == port["port"] == ports(deployment)[port["targetPort"]]


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_grpc_health_where_something_listens(objects: tuple[Document, ...], name: str) -> None:
    deployment = of_kind(objects, "Deployment")[name]
    (own,) = deployment["spec"]["template"]["spec"]["containers"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = own[kind]["grpc"]
        assert probe["service"] == SERVICES[name]
        assert probe["port"] in ports(deployment).values()
    listen = settings(objects, name)["ANTIPHON_LISTEN"]
    sidecars = [each for each in containers(deployment) if each.get("restartPolicy") == "Always"]
    if sidecars:
        assert listen == "unix:/run/antiphon/service.sock"
        assert settings(objects, name)["ANTIPHON_METRICS_LISTEN"].startswith("127.0.0.1:")
        assert "ports" not in own
    else:
        assert listen == f"0.0.0.0:{Ports().services[name]}"


def test_what_is_mounted_or_read_exists(objects: tuple[Document, ...]) -> None:
    maps = set(of_kind(objects, "ConfigMap"))
    claims = set(of_kind(objects, "PersistentVolumeClaim"))
    issued = {each["spec"]["secretName"] for each in of_kind(objects, "Certificate").values()}
    accounts = set(of_kind(objects, "ServiceAccount"))
    for deployment in of_kind(objects, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] in accounts
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for each in containers(deployment) for mount in each["volumeMounts"]} == volumes
        assert set(found(pod, "configMap", "configMapRef")) <= maps
        assert set(found(pod, "secret", "secretRef")) <= issued | GIVEN_SECRETS
        assert {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        } <= claims


def test_kubectl_can_apply_every_object(objects: tuple[Document, ...]) -> None:
    for each in objects:
        # Client-side apply keeps the object in one of its own annotations, which may have 256 KiB.
        assert len(json.dumps(each)) < 256 * 1024, each["metadata"]["name"]


def found(node: Any, *keys: str) -> Iterator[str]:
    """The names that references under these keys bear."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys:
                yield value.get("name") or value["secretName"]
            yield from found(value, *keys)
    elif isinstance(node, list):
        for item in node:
            yield from found(item, *keys)


def test_budgets_policies_and_monitors_choose_pods(objects: tuple[Document, ...]) -> None:
    deployments = list(of_kind(objects, "Deployment").values())
    assert len(of_kind(objects, "PodDisruptionBudget")) == len(deployments)
    for each in of_kind(objects, "PodDisruptionBudget", "PodMonitor").values():
        assert any(matches(each["spec"]["selector"], labels_of(one)) for one in deployments)
    for monitor in of_kind(objects, "PodMonitor").values():
        for one in deployments:
            if matches(monitor["spec"]["selector"], labels_of(one)):
                assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports(one).keys()


@pytest.mark.parametrize("overlay", ["production", "production-cpu"])
def test_policies_let_through_what_listens_and_no_more(overlay: str) -> None:
    objects = render.overlay(overlay)
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy").values()]
    for name, deployment in of_kind(objects, "Deployment").items():
        chosen = [each for each in policies if matches(each["podSelector"], labels_of(deployment))]
        assert {kind for each in chosen for kind in each["policyTypes"]} == {"Ingress", "Egress"}
        entries = [entry for each in chosen for entry in each.get("ingress", ())]
        opened = {port["port"] for entry in entries for port in entry["ports"]}
        assert set(ports(deployment).values()) <= opened
        if name != "edge":
            assert all(entry.get("from") for entry in entries)


def test_one_autoscaler_owns_the_replicas(objects: tuple[Document, ...]) -> None:
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    deployments = of_kind(objects, "Deployment")
    for scaler in scalers.values():
        name = scaler["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in deployments[name]["spec"]
    assert len(of_kind(objects, "HorizontalPodAutoscaler").keys() & of_kind(objects, "ScaledObject").keys()) == 0


def test_every_service_has_a_gpu_pool_of_its_own_name() -> None:
    deployments = of_kind(render.overlay("production"), "Deployment")
    for name in SERVICES:
        pod = deployments[name]["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"antiphon.internal/pool": name}
        assert {each.get("value") for each in pod["tolerations"]} == {name, None}
        (own,) = pod["containers"]
        assert own["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert settings(render.overlay("production"), name)["ANTIPHON_DEVICE"] == "cuda"
        assert own["image"].endswith("-cuda")
    assert "nodeSelector" not in deployments["edge"]["spec"]["template"]["spec"]


def test_every_component_explains_itself() -> None:
    for name in render.COMBINATIONS.keys() - {"base", "network-policies/hub"}:
        assert Path(render.K8S, "components", name, "README.md").read_text().startswith("# ")
