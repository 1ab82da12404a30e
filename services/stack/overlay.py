"""Lays one YAML document over another, as Kubernetes' strategic merge patches do.

maps                 are merged key by key
null                 takes the key away
lists of named maps  are merged by the name; new names come last
everything else      replaces what was there
"""

from __future__ import annotations

from typing import Any


def merge(base: Any, patch: Any) -> Any:
    """Returns `base` with `patch` laid over it; changes neither."""
    if isinstance(base, dict) and isinstance(patch, dict):
        kept = {key: value for key, value in base.items() if key not in patch}
        laid = {key: merge(base.get(key), value) for key, value in patch.items() if value is not None}
        # In the order of the base, for people who read both.
        return {key: laid.get(key, kept.get(key)) for key in (*base, *patch) if key in kept or key in laid}
    if _is_named(base) and _is_named(patch):
        patches = {item["name"]: item for item in patch}
        known = {item["name"] for item in base}
        merged = [merge(item, patches[item["name"]]) if item["name"] in patches else item for item in base]
        return merged + [item for item in patch if item["name"] not in known]
    if isinstance(patch, dict):
        return {key: merge(None, value) for key, value in patch.items() if value is not None}
    return patch


def _is_named(node: Any) -> bool:
    return isinstance(node, list) and all(isinstance(item, dict) and "name" in item for item in node) and bool(node)
