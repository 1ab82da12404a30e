"""The wheel that is published: the client and nothing else, and no torch in what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = {
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-status",
    "numpy",
    "protobuf",
    "rich",
    "typer",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [
        uv,
        "build",
        "--wheel",
        "--no-build-isolation",
        "--offline",
        "--python",
        sys.executable,
    ]
    done = subprocess.run(
        [*command, "--out-dir", folder, ROOT], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (n for n in wheel.namelist() if re.fullmatch(rf"antiphon-[^/]*\.dist-info/{name}", n))
    return wheel.read(path).decode()


def test_only_the_client_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"antiphon"}
    assert not [name for name in names if "__pycache__" in name]
    files = {name.removeprefix("antiphon/") for name in names if name.startswith("antiphon/")}
    assert {"py.typed", "client.py", "async_client.py", "cli.py", "errors.py"} <= files
    for service in ("audio", "generator", "codec", "analyzer"):
        assert {f"v1/{service}_pb2.py", f"v1/{service}_pb2.pyi", f"v1/{service}_pb2_grpc.py"} <= files


def test_it_needs_neither_torch_nor_audiocraft(wheel: zipfile.ZipFile) -> None:
    needed = HeaderParser().parsestr(read(wheel, "METADATA")).get_all("Requires-Dist") or []
    always = {re.split(r"[^\w.-]", line)[0].lower() for line in needed if "extra ==" not in line}
    assert always == CLIENT


def test_it_brings_the_command(wheel: zipfile.ZipFile) -> None:
    assert "antiphon = antiphon.cli:main" in read(wheel, r"entry_points\.txt")
