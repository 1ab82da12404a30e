"""Every overlay and every component renders, and every object of them is what Kubernetes takes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.kubernetes import render, schemas


def check(objects: tuple[render.Document, ...]) -> None:
    assert objects
    found = {
        f"{each['kind']} {each['metadata']['name']}": problems
        for each in objects
        if (problems := schemas.problems(each))
    }
    assert not found
    names = [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", render.OVERLAYS)
def test_an_overlay_is_valid(name: str) -> None:
    check(render.overlay(name))


@pytest.mark.parametrize("name", render.COMBINATIONS)
def test_a_component_over_the_base_is_valid(name: str, tmp_path: Path) -> None:
    check(render.combination(render.COMBINATIONS[name], tmp_path))


def test_no_component_is_left_out() -> None:
    found = {path.parent for path in (render.K8S / "components").rglob("kustomization.yaml")}
    names = {str(path.relative_to(render.K8S / "components")) for path in found}
    assert names == render.COMBINATIONS.keys() - {"base"}


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "generator", ("spec", "template", "spec", "hostNetworks"), True),
        ("Deployment", "generator", ("spec", "template", "spec", "containers", 0, "resources", "limit"), {}),
        ("HorizontalPodAutoscaler", "generator", ("spec", "minReplicas"), "two"),
        ("PodMonitor", "services", ("spec", "podMetricsEndpoints", 0, "intervall"), "5s"),
        ("PrometheusRule", "antiphon-alerts", ("spec", "groups", 0, "rules", 0, "expr"), None),
        ("Certificate", "edge-workload", ("spec", "dnsName"), "a"),
        ("ScaledObject", "codec", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behaviour"), {}),
    ],
)
def test_a_mistake_is_found(kind: str, name: str, path: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    objects = render.combination(("keda",), tmp_path) if kind == "ScaledObject" else render.overlay("production")
    document = copy.deepcopy(render.of_kind(objects, kind)[name])
    assert not schemas.problems(document)
    node = document
    for key in path[:-1]:
        node = node[key]  # type: ignore[index]
    node[path[-1]] = value  # type: ignore[index]
    assert schemas.problems(document)
