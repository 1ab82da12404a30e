"""`python -m tests.kubernetes.imports MODULE...`: import what the services import, as if these were not there.

Imports inside functions are followed too: most of AudioCraft is imported when a model is loaded.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from services.stack.ports import SERVICES

ROOT = Path(__file__).parents[2]


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            # Those of a package may be modules themselves.
            found |= {f"{node.module}.{each.name}" for each in node.names if own(f"{node.module}.{each.name}").exists()}
    return found


def own(module: str) -> Path:
    """Return where a module of the services is, if it is one."""
    return ROOT / f"{module.replace('.', '/')}.py"


def main() -> None:
    # Python takes None for a module that can't be found.
    sys.modules |= dict.fromkeys(sys.argv[1:])  # type: ignore[arg-type]
    seen: set[str] = set()
    waiting = {f"services.{name}.__main__" for name in SERVICES}
    while waiting:
        seen |= waiting
        for name in waiting:
            importlib.import_module(name)
        waiting = {each for name in waiting if own(name).exists() for each in imported(own(name))} - seen
    print(f"{len(seen)} modules imported")


if __name__ == "__main__":
    main()
