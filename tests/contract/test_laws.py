"""The laws of the architecture: what never imports what, and what is published."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("clients", "services", "tests")
TENSOR_LIBRARIES = {"torch", "torchaudio", "numpy", "numba", "jax", "audiocraft", "transformers"}
TORCH = {"torch", "torchaudio", "audiocraft", "transformers"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a module imports, inside functions too; relative ones aside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def modules(pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern))


def offenders(patterns: list[str], forbidden: set[str]) -> list[str]:
    paths = [path for pattern in patterns for path in modules(pattern)]
    assert paths, f"nothing matches {patterns}"
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in sorted(imported(path) & forbidden)]


def test_the_runtime_and_the_clients_never_import_torch() -> None:
    assert offenders(["services/runtime/**/*.py", "clients/**/*.py"], TORCH) == []


def test_the_models_never_import_grpc() -> None:
    assert offenders(["services/models/**/*.py"], {"grpc", "grpc_status", "grpc_health"}) == []


def test_a_scheduler_holds_no_tensor() -> None:
    assert offenders(["services/*/scheduler.py"], TENSOR_LIBRARIES) == []


def test_nothing_of_ours_is_named_audiocraft() -> None:
    assert [str(path) for folder in OURS for path in modules(f"{folder}/**/*audiocraft*")] == []
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in OURS
        for path in modules(f"{folder}/**/*.py")
        for node in definitions(path)
        if node.name.lower() == "audiocraft"
    ]
    assert named == []


def definitions(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_only_the_client_is_published() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["clients/python/antiphon"]
    needed = {requirement.partition(">")[0] for requirement in project["project"]["dependencies"]}
    assert not needed & TORCH


@pytest.mark.parametrize("module", ["antiphon", "antiphon.cli", "services.runtime.server"])
def test_importing_it_loads_no_torch(module: str) -> None:
    assert importlib.util.find_spec(module), f"{module} is missing"
    program = f"import sys, {module}; print(sorted({TORCH!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
