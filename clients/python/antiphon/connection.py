"""How both clients reach the services: one address, its credentials, the metadata of a call."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import grpc

from antiphon.results import Service
from antiphon.v1 import analyzer_pb2_grpc, codec_pb2_grpc, generator_pb2_grpc

DEFAULT_TARGET: Final = "localhost:8080"

try:
    VERSION = version("antiphon")
except PackageNotFoundError:
    # On the path without being installed, as the stubs are in the services' images.
    VERSION = "0"

CHANNEL_OPTIONS: Final[Sequence[tuple[str, str | int]]] = (
    ("grpc.primary_user_agent", f"antiphon/{VERSION}"),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A paused stream is silent: pings find out that the other side is gone. By default gRPC sends no more
    # than two of them without data, which is as many as a gRPC server with default settings puts up with.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

STUBS: Final = {
    Service.GENERATOR: generator_pb2_grpc.GeneratorServiceStub,
    Service.CODEC: codec_pb2_grpc.CodecServiceStub,
    Service.ANALYZER: analyzer_pb2_grpc.AnalyzerServiceStub,
}


@dataclass(frozen=True)
class Connection:
    """An address, and who calls. `credentials` is None for a connection without TLS."""

    target: str
    api_key: str = field(default="", repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    @classmethod
    def resolve(
        cls,
        target: str | None = None,
        *,
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: bytes | None = None,
    ) -> Connection:
        """Fills what is not given from ANTIPHON_TARGET and ANTIPHON_API_KEY. Root certificates turn TLS on.

        Raises:
            ValueError: The API key holds what can't stand in a header.
        """
        api_key = (os.environ.get("ANTIPHON_API_KEY", "") if api_key is None else api_key).strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key: only printable ASCII characters are possible")
        credentials = None
        if tls or root_certificates is not None:
            credentials = grpc.ssl_channel_credentials(root_certificates)
        return cls(target or os.environ.get("ANTIPHON_TARGET") or DEFAULT_TARGET, api_key, credentials)

    def metadata(self, request_id: str, service: Service | None = None) -> tuple[tuple[str, str], ...]:
        """Returns a call's metadata. `service` routes what has one path for all services."""
        pairs = [("x-request-id", request_id)]
        if self.api_key:
            pairs.append(("authorization", f"Bearer {self.api_key}"))
        if service is not None:
            pairs.append(("x-antiphon-service", service.value))
        return tuple(pairs)


def new_request_id() -> str:
    """Returns the id under which a call will be found in the logs."""
    return str(uuid.uuid4())


def time_left(timeout: float | None) -> Callable[[], float | None]:
    """Returns what says how much of a timeout is left, counted from its first call; never below 0."""
    end: float | None = None

    def left() -> float | None:
        nonlocal end
        if timeout is None:
            return None
        if end is None:
            end = time.monotonic() + timeout
            return timeout
        return max(0.0, end - time.monotonic())

    return left
