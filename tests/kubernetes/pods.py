"""The local overlay as pods that `podman kube play` takes, which knows less than a cluster.

What is changed and why: podman's DNS knows pods by their names alone, so each Deployment becomes a pod with the name
of its Service; an argument like $(POD_NAME) is not expanded; a projected volume is refused; two pods' emptyDirs of one
name would be one; a port is published by number, so that no two pods may take the same; and it probes with programs
that are not in the images. Objects that it does not know are left out.
"""

from __future__ import annotations

import re
from copy import deepcopy

import yaml

from services.stack.ports import Ports
from tests.kubernetes import render
from tests.kubernetes.render import Document

EDGE_PORT = 8080
METRICS_PORT = 9101
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def pods(objects: tuple[Document, ...]) -> list[Document]:
    """Return the ConfigMaps of an overlay and, after them, a pod for each Deployment."""
    maps = render.of_kind(objects, "ConfigMap")
    made = [pod(each, maps) for each in render.of_kind(objects, "Deployment").values()]
    return [*maps.values(), *made]


def text(overlay: str) -> str:
    """Return what `podman kube play` reads."""
    return yaml.safe_dump_all(pods(render.overlay(overlay)), sort_keys=False)


def volumes(documents: list[Document]) -> list[str]:
    """Return the names of the volumes that podman makes of ConfigMaps, and that `podman kube down` leaves."""
    mounted = [volume for each in documents if each["kind"] == "Pod" for volume in each["spec"]["volumes"]]
    return sorted({volume["configMap"]["name"] for volume in mounted if "configMap" in volume})


def pod(deployment: Document, maps: dict[str, Document]) -> Document:
    """Return the pod of a Deployment; what its projected volumes hold is put into `maps`."""
    name = deployment["metadata"]["name"]
    template = deepcopy(deployment["spec"]["template"])
    spec = template["spec"]
    own = {each["name"]: f"{name}-{each['name']}" for each in spec["volumes"] if "emptyDir" in each}
    for volume in spec["volumes"]:
        volume["name"] = own.get(volume["name"], volume["name"])
        if "projected" in volume:
            joined = f"{name}-{volume['name']}"
            maps[joined] = join(
                joined, [maps[each["configMap"]["name"]] for each in volume.pop("projected")["sources"]]
            )
            volume["configMap"] = {"name": joined}
    for container in spec["containers"]:
        if "args" in container:
            container["args"] = [expand(each, name, container) for each in container["args"]]
        container["ports"] = published(name)
        for mount in container["volumeMounts"]:
            mount["name"] = own.get(mount["name"], mount["name"])
        for probe in PROBES:
            container.pop(probe, None)
    metadata = {"name": name, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def join(name: str, parts: list[Document]) -> Document:
    """Return one ConfigMap with what several hold."""
    content: Document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    for field in ("data", "binaryData"):
        content[field] = {key: value for part in parts for key, value in part.get(field, {}).items()}
    return content


def expand(argument: str, pod: str, container: Document) -> str:
    """Return an argument with the values of the variables that it names: the pod's name or a limit of the container."""

    def value(match: re.Match[str]) -> str:
        (variable,) = [each for each in container["env"] if each["name"] == match[1]]
        if "fieldRef" in variable["valueFrom"]:
            return pod
        _, limit = variable["valueFrom"]["resourceFieldRef"]["resource"].split(".")
        return str(container["resources"]["limits"][limit])

    return re.sub(r"\$\((\w+)\)", value, argument)


def published(name: str) -> list[dict[str, int]]:
    """Return the ports that this machine gets: those on which a local stack listens, for callers and Prometheus."""
    if name == "edge":
        return [{"containerPort": EDGE_PORT, "hostPort": Ports().edge}]
    return [{"containerPort": METRICS_PORT, "hostPort": Ports().metrics[name]}]
