"""Which HTTP request calls which method: the google.api.http annotations, one binding at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2 as pb

from services.edge.contract import Contract

VERBS = ("get", "put", "post", "delete", "patch")
_VARIABLE = re.compile(r"\{(?P<field>[a-z0-9_.]+)(=(?P<value>[^{}*]+))?\}")


@dataclass(frozen=True)
class Binding:
    """One verb and path.

    Attributes:
        service: full name.
        path: as OpenAPI writes it: "{field}" for what the caller fills in.
        variables: fields that the caller fills in, in the order of the path.
        constants: fields whose value the path fixes; the caller can't set them.
        body: the field that the body is, "*" for all that the path leaves, "" for none.
    """

    service: str
    method: pb.MethodDescriptorProto
    verb: str
    path: str
    variables: tuple[str, ...]
    constants: tuple[str, ...]
    body: str


def bindings(contract: Contract) -> Iterator[Binding]:
    """Yield every binding, in the order of the protos. Raises ValueError for a path that OpenAPI can't tell."""
    for service, descriptor in contract.services.items():
        for method in descriptor.method:
            if method.options.HasExtension(annotations_pb2.http):
                rule = method.options.Extensions[annotations_pb2.http]
                for one in (rule, *rule.additional_bindings):
                    yield _binding(service, method, one)


def _binding(service: str, method: pb.MethodDescriptorProto, rule: http_pb2.HttpRule) -> Binding:
    verb = str(rule.WhichOneof("pattern"))
    if verb not in VERBS:
        raise ValueError(f"{service}.{method.name}: the verb {verb} is not among {', '.join(VERBS)}")
    template = getattr(rule, verb)
    variables: list[str] = []
    constants: list[str] = []

    def written(match: re.Match[str]) -> str:
        (constants if match["value"] else variables).append(match["field"])
        return match["value"] or f"{{{match['field']}}}"

    path = _VARIABLE.sub(written, template)
    if "*" in path:
        raise ValueError(f"{service}.{method.name}: OpenAPI has no wildcards as in {template}")
    return Binding(service, method, verb, path, tuple(variables), tuple(constants), rule.body)
