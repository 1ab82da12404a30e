"""What kustomize makes of k8s/: the overlays as they are, and every component laid over the base."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import require

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
# Those that lean on another stand with it.
COMBINATIONS = {
    "base": (),
    "autoscaling": ("autoscaling",),
    "certificates": ("mtls", "certificates"),
    "gpu": ("gpu",),
    "hub-models": ("hub-models",),
    "keda": ("keda",),
    "monitoring": ("monitoring",),
    "mtls": ("mtls",),
    "network-policies": ("network-policies",),
    "network-policies/hub": ("network-policies", "network-policies/hub"),
}
"""Components over the base; the keys are all the components that there are, and "base"."""

Document = dict[str, Any]


def build(folder: Path) -> str:
    """Return what `kubectl kustomize` prints for a folder. Raises AssertionError with its message where it fails."""
    done = subprocess.run(
        [require("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # It warns of what its next version refuses.
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@cache
def overlay(name: str) -> tuple[Document, ...]:
    """Return the objects of an overlay."""
    return documents(build(K8S / "overlays" / name))


def combination(components: tuple[str, ...], folder: Path) -> tuple[Document, ...]:
    """Return the objects of the base with components over it; `folder` takes the kustomization."""
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "antiphon",
        "resources": [_relative(K8S / "base", folder)],
        "components": [_relative(K8S / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return documents(build(folder))


def documents(text: str) -> tuple[Document, ...]:
    """Return the objects in a stream of YAML documents."""
    return tuple(document for document in yaml.load_all(text, yaml.CSafeLoader) if document)


def of_kind(objects: tuple[Document, ...], *kinds: str) -> dict[str, Document]:
    """Return the objects of some kinds by their names."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def containers(deployment: Document) -> list[Document]:
    """Return all containers of a Deployment's pods: sidecars and init containers first."""
    pod = deployment["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


def _relative(path: Path, start: Path) -> str:
    return os.path.relpath(path.resolve(), start.resolve())
