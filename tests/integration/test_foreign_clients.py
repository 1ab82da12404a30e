"""Clients that are not ours against the real stack: Connect for Node, k6, grpcurl. curl is in test_rest.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import google.api
import pytest

from services.stack import edge
from services.stack.stack import Stack
from tests.conftest import require

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROTO_INCLUDE = Path(next(iter(google.api.__path__))).parents[1]


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """What a command prints. A failure shows all that it said."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def connect() -> Path:
    """Connect for Node as the lock file has it, in a folder that is kept between runs."""
    folder = ROOT / ".cache" / "node"
    folder.mkdir(parents=True, exist_ok=True)
    installed, wanted = folder / "installed-lock.json", (HERE / "node" / "package-lock.json").read_text()
    if not installed.exists() or installed.read_text() != wanted:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, folder)
        run(require("npm"), "ci", "--no-audit", "--no-fund", folder=folder)
        installed.write_text(wanted)
    # Node looks for packages beside the program.
    return Path(shutil.copy(HERE / "node" / "connect.mjs", folder))


@pytest.mark.parametrize("protocol", ["grpc", "grpc-web"])
def test_connect_for_node(stack: Stack, connect: Path, protocol: str) -> None:
    url = f"http://{stack.address}"
    seen: dict[str, Any] = json.loads(run(require("node"), connect, protocol, url, edge.REST / "antiphon.pb"))
    assert seen.pop("models")[0] == "tiny"
    assert seen.pop("fields") == ["config.duration"]
    # Two seconds of credit, and what was made when it said stop.
    assert 2 <= seen.pop("seconds") < 60
    assert seen == {
        "health": "healthy",
        "error": "InvalidArgument",
        "paused": True,
        "reason": 2,
        **({"bidi": 2} if protocol == "grpc" else {}),
    }


def test_k6(stack: Stack) -> None:
    variables = {"TARGET": stack.address, "PROTOS": ROOT / "protos", "INCLUDE": PROTO_INCLUDE}
    given = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    run(require("k6"), "run", "--quiet", "--no-usage-report", *given, HERE / "k6.js")


def test_grpcurl(stack: Stack) -> None:
    """With no proto file at hand: what it knows, reflection has told it."""

    def grpcurl(*arguments: str) -> str:
        return run(require("grpcurl"), "-plaintext", *arguments)

    services = grpcurl(stack.address, "list").split()
    assert {"antiphon.v1.GeneratorService", "antiphon.v1.SystemService"} <= set(services)
    assert "rpc OpenGeneration" in grpcurl(stack.address, "describe", "antiphon.v1.GeneratorService")
    config = {"prompts": [{"text": "slow sad piano"}], "duration": "1s", "seed": 1}
    method = "antiphon.v1.GeneratorService/StreamGenerate"
    replies = grpcurl("-d", json.dumps({"config": config}), stack.address, method)
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(replies.rstrip()):
        reply, position = decoder.raw_decode(replies, position)
        position += len(replies[position:]) - len(replies[position:].lstrip())
        found.append(reply)
    assert "started" in found[0] and "finished" in found[-1]
    assert sum(one["audio"]["sample_count"] for one in found if "audio" in one) == 32_000
