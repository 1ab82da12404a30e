"""The local overlay as pods that `podman kube play` takes, which knows less than a cluster.

What is changed and why: podman's DNS knows pods by their names alone, so each Deployment becomes a pod with the name of
its Service; an argument like $(POD_NAME) is not expanded; a projected volume is refused; two pods' emptyDirs of one name
would be one; and a port is published by number, so that no two pods may take the same. Probes of gRPC and all kinds of
objects that podman does not know are passed over by itself.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from services.stack.ports import Ports
from tests.kubernetes import render
from tests.kubernetes.render import Document

EDGE_PORT = 8080
METRICS_PORT = 9101


def pods(objects: tuple[Document, ...]) -> list[Document]:
    """Return the ConfigMaps and, after them, a pod for each Deployment of an overlay."""
    maps = render.of_kind(objects, "ConfigMap")
    made = [pod(each, maps) for each in objects if each["kind"] == "Deployment"]
    return [*maps.values(), *made]


def text(overlay: str) -> str:
    """Return what `podman kube play` reads."""
    return yaml.safe_dump_all(pods(render.overlay(overlay)), sort_keys=False)


def volumes(documents: list[Document]) -> list[str]:
    """Return the names of the volumes that podman makes and `podman kube down` leaves."""
    return sorted({source(each) for pod in documents if pod["kind"] == "Pod" for each in pod["spec"]["volumes"]})


def source(volume: dict[str, Any]) -> str:
    """Return podman's name of a pod's volume."""
    return str(volume["configMap"]["name"] if "configMap" in volume else volume["name"])


def pod(deployment: Document, maps: dict[str, Document]) -> Document:
    """Return the pod of a Deployment; puts what its projected volumes hold into `maps`."""
    name = deployment["metadata"]["name"]
    template = yaml.safe_load(yaml.safe_dump(deployment["spec"]["template"]))
    spec = template["spec"]
    for volume in spec["volumes"]:
        if "projected" in volume:
            parts = [maps[each["configMap"]["name"]] for each in volume.pop("projected")["sources"]]
            joined = join(f"{name}-{volume['name']}", parts)
            maps[joined["metadata"]["name"]] = joined
            volume["configMap"] = {"name": joined["metadata"]["name"]}
        if "emptyDir" in volume:
            volume["name"] = own(name, volume["name"])
    for container in spec["containers"]:
        container["args"] = [expand(each, name, container) for each in container.get("args", ())]
        container["ports"] = published(name)
        for mount in container["volumeMounts"]:
            if own(name, mount["name"]) in {each["name"] for each in spec["volumes"]}:
                mount["name"] = own(name, mount["name"])
    metadata = {"name": name, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def own(pod: str, volume: str) -> str:
    """Return a name that no other pod's volume bears."""
    return f"{pod}-{volume}"


def join(name: str, parts: list[Document]) -> Document:
    """Return one ConfigMap with what several hold."""
    content: Document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    for field in ("data", "binaryData"):
        content[field] = {key: value for part in parts for key, value in part.get(field, {}).items()}
    return content


def expand(argument: str, pod: str, container: Document) -> str:
    """Return an argument with the values of the variables that it names: the pod's name, or a limit of the container."""

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
