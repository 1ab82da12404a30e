"""Messages as JSON schemas, in the JSON that Envoy's transcoder reads and writes.

That is the JSON of https://protobuf.dev/programming-guides/json with the names of the protos: 64-bit integers are
strings, bytes are base64, a Duration is "3.5s".
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2 as pb

from services.edge.contract import Contract

Schema = dict[str, Any]

_Field = pb.FieldDescriptorProto
_SCALARS: dict[int, Schema] = {
    _Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    _Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    _Field.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    _Field.TYPE_BOOL: {"type": "boolean"},
    _Field.TYPE_STRING: {"type": "string"},
    _Field.TYPE_BYTES: {"type": "string", "format": "byte"},
    _Field.TYPE_INT64: {"oneOf": [{"type": "string", "pattern": "^-?[0-9]+$"}, {"type": "integer"}]},
    _Field.TYPE_UINT64: {"oneOf": [{"type": "string", "pattern": "^[0-9]+$"}, {"type": "integer", "minimum": 0}]},
}
_KNOWN: dict[str, Schema] = {
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "example": "3.5s",
    },
}
# As the comments of the protos write it: "default 250", 'default "wav"'.
_DEFAULT = re.compile(r'\bdefault (?P<number>-?\d+(\.\d+)?)\b|\bdefault "(?P<text>[^"]*)"', re.IGNORECASE)


class Schemas:
    """The schemas that were asked for, and those that they refer to.

    Attributes:
        components: by the short name, "CodeFrames"; nested messages as "GenerationFinished.Reason".
    """

    def __init__(self, contract: Contract, package: str) -> None:
        self._contract = contract
        self._package = package
        self.components: dict[str, Schema] = {}

    def reference(self, name: str) -> Schema:
        """Return a reference to a message or an enum by its full name, or the schema of a well-known type."""
        if name in _KNOWN:
            return dict(_KNOWN[name])
        short = name.removeprefix(f"{self._package}.")
        if short not in self.components:
            self.components[short] = {}
            made = self._enum(name) if name in self._contract.enums else self.message(name)
            self.components[short] = made
        return {"$ref": f"#/components/schemas/{short}"}

    def message(self, name: str, without: tuple[str, ...] = ()) -> Schema:
        """Return the schema of a message, some of its fields left out. Raises ValueError for what it can't tell."""
        message = self._contract.messages[name]
        if message.options.map_entry:
            raise ValueError(f"{name}: maps are not told")
        fields = {one.name: self.field(name, one) for one in message.field if one.name not in without}
        schema: Schema = {"type": "object", "properties": fields}
        text = [self._contract.comment(name), *self._choices(message)]
        return _described(schema, "\n\n".join(part for part in text if part))

    def field(self, owner: str, one: pb.FieldDescriptorProto) -> Schema:
        """Return the schema of a field of a message."""
        comment = self._contract.comment(f"{owner}.{one.name}")
        if one.type in (_Field.TYPE_MESSAGE, _Field.TYPE_ENUM):
            schema = self.reference(one.type_name.removeprefix("."))
        elif one.type in _SCALARS:
            schema = dict(_SCALARS[one.type])
        else:
            raise ValueError(f"{owner}.{one.name}: type {_Field.Type.Name(one.type)} is not told")
        if one.label == _Field.LABEL_REPEATED:
            return _described({"type": "array", "items": schema}, comment)
        default = _default(one, comment)
        return _described(schema if default is None else {**schema, "default": default}, comment)

    def _enum(self, name: str) -> Schema:
        enum = self._contract.enums[name]
        lines = [f"- `{value.name}`: {self._contract.comment(f'{name}.{value.name}')}" for value in enum.value]
        text = "\n".join([self._contract.comment(name), "", *lines])
        return {"type": "string", "enum": [value.name for value in enum.value], "description": text.strip()}

    def _choices(self, message: pb.DescriptorProto) -> list[str]:
        """Say which fields exclude each other; what is merely optional is a oneof of its own to protoc."""
        found = []
        for index, _ in enumerate(message.oneof_decl):
            of_it = [one for one in message.field if one.HasField("oneof_index") and one.oneof_index == index]
            if not any(one.proto3_optional for one in of_it):
                found.append(f"Exactly one of {', '.join(f'`{one.name}`' for one in of_it)}.")
        return found


def _default(one: pb.FieldDescriptorProto, comment: str) -> float | int | str | None:
    match = _DEFAULT.search(comment)
    if match is None:
        return None
    if one.type == _Field.TYPE_STRING:
        return match["text"]
    if match["number"] is None:
        return None
    if one.type in (_Field.TYPE_DOUBLE, _Field.TYPE_FLOAT):
        return float(match["number"])
    return int(match["number"]) if one.type in (_Field.TYPE_INT32, _Field.TYPE_UINT32) else None


def _described(schema: Schema, text: str) -> Schema:
    if not text:
        return schema
    # OpenAPI 3.0 reads nothing beside a reference.
    return {"allOf": [schema], "description": text} if "$ref" in schema else {**schema, "description": text}
