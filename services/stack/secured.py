"""The production path on this machine: TLS and keys at the edge, a sidecar beside each service, Unix sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.stack import credentials, edge
from services.stack.credentials import Credentials
from services.stack.ports import HOST, Ports

_NAMES = ("localhost", HOST)


class Secured:
    """Files of a secured stack: configurations, certificates, keys, sockets.

    The folder holds, for the edge and for each sidecar, what Kubernetes mounts at /etc/envoy.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.credentials = Credentials()
        # Of its own and short: the path of a Unix socket may have 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="antiphon-"))
        self._folder = folder
        self._ports = ports

    def socket(self, name: str) -> Path:
        """Where a service listens."""
        return self._sockets / name / "service.sock"

    def edge(self, configuration: str, clusters: Mapping[str, Sequence[edge.Address]]) -> Path:
        """Writes all that the edge reads and returns its configuration, `configuration` with local addresses."""
        config = edge.render(
            configuration,
            edge=(HOST, self._ports.edge),
            admin=(HOST, self._ports.admin),
            clusters=clusters,
            places=self._mounts("edge"),
        )
        self._write_sds("edge", "public", "workload", "authority")
        self.mount_public(*_NAMES)
        self.mount_workload("edge")
        self.mount_identity(self.credentials.identity())
        return self._write("envoy.yaml", config)

    def sidecar(self, name: str) -> Path:
        """Writes all that a service's sidecar reads and returns its configuration."""
        self.socket(name).parent.mkdir(mode=0o700)
        config = edge.render_sidecar(
            edge.SIDECAR.read_text(),
            inbound=(HOST, self._ports.services[name]),
            watch=(HOST, self._ports.watch[name]),
            metrics=(HOST, self._ports.metrics[name]),
            places={**self._mounts(name), edge.SOCKETS: self.socket(name).parent},
        )
        self._write_sds(name, "workload", "authority")
        self.mount_workload(name)
        return self._write(f"{edge.sidecar_name(name)}.yaml", config)

    def mount_public(self, *names: str) -> None:
        """Gives the edge a new certificate for callers."""
        credentials.mount(self._folder / "edge" / "tls" / "public", self.credentials.public(*names))

    def mount_workload(self, name: str) -> None:
        """Gives the edge ("edge") or a service's sidecar a new certificate for the others."""
        credentials.mount(self._folder / name / "tls" / "workload", self.credentials.workload(name))

    def mount_identity(self, files: Mapping[str, bytes]) -> None:
        """Changes who may call."""
        credentials.mount(self._folder / "edge" / "identity", files)

    def close(self) -> None:
        """Removes the sockets; the folder is its owner's."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _mounts(self, name: str) -> dict[str, Path]:
        return {f"{edge.MOUNT}/{part}": self._folder / name / part for part in ("sds", "tls", "identity")}

    def _write_sds(self, name: str, *resources: str) -> None:
        for resource in resources:
            text = edge.moved((edge.SDS / f"{resource}.yaml").read_text(), self._mounts(name))
            self._write(f"{name}/sds/{resource}.yaml", text)

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
