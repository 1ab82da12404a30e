"""The OpenAPI 3.0 document of what the edge serves over HTTP, made from the protos and their comments."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2 as pb

from services.edge.bindings import Binding, bindings
from services.edge.contract import Contract
from services.edge.schemas import Schema, Schemas

PACKAGE = "antiphon.v1"
HTTP_BODY = "google.api.HttpBody"
AUDIO = ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg")
"""What comes where a method answers with a raw body; the request says which of them."""
EXAMPLES: dict[str, Schema] = {
    "GenerateFileRequest": {"text": "slow sad piano", "duration": 3},
    "GenerateRequest": {"config": {"prompts": [{"text": "slow sad piano"}], "duration": "3s"}},
    "GenerateBatchRequest": {
        "configs": [
            {"prompts": [{"text": "slow sad piano"}], "duration": "1s"},
            {"prompts": [{"text": "fast drums"}], "duration": "1s"},
        ]
    },
    "DecodeFileRequest": {"values": [{"values": [1, 2, 3, 4]}]},
}
"""Requests to begin with; those of the tests, so they work."""

_DESCRIPTION = """\
Text goes in; audio comes out in pieces, while it is being made.

The same services speak gRPC and gRPC-Web at this address; what streams both ways is there only.
"""
_ERROR: Schema = {
    "type": "object",
    "description": "What went wrong, as google.rpc.Status.",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The gRPC code: 3 is INVALID_ARGUMENT, 5 is NOT_FOUND."},
        "message": {"type": "string", "description": "For people."},
        "details": {
            "type": "array",
            "description": (
                "google.rpc messages, told apart by `@type`: BadRequest names each field that is wrong, RetryInfo says "
                "when to come again, ErrorInfo gives a reason for programs, RequestInfo repeats the request id."
            ),
            "items": {
                "type": "object",
                "required": ["@type"],
                "properties": {"@type": {"type": "string"}},
                "additionalProperties": True,
            },
        },
    },
    "example": {
        "code": 3,
        "message": "duration: must be 0.02 to 600 seconds, is -1",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "field_violations": [{"field": "duration", "description": "must be 0.02 to 600 seconds, is -1"}],
            }
        ],
    },
}


def document(files: pb.FileDescriptorSet, version: str) -> dict[str, Any]:
    """Return the document for files that protoc wrote with --include_source_info.

    Raises ValueError for what in the protos it does not know to tell.
    """
    contract = Contract.of(files, PACKAGE)
    schemas = Schemas(contract, PACKAGE)
    paths: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for binding in bindings(contract):
        operation = _operation(binding, contract, schemas)
        count = seen[operation["operationId"]] = seen.get(operation["operationId"], 0) + 1
        if count > 1:
            operation["operationId"] += str(count)
        if binding.verb in paths.setdefault(binding.path, {}):
            raise ValueError(f"{binding.verb} {binding.path}: stands twice in the protos")
        paths[binding.path][binding.verb] = operation
    used = {tag for path in paths.values() for operation in path.values() for tag in operation["tags"]}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Antiphon",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
        },
        "servers": [{"url": "/", "description": "This address."}],
        # Either of them where the edge wants keys, none where it does not.
        "security": [{"bearer": []}, {"key": []}, {}],
        "tags": [
            {"name": _short(name), "description": contract.comment(name)}
            for name in contract.services
            if _short(name) in used
        ],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(binding: Binding, contract: Contract, schemas: Schemas) -> dict[str, Any]:
    method, service = binding.method, binding.service
    comment = contract.comment(f"{service}.{method.name}")
    summary, _, rest = comment.partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": f"{_short(service)}_{method.name}",
        "tags": [_short(service)],
        "summary": summary,
        **({"description": rest} if rest else {}),
    }
    if parameters := _parameters(binding, contract, schemas):
        operation["parameters"] = parameters
    if binding.body:
        operation["requestBody"] = _request(binding, contract, schemas)
    operation["responses"] = {
        "200": _response(method, schemas),
        "default": {
            "description": "An error.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        },
    }
    return operation


def _parameters(binding: Binding, contract: Contract, schemas: Schemas) -> list[dict[str, Any]]:
    name = binding.method.input_type.removeprefix(".")
    found = []
    for one in contract.messages[name].field:
        in_path = one.name in binding.variables
        if one.name in binding.constants or one.name == binding.body or (binding.body == "*" and not in_path):
            continue
        if one.type == pb.FieldDescriptorProto.TYPE_MESSAGE:
            raise ValueError(f"{name}.{one.name}: a message can't stand in a query")
        schema = schemas.field(name, one)
        parameter: dict[str, Any] = {"name": one.name, "in": "path" if in_path else "query", "schema": schema}
        if text := schema.pop("description", ""):
            parameter["description"] = text
        found.append({**parameter, "required": True} if in_path else parameter)
    return found


def _request(binding: Binding, contract: Contract, schemas: Schemas) -> dict[str, Any]:
    name = binding.method.input_type.removeprefix(".")
    if binding.body == "*":
        schema = schemas.reference(name)
        if bound := (*binding.variables, *binding.constants):
            # The path holds them: a body that does too is refused.
            schemas.components[_short(name)] = schemas.message(name, without=bound)
        media: dict[str, Any] = {"schema": schema}
        if _short(name) in EXAMPLES:
            media["example"] = EXAMPLES[_short(name)]
        return {"required": True, "content": {"application/json": media}}
    one = next(field for field in contract.messages[name].field if field.name == binding.body)
    text = contract.comment(f"{name}.{one.name}")
    if one.type_name.removeprefix(".") != HTTP_BODY:
        raise ValueError(f"{name}.{one.name}: only a raw body can be a field of its own")
    body = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "description": text, "content": {"audio/*": body, "application/octet-stream": body}}


def _response(method: pb.MethodDescriptorProto, schemas: Schemas) -> dict[str, Any]:
    name = method.output_type.removeprefix(".")
    if name == HTTP_BODY:
        audio = {"schema": {"type": "string", "format": "binary"}}
        return {
            "description": "Audio, sent while it is made." if method.server_streaming else "Audio.",
            "content": dict.fromkeys(AUDIO, audio),
        }
    schema = schemas.reference(name)
    if method.server_streaming:
        text = "One element a message, sent while they are made."
        return {"description": text, "content": {"application/json": {"schema": {"type": "array", "items": schema}}}}
    return {"description": "The result.", "content": {"application/json": {"schema": schema}}}


def _short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")
