"""HTTP/1.1 calls for tests of the edge, and gRPC-Web's frames by hand."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.stack.stack import Stack

TIMEOUT_SECONDS = 120
GRPC_WEB = "application/grpc-web+proto"


@dataclass(frozen=True)
class Reply:
    """A whole answer; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


@contextmanager
def opened(
    stack: Stack, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Sends a request and yields the reply once its headers are there. What is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection(stack.address, timeout=TIMEOUT_SECONDS)
    if stack.secured is not None:
        trusted = ssl.create_default_context(cadata=stack.secured.credentials.root_certificates.decode())
        connection = http.client.HTTPSConnection(stack.address, timeout=TIMEOUT_SECONDS, context=trusted)
    own = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        own.setdefault("content-type", "application/json")
    try:
        connection.request(verb, path, body, own)
        yield connection.getresponse()
    finally:
        connection.close()


def call(stack: Stack, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Sends a request and returns the whole reply."""
    with opened(stack, verb, path, body, headers) as reply:
        names = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, names, reply.read())


def violations(reply: Reply) -> dict[str, str]:
    """What is wrong with which field, as an error's details tell."""
    found = [detail for detail in reply.json["details"] if detail["@type"].endswith("google.rpc.BadRequest")]
    return {one["field"]: one["description"] for detail in found for one in detail["field_violations"]}


def framed(message: Any) -> bytes:
    """A message as the body of a gRPC-Web request."""
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + bytes(data)


def frames(reply: http.client.HTTPResponse) -> Iterator[tuple[bool, bytes]]:
    """The frames of a gRPC-Web reply as they come: whether it is the trailers, and the bytes."""
    while head := reply.read(5):
        yield bool(head[0] & 0x80), reply.read(int.from_bytes(head[1:], "big"))


def trailers(data: bytes) -> dict[str, str]:
    """The trailers that a gRPC-Web reply ends with."""
    return dict(line.split(":", 1) for line in data.decode().split("\r\n") if line)
