"""docs/api.md, the reference that is made from the protos."""

from __future__ import annotations

import re
from pathlib import Path

from antiphon.v1 import analyzer_pb2, audio_pb2, codec_pb2, generator_pb2, system_pb2

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
FILES = [module.DESCRIPTOR for module in (analyzer_pb2, audio_pb2, codec_pb2, generator_pb2, system_pb2)]


def section(heading: str) -> str:
    """What stands under a heading of the third rank."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def test_every_message_field_method_and_value_is_told() -> None:
    for file in FILES:
        for name, message in file.message_types_by_name.items():
            told = section(name)
            for field in message.fields:
                assert f"| `{field.name}` | " in told, f"{name}.{field.name}"
        for name, enum in file.enum_types_by_name.items():
            assert all(f"| `{value.name}` | {value.number} |" in section(name) for value in enum.values)
        for name, service in file.services_by_name.items():
            assert all(section(f"{name}.{method.name}").strip() for method in service.methods)


def test_every_link_leads_somewhere() -> None:
    anchors = {heading.lower().replace(".", "") for heading in re.findall(r"^#+ (\S+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\(#([^)]+)\)", PAGE)) <= anchors


def test_the_paths_of_rest_are_told() -> None:
    for path in ("POST /encode", "POST /decode", "POST /analyze", "GET /health", "POST /generate/music"):
        assert f"`{path}`" in PAGE
