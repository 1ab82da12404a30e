"""Where each process of the stack listens: always on loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from services.stack.errors import PortTakenError

HOST = "127.0.0.1"

SERVICES: Mapping[str, str] = MappingProxyType(
    {
        "generator": "antiphon.v1.GeneratorService",
        "codec": "antiphon.v1.CodecService",
        "analyzer": "antiphon.v1.AnalyzerService",
    }
)
"""Name of folder, Envoy cluster and process → the gRPC service, which is the name in health checks too."""


@dataclass(frozen=True)
class Ports:
    """TCP ports of the stack; the defaults are those that the documentation names."""

    edge: int = 8080
    admin: int = 9901
    services: Mapping[str, int] = field(default_factory=lambda: dict(zip(SERVICES, range(50051, 50054), strict=True)))
    metrics: Mapping[str, int] = field(default_factory=lambda: dict(zip(SERVICES, range(9101, 9104), strict=True)))
    watch: Mapping[str, int] = field(default_factory=lambda: dict(zip(SERVICES, range(9111, 9114), strict=True)))
    """Where sidecars answer probes; there are some in a secured stack only."""

    @classmethod
    def free(cls, *, edge: int | None = None) -> Self:
        """Ports that nothing uses now; `edge` where it is given."""
        count = 2 + 3 * len(SERVICES)
        with contextlib.ExitStack() as held:
            # All are held until the last is drawn, so that no two are the same.
            sockets = [held.enter_context(socket.socket()) for _ in range(count)]
            for one in sockets:
                one.bind((HOST, 0))
            ports = [int(one.getsockname()[1]) for one in sockets]
        return cls(
            edge=ports[0] if edge is None else edge,
            admin=ports[1],
            services=dict(zip(SERVICES, ports[2:], strict=False)),
            metrics=dict(zip(SERVICES, ports[2 + len(SERVICES) :], strict=False)),
            watch=dict(zip(SERVICES, ports[2 + 2 * len(SERVICES) :], strict=True)),
        )

    def check(self, services: Iterable[str], *, secure: bool = False) -> None:
        """Raises PortTakenError for the first port in use, of Envoy, these services and, if `secure`, sidecars."""
        wanted = {"Envoy": self.edge, "Envoy's admin": self.admin}
        for name in services:
            wanted[name] = self.services[name]
            wanted[f"{name}'s metrics"] = self.metrics[name]
            if secure:
                wanted[f"{name}'s sidecar"] = self.watch[name]
        for name, port in wanted.items():
            with socket.socket() as probe:
                # As servers do: a port whose last connections only linger is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise PortTakenError(name, port) from error
