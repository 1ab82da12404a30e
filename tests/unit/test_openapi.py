"""The OpenAPI document: as the protos say, and whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from antiphon.v1 import analyzer_pb2, audio_pb2, codec_pb2, generator_pb2, system_pb2
from services.edge.contract import unwrapped
from services.edge.openapi import EXAMPLES, document
from services.stack import edge


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((edge.REST / "openapi.json").read_text())
    return loaded


def values(node: Any, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from [node[key]] if key in node else []
        for inner in node.values():
            yield from values(inner, key)
    elif isinstance(node, list):
        for inner in node:
            yield from values(inner, key)


def test_the_document_holds_to_the_specification(spec: dict[str, Any]) -> None:
    from openapi_spec_validator import validate

    validate(spec)


def test_the_paths_are_those_of_the_issue(spec: dict[str, Any]) -> None:
    posts = {path for path, verbs in spec["paths"].items() if "post" in verbs}
    gets = {path for path, verbs in spec["paths"].items() if "get" in verbs}
    assert {"/generate/music", "/generate/audio", "/encode", "/decode", "/analyze"} <= posts
    assert {"/health", "/models"} <= gets
    assert not [path for path in spec["paths"] if "=" in path or "*" in path]


def test_generation_has_the_names_and_defaults_of_the_seed(spec: dict[str, Any]) -> None:
    fields = spec["components"]["schemas"]["GenerateFileRequest"]["properties"]
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    seed = {"duration": 10, "temperature": 1, "top_k": 250, "top_p": 0, "cfg_coef": 3}
    assert defaults == {**seed, "format": "wav"}
    assert set(fields) == {"text", *seed, "seed", "model", "format"}
    for path in ("/generate/music", "/generate/audio"):
        body = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["schema"] == {"$ref": "#/components/schemas/GenerateFileRequest"}


def test_every_reference_leads_somewhere_and_every_schema_is_used(spec: dict[str, Any]) -> None:
    named = {reference.rpartition("/")[2] for reference in values(spec, "$ref")}
    assert named == set(spec["components"]["schemas"])


def test_everything_is_described(spec: dict[str, Any]) -> None:
    for name, schema in spec["components"]["schemas"].items():
        assert schema["description"], name
    for path, verbs in spec["paths"].items():
        for operation in verbs.values():
            assert operation["summary"], path


def test_operations_have_names_of_their_own(spec: dict[str, Any]) -> None:
    names = list(values(spec["paths"], "operationId"))
    assert len(set(names)) == len(names)


def test_examples_belong_to_messages(spec: dict[str, Any]) -> None:
    assert EXAMPLES.keys() <= spec["components"]["schemas"].keys()


def test_the_descriptors_are_those_of_the_stubs() -> None:
    """Envoy transcodes by this file, the services answer by the stubs."""
    files = descriptor_pb2.FileDescriptorSet.FromString((edge.REST / "antiphon.pb").read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        # In order, as Envoy reads them: a file before one that it needs is refused here as there.
        pool.Add(file)
    for module in (analyzer_pb2, audio_pb2, codec_pb2, generator_pb2, system_pb2):
        served, own = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
        pool.FindFileByName(module.DESCRIPTOR.name).CopyToProto(served)
        module.DESCRIPTOR.CopyToProto(own)
        # protoc writes the JSON names, which follow from the others, into files only.
        assert re.sub(r" *json_name: .*\n", "", str(served)) == str(own)
    assert pool.FindMessageTypeByName("google.rpc.BadRequest")


def test_comments_lose_their_line_breaks() -> None:
    assert unwrapped(" One\n two.\n\n Three.\n") == "One two.\n\nThree."


def test_what_it_can_not_tell_is_an_error() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString((edge.REST / "antiphon.pb").read_bytes())
    for file in files.file:
        if file.name == "antiphon/v1/codec.proto":
            (message,) = [one for one in file.message_type if one.name == "EncodeRequest"]
            message.field.add(name="codes", number=99, type=11, type_name=".antiphon.v1.CodeFrames", label=1)
    with pytest.raises(ValueError, match=r"EncodeRequest\.codes"):
        document(files, "1")
