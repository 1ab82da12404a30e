"""Throw-away certificates and API keys for a secured stack on this machine, laid out as Kubernetes mounts Secrets.

Two authorities: one for the certificate that callers see, one for those that the processes show to each other, so that
the first can't be used to get past the edge.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import trustme
import yaml

DOMAIN = "antiphon.internal"
"""Under it each kind of pod has a name of its own, as in "generator.antiphon.internal"; nothing resolves it."""

_versions = itertools.count()


class Credentials:
    """Makes certificates; `api_key` is one of a client named "local"."""

    def __init__(self) -> None:
        self._public = trustme.CA(organization_name="Antiphon, throw-away")
        self._mesh = trustme.CA(organization_name="Antiphon, throw-away")
        self.api_key = secrets.token_urlsafe(24)

    @property
    def root_certificates(self) -> bytes:
        """What a caller has to trust, as PEM."""
        return self._public.cert_pem.bytes()

    def public(self, *names: str) -> dict[str, bytes]:
        """Files of a new certificate for callers, for these names and addresses."""
        return _files(self._public, *names)

    def workload(self, name: str) -> dict[str, bytes]:
        """Files of a new certificate for the pods that are named so ("edge", "codec")."""
        return _files(self._mesh, f"{name}.{DOMAIN}")

    def identity(self) -> dict[str, bytes]:
        """The file that names who may call."""
        return {"identity.yaml": api_keys({self.api_key: "local"})}


def api_keys(clients: Mapping[str, str]) -> bytes:
    """Returns the text of identity.yaml: API key → the client whose it is, who becomes x-client-id."""
    check = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
        "credentials": [{"key": key, "client": client} for key, client in clients.items()],
        "key_sources": [{"header": "authorization"}, {"header": "x-api-key"}],
        "forwarding": {"header": "x-client-id", "hide_credentials": True},
    }
    return identity(check)


def identity(check: Mapping[str, object]) -> bytes:
    """Returns the text of identity.yaml for any filter that the edge takes there."""
    resource = {
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "identity",
        "typed_config": dict(check),
    }
    return yaml.safe_dump({"resources": [resource]}, sort_keys=False).encode()


def mount(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files as kubelet does: all change at one moment, by one renamed link, and watchers see that.

    Args:
        folder: made if need be, for its owner alone.
        files: name → content; those of an earlier call that are not among them are left as dead links.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    version = folder / f"..{next(_versions)}"
    version.mkdir(mode=0o700)
    for name, content in files.items():
        (version / name).write_bytes(content)
        (version / name).chmod(0o600)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    data, fresh = folder / "..data", folder / "..data_tmp"
    old = data.resolve() if data.is_symlink() else None
    fresh.symlink_to(version.name)
    os.replace(fresh, data)
    if old is not None:
        shutil.rmtree(old)


def _files(authority: trustme.CA, *names: str) -> dict[str, bytes]:
    leaf = authority.issue_cert(*names)
    return {
        "tls.crt": b"".join(pem.bytes() for pem in leaf.cert_chain_pems),
        "tls.key": leaf.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }
