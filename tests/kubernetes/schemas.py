"""Strict schemas: Kubernetes' own, and those of the custom resources that we use.

Those come from typed models that are generated from the operators' own definitions. What these leave open is closed
here: a field that is not in the schema is an error, as it is with `kubectl apply --validate=strict`.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
import re
import warnings
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.kubernetes.render import Document

VERSION = "1.37"
"""Of Kubernetes. Also held to OLDEST, the first that has all we use."""
OLDEST = "1.33"
"""Native sidecars, the last to come of what we need, are stable from here on."""
CUSTOM = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
}


def problems(document: Document) -> list[str]:
    """Return what is wrong with an object; empty where nothing is."""
    return _problems(json.dumps(document, sort_keys=True))


@cache  # most objects are the same in many renderings
def _problems(text: str) -> list[str]:
    document = json.loads(text)
    if document["apiVersion"] in CUSTOM:
        errors = _validator(document["apiVersion"], document["kind"]).iter_errors(document)
        return [f"{error.json_path}: {error.message}" for error in errors]
    return [
        f"Kubernetes {version}: {error.json_path}: {error.message}"
        for version in (OLDEST, VERSION)
        for error in _builtin(version, document["apiVersion"], document["kind"]).iter_errors(document)
    ]


@cache
def _builtin(version: str, api: str, kind: str) -> Draft202012Validator:
    """The validator of one of Kubernetes' own kinds, from the strict schemas that kubernetes-validate ships.

    Its own `validate` reads and indexes the two megabytes of definitions anew for every object.
    """
    # autoscaling/v2 is autoscaling-v2, rbac.authorization.k8s.io/v1 is rbac-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    return Draft202012Validator(_schema(version, f"{kind.lower()}-{group}"), registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    registry: Registry[Any] = Resource.from_contents(_schema(version, "_definitions")) @ Registry()
    return registry


def _schema(version: str, name: str) -> Any:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


@cache
def _validator(version: str, kind: str) -> Draft202012Validator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(importlib.import_module(CUSTOM[version]), kind)
        schema = model.model_json_schema(by_alias=True)
    return Draft202012Validator(_closed(schema))


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
