"""Compiles the kernels for this CPU, once, and loads them.

    python -m services.models.kernels.build [--portable]

does it ahead of time and prints where the libraries are. `ANTIPHON_KERNELS` names the folder that keeps them; the
default is in the user's cache. The compiler is `$CXX`, or the first of c++, g++, clang++ that is there. With
``--portable`` the folder gets a library for each level of processors, from which any machine of the architecture takes
the best that it can run, and needs no compiler: for images, which are built elsewhere than where they run.
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
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch  # noqa: F401  (its OpenMP must be there first: two of them would fight for the cores)

_log = logging.getLogger("antiphon.kernels")
_FOLDER = Path(__file__).parent
_SOURCES = sorted([*_FOLDER.glob("*.cpp"), *_FOLDER.glob("*.h")])
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi"]
_V3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm"}
_V4 = {*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_LEVELS = {
    "x86_64": {
        "x86-64-v4-bf16": ("x86-64-v4 -mavx512vnni -mavx512bf16", {*_V4, "avx512_vnni", "avx512_bf16"}),
        "x86-64-v4-vnni": ("x86-64-v4 -mavx512vnni", {*_V4, "avx512_vnni"}),
        "x86-64-v4": ("x86-64-v4", _V4),
        "x86-64-v3": ("x86-64-v3", _V3),
    },
    "aarch64": {"armv8-a": ("armv8-a", {"asimd"})},
}
"""Of each architecture, best first: the compiler's name of it, and what the processor must say that it has."""


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
    portable = _portable(name)
    if portable is not None:
        return portable
    command = _compiler()
    key = _digest(repr((command, _FLAGS, _cpu())))
    for folder in _folders():
        library = folder / f"{name}-{key}.so"
        if library.exists():
            return library
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Under another name first: two services may start at once.
            handle, fresh = tempfile.mkstemp(dir=folder, suffix=".so")
        except OSError:
            continue  # read-only
        os.close(handle)
        _compile([*command, *_FLAGS], _FOLDER / f"{name}.cpp", Path(fresh))
        os.replace(fresh, library)
        return library
    raise NoCompiler("no folder to keep the library in can be written; hint: set ANTIPHON_KERNELS to one that can")


def build_portable() -> list[Path]:
    """Compile every source for every level of this architecture, and return the libraries' paths.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """
    folder, libraries = next(_folders()), []
    folder.mkdir(parents=True, exist_ok=True)
    for level, (machine, _) in _LEVELS.get(platform.machine(), {}).items():
        flags = shlex.split(" ".join(_FLAGS).replace("native", machine))
        for source in sorted(_FOLDER.glob("*.cpp")):
            library = folder / f"{source.stem}-{level}-{_digest()}.so"
            _compile([*_compiler(), *flags], source, library)
            libraries.append(library)
    return libraries


def _portable(name: str) -> Path | None:
    """Return what `build_portable` made of a source that this processor runs, the best of it."""
    lines = [line for line in _cpu().splitlines() if line.lower().startswith(("flags", "features"))]
    here = set(lines[0].split()) if lines else set()
    for level, (_, needed) in _LEVELS.get(platform.machine(), {}).items():
        library = next(_folders(), Path()) / f"{name}-{level}-{_digest()}.so"
        if needed <= here and library.exists():
            return library
    return None


def _digest(more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(command: list[str], source: Path, library: Path) -> None:
    arguments = [*command, "-o", str(library), str(source)]
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
    made = build_portable() if "--portable" in sys.argv[1:] else [build(path.stem) for path in _FOLDER.glob("*.cpp")]
    print(*sorted(made), sep="\n")
