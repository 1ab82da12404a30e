"""Compiles the kernels for this CPU, once, and loads them.

    python -m services.models.kernels.build

does it ahead of time and prints where the libraries are. `ANTIPHON_KERNELS` names the folder that keeps it; the default
is in the user's cache. The compiler is `$CXX`, or the first of c++, g++, clang++ that is there.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch  # noqa: F401  (its OpenMP must be there first: two of them would fight for the cores)

_log = logging.getLogger("antiphon.kernels")
_FOLDER = Path(__file__).parent
_SOURCES = sorted([*_FOLDER.glob("*.cpp"), *_FOLDER.glob("*.h")])
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi"]


class NoCompiler(Exception):
    """The kernels can't be built here; the message says why."""


def load(name: str = "decoder") -> ctypes.CDLL:
    """Return the kernels of one of the sources, compiled for this CPU; what was compiled before is used again.

    Raises:
        NoCompiler: there is no compiler, it fails, or what it made can't be loaded.
    """
    library = build(name)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:  # a folder that nothing may run from, or a disk that was full
        raise NoCompiler(f"the library can't be loaded: {error}") from error


def build(name: str = "decoder") -> Path:
    """Compile ``name``.cpp unless that has been done, and return the library's path.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """
    command = _compiler()
    digest = hashlib.sha256(repr((command, _FLAGS, _cpu())).encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    for folder in _folders():
        library = folder / f"{name}-{digest.hexdigest()[:16]}.so"
        if library.exists():
            return library
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Under another name first: two services may start at once.
            handle, fresh = tempfile.mkstemp(dir=folder, suffix=".so")
        except OSError:
            continue  # read-only
        os.close(handle)
        _compile(command, _FOLDER / f"{name}.cpp", Path(fresh))
        os.replace(fresh, library)
        return library
    raise NoCompiler("no folder to keep the library in can be written; hint: set ANTIPHON_KERNELS to one that can")


def _compile(command: list[str], source: Path, library: Path) -> None:
    arguments = [*command, *_FLAGS, "-o", str(library), str(source)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except OSError as error:
        library.unlink()
        raise NoCompiler(f"{command[0]}: {error}") from error
    if done.returncode:
        library.unlink()
        raise NoCompiler(f"{shlex.join(arguments)}: {done.stderr[-2000:]}")
    library.chmod(0o755)  # a temporary file is its owner's alone, and an image is run by another user
    _log.info("kernels compiled", extra={"library": str(library)})


def _compiler() -> list[str]:
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"]) or ["c++"]
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NoCompiler("no C++ compiler is there; hint: install g++, or set CXX")


def _folders() -> Iterator[Path]:
    if "ANTIPHON_KERNELS" in os.environ:
        yield Path(os.environ["ANTIPHON_KERNELS"])
        return
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphon"
    # This process's own: what lies under a name that others can guess might be theirs.
    yield Path(tempfile.mkdtemp(prefix="antiphon-"))


def _cpu() -> str:
    """Return what tells this CPU from others that can't run the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("flags", "features", "model name")
    return "\n".join(sorted({line for line in lines if line.lower().startswith(names)}))


if __name__ == "__main__":
    for source in sorted(_FOLDER.glob("*.cpp")):
        print(build(source.stem))
