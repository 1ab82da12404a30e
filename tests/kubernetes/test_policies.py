"""checkov's policies over every overlay; what it finds is explained in findings.yaml, or an error.

checkov pins versions that contradict ours (packaging below 24 and more), so it has a lock and an environment of its
own: requirements/policies.txt, installed once to .cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import require
from tests.kubernetes import render

LOCK = render.K8S.parent / "requirements" / "policies.txt"
CACHE = render.K8S.parent / ".cache" / "policies"


def checkov() -> Path:
    """Return the program, installed from the lock if it is not there yet."""
    folder = CACHE / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    program = folder / "bin" / "checkov"
    if not program.exists():
        uv = require("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--no-deps"]
        subprocess.run([*install, "--require-hashes", "-r", str(LOCK)], check=True)
    return program


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("policies")
    for name in render.OVERLAYS:
        (folder / f"{name}.yaml").write_text(render.build(render.K8S / "overlays" / name))
    command = [str(checkov()), "-d", str(folder), "--framework", "kubernetes", "-o", "json", "--quiet", "--compact"]
    done = subprocess.run(
        [*command, "--skip-download"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        # A key in the environment would make it send what it reads.
        env={name: value for name, value in os.environ.items() if name != "BC_API_KEY"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_finding_is_explained(report: dict[str, Any]) -> None:
    explained = yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text())
    assert all(each["why"] and each["finding"] for each in explained.values())
    found: dict[str, list[str]] = {}
    for each in report["results"]["failed_checks"]:
        found.setdefault(f"{each['check_id']} {each['check_name']}", []).append(each["resource"])
    unexplained = {check: where for check, where in found.items() if check.split()[0] not in explained}
    assert not unexplained
    assert {check.split()[0] for check in found} == explained.keys()


def test_the_policies_were_held_to_everything(report: dict[str, Any]) -> None:
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 500
    assert report["summary"]["resource_count"] > 100
