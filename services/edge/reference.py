"""The API reference: the protos and their comments as one page of Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from google.protobuf import descriptor_pb2 as pb

from services.edge.bindings import bindings
from services.edge.contract import Contract

PACKAGE = "antiphon.v1"
_KINDS = pb.FieldDescriptorProto.Type
_PLAIN = {number: name.removeprefix("TYPE_").lower() for name, number in _KINDS.items()}
_HEAD = """# API reference

Made from `protos/antiphon/v1` by `make protos`; change it there. Every field says its range, its unit, its default and
the status of a violation. Envoy serves gRPC and gRPC-Web under the names of the methods, and REST under the paths given
with them; `/docs` and `/openapi.json` of a running stack tell of REST alone.
"""


def reference(files: pb.FileDescriptorSet) -> str:
    """Return the page, from files that protoc wrote with --include_source_info."""
    contract = Contract.of(files, PACKAGE)
    parts = [_HEAD, *_contents(contract)]
    for name, service in contract.services.items():
        parts += _service(contract, name, service)
    parts.append("## Messages")
    for name, message in contract.messages.items():
        if _is_ours(name):
            parts += _message(contract, name, message)
    parts.append("## Enums")
    for name, enum in contract.enums.items():
        if _is_ours(name):
            parts += _enum(contract, name, enum)
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _is_ours(name: str) -> bool:
    return name.startswith(f"{PACKAGE}.")


def _short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def _anchor(name: str) -> str:
    """Return the anchor that Markdown's usual renderers give the heading of something of ours."""
    return _short(name).lower().replace(".", "")


def _contents(contract: Contract) -> Iterator[str]:
    lines = []
    for name, service in contract.services.items():
        methods = ", ".join(f"[{method.name}](#{_anchor(f'{name}.{method.name}')})" for method in service.method)
        lines.append(f"- [{_short(name)}](#{_anchor(name)}): {methods}")
    yield "\n".join(lines)


def _service(contract: Contract, name: str, service: pb.ServiceDescriptorProto) -> Iterator[str]:
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for binding in bindings(contract):
        if binding.service == name:
            paths[binding.method.name].append(f"`{binding.verb.upper()} {binding.path}`")
    yield f"## {_short(name)}"
    yield contract.comment(name)
    for method in service.method:
        yield f"### {_short(name)}.{method.name}"
        asked = f"{'stream of ' if method.client_streaming else ''}{_link(method.input_type)}"
        told = f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type)}"
        rest = f" REST: {', '.join(paths[method.name])}." if paths[method.name] else ""
        yield f"{asked} → {told}.{rest}"
        yield contract.comment(f"{name}.{method.name}")


def _message(contract: Contract, name: str, message: pb.DescriptorProto) -> Iterator[str]:
    yield f"### {_short(name)}"
    yield contract.comment(name)
    if not message.field:
        yield "No fields."
        return
    rows = ["| Field | Type | Meaning |", "|---|---|---|"]
    for field in message.field:
        meaning = contract.comment(f"{name}.{field.name}")
        if field.HasField("oneof_index") and not field.proto3_optional:
            oneof = message.oneof_decl[field.oneof_index].name
            meaning = f"{meaning}\n\nOne of `{oneof}`.".strip()
        rows.append(f"| `{field.name}` | {_type(field)} | {_cell(meaning)} |")
    yield "\n".join(rows)


def _enum(contract: Contract, name: str, enum: pb.EnumDescriptorProto) -> Iterator[str]:
    yield f"### {_short(name)}"
    yield contract.comment(name)
    rows = ["| Value | Number | Meaning |", "|---|---|---|"]
    for value in enum.value:
        rows.append(f"| `{value.name}` | {value.number} | {_cell(contract.comment(f'{name}.{value.name}'))} |")
    yield "\n".join(rows)


def _type(field: pb.FieldDescriptorProto) -> str:
    repeated = "repeated " if field.label == pb.FieldDescriptorProto.LABEL_REPEATED else ""
    optional = "optional " if field.proto3_optional else ""
    return f"{repeated}{optional}{_link(field.type_name) if field.type_name else _PLAIN[field.type]}"


def _link(type_name: str) -> str:
    name = type_name.removeprefix(".")
    return f"[{_short(name)}](#{_anchor(name)})" if _is_ours(name) else f"`{name}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n\n", "<br>")
