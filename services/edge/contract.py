"""The protos as data: every message, enum and method by its full name, with its comment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf import descriptor_pb2 as pb

# Numbers of the fields by which descriptor.proto's source info says where a comment stands.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE, _SERVICE_METHOD = 2, 2


@dataclass(frozen=True)
class Contract:
    """A set of proto files.

    Attributes:
        messages: by full name, without a leading dot.
        enums: likewise.
        services: likewise; those of ``package`` only.
        comments: by the full name of what they stand above ("antiphon.v1.CodeFrames.data"), unwrapped.
    """

    messages: dict[str, pb.DescriptorProto] = field(default_factory=dict)
    enums: dict[str, pb.EnumDescriptorProto] = field(default_factory=dict)
    services: dict[str, pb.ServiceDescriptorProto] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, files: pb.FileDescriptorSet, package: str) -> Contract:
        """Read files that protoc wrote with --include_source_info."""
        contract = cls()
        for file in files.file:
            names = dict(contract._add_file(file, package))
            for location in file.source_code_info.location:
                name = names.get(tuple(location.path))
                if name and location.leading_comments:
                    contract.comments[name] = unwrapped(location.leading_comments)
        return contract

    def comment(self, name: str) -> str:
        """Return what is written above something; empty where nothing is."""
        return self.comments.get(name, "")

    def _add_file(self, file: pb.FileDescriptorProto, package: str) -> Iterator[tuple[tuple[int, ...], str]]:
        for index, message in enumerate(file.message_type):
            yield from self._add_message(message, file.package, (_FILE_MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            yield from self._add_enum(enum, file.package, (_FILE_ENUM, index))
        if file.package != package:
            return
        for index, service in enumerate(file.service):
            name = f"{file.package}.{service.name}"
            self.services[name] = service
            yield (_FILE_SERVICE, index), name
            for number, method in enumerate(service.method):
                yield (_FILE_SERVICE, index, _SERVICE_METHOD, number), f"{name}.{method.name}"

    def _add_message(
        self, message: pb.DescriptorProto, scope: str, path: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        name = f"{scope}.{message.name}"
        self.messages[name] = message
        yield path, name
        for index, one in enumerate(message.field):
            yield (*path, _MESSAGE_FIELD, index), f"{name}.{one.name}"
        for index, oneof in enumerate(message.oneof_decl):
            yield (*path, _MESSAGE_ONEOF, index), f"{name}.{oneof.name}"
        for index, nested in enumerate(message.nested_type):
            yield from self._add_message(nested, name, (*path, _MESSAGE_NESTED, index))
        for index, enum in enumerate(message.enum_type):
            yield from self._add_enum(enum, name, (*path, _MESSAGE_ENUM, index))

    def _add_enum(
        self, enum: pb.EnumDescriptorProto, scope: str, path: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        name = f"{scope}.{enum.name}"
        self.enums[name] = enum
        yield path, name
        for index, value in enumerate(enum.value):
            yield (*path, _ENUM_VALUE, index), f"{name}.{value.name}"


def unwrapped(comment: str) -> str:
    """Join the lines of a comment to paragraphs, with an empty line between two of them."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in comment.replace("\n \n", "\n\n").split("\n\n")]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
