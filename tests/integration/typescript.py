"""What the tests of the TypeScript client and of the page share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import playwright

from services.stack.stack import ROOT
from tests.conftest import require

CLIENT = ROOT / "clients" / "typescript"
NODE = Path(playwright.__file__).parent / "driver" / "node"
"""Node as Playwright ships it: the client wants 20 or newer, and not every system's is."""
_LOCK = CLIENT / "package-lock.json"
_STAMP = CLIENT / "node_modules" / ".installed"
_INSTALL_SECONDS = 240


def installed() -> Path:
    """Returns the folder of the TypeScript client, with the packages that its lock file names."""
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    (ROOT / ".cache").mkdir(exist_ok=True)
    # Tests of several processes ask for it; one installs.
    with (ROOT / ".cache" / "typescript.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not _STAMP.exists() or _STAMP.read_text() != wanted:
            # npm goes with the system's Node, whichever that is.
            path = os.environ.get("PATH", os.defpath)
            command = (require("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            run(*command, timeout=_INSTALL_SECONDS, PATH=path)
            _STAMP.write_text(wanted)
    return CLIENT


def run(*command: str, timeout: float = 120, **environment: str) -> str:
    """Runs a command in the client's folder and returns what it printed; fails with it when it fails."""
    path = os.pathsep.join([str(NODE.parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        command,
        cwd=CLIENT,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
