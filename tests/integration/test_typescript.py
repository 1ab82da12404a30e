"""The TypeScript client in Node against the real stack, and what is generated for it and for the page."""

from __future__ import annotations

import filecmp
import sys
from pathlib import Path

import google.api
import pytest

from services.stack.stack import ROOT, Stack
from tests.integration import typescript

PROTOS = ROOT / "protos"
OTHERS = (
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/api/httpbody.proto",
    "google/rpc/error_details.proto",
)
"""What ours import, and the details of errors."""


@pytest.fixture(scope="module", autouse=True)
def client() -> Path:
    return typescript.installed()


def test_types_hold_in_the_client_and_in_the_page(client: Path) -> None:
    for project in (".", "../web"):
        typescript.run(str(client / "node_modules/.bin/tsc"), "-p", project, "--noEmit")


def test_the_page_is_what_its_sources_give(client: Path) -> None:
    typescript.run(str(typescript.NODE), "bundle.mjs", "--check")


def test_the_stubs_are_what_the_protos_give(client: Path, tmp_path: Path) -> None:
    (include,) = {str(Path(path).parents[1]) for path in google.api.__path__}
    ours = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("antiphon/v1/*.proto"))
    plugin = f"--plugin=protoc-gen-es={client / 'node_modules/.bin/protoc-gen-es'}"
    options = [f"--es_out={tmp_path}", "--es_opt=target=ts,import_extension=js"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{include}", plugin, *options]
    typescript.run(*command, *ours, *OTHERS)
    committed = client / "src" / "gen"
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.ts")}
    assert made == {path.relative_to(committed) for path in committed.rglob("*.ts")}
    assert [path for path in made if not filecmp.cmp(tmp_path / path, committed / path, shallow=False)] == []


def test_the_client_in_node(client: Path, stack: Stack) -> None:
    typescript.run(str(client / "node_modules/.bin/tsc"), "-p", ".")
    told = typescript.run(
        str(typescript.NODE),
        "--test",
        "dist/tests/client.test.js",
        timeout=240,
        ANTIPHON_URL=f"http://{stack.address}",
    )
    assert "# fail 0" in told or "ℹ fail 0" in told
