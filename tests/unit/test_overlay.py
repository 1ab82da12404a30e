"""Laying a document over another."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from services.stack import overlay


@pytest.mark.parametrize(
    ("base", "patch", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ([{"name": "x", "v": 1}, {"name": "y"}], [{"name": "x", "v": 2}], [{"name": "x", "v": 2}, {"name": "y"}]),
        ([{"name": "x"}], [{"name": "z", "v": 1}], [{"name": "x"}, {"name": "z", "v": 1}]),
        ([{"name": "x"}], [], []),
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_it_merges_as_strategic_merge_patches_do(base: Any, patch: Any, expected: Any) -> None:
    before = yaml.safe_dump([base, patch])
    assert overlay.merge(base, patch) == expected
    assert yaml.safe_dump([base, patch]) == before


def test_the_order_is_that_of_the_base() -> None:
    merged = overlay.merge({"a": 1, "b": 2, "c": 3}, {"d": 4, "b": 5})
    assert list(merged) == ["a", "b", "c", "d"]
