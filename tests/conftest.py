"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.stack.stack import Stack

# A shell starts what runs in its background with Ctrl-C ignored, and programs hand that on: some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def require(part: str) -> str:
    """Returns the path of the program `part` of this environment or of the system.

    A test that needs one which is not installed is skipped; with ANTIPHON_REQUIRE_ALL=1, as in CI, it fails.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if found := shutil.which(part, path=places):
        return found
    if os.environ.get("ANTIPHON_REQUIRE_ALL") == "1":
        pytest.fail(f"{part} is not installed")
    pytest.skip(f"{part} is not installed")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services with their embedded models behind the real Envoy. Shared: leave it as it was."""
    with Stack(folder=tmp_path_factory.mktemp("stack")) as running:
        yield running
