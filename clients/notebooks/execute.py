"""Runs notebooks without Jupyter, and keeps what their cells show.

    ANTIPHON_TARGET=localhost:8080 python clients/notebooks/execute.py clients/notebooks/*.ipynb

Cells are plain Python in one namespace. The value of a last expression is shown as a notebook would: by its HTML, as a
picture, or as text. The notebooks are rewritten in place, or in the folder that --out names.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any


def shown(value: Any) -> dict[str, Any]:
    """Returns what a notebook keeps of a value, by media type."""
    if hasattr(value, "savefig"):
        file = io.BytesIO()
        # Spectrograms are noise to PNG.
        value.savefig(file, format="jpeg", dpi=80, bbox_inches="tight", pil_kwargs={"quality": 80})
        return {"image/jpeg": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    text = {"text/plain": type(value).__name__ if hasattr(value, "_repr_html_") else repr(value)}
    return {"text/html": value._repr_html_(), **text} if hasattr(value, "_repr_html_") else text


class Kernel:
    """Runs the cells of one notebook."""

    def __init__(self) -> None:
        self._outputs: list[dict[str, Any]] = []
        self._names: dict[str, Any] = {"__name__": "__main__", "display": self._display}
        self.count = 0

    def run(self, source: str) -> list[dict[str, Any]]:
        """Runs a cell and returns its outputs, as nbformat 4 has them. What it raises, it raises."""
        self.count += 1
        self._outputs = []
        name = f"cell {self.count}"
        tree = ast.parse(source, name)
        shown_last = None
        if tree.body and isinstance(last := tree.body[-1], ast.Expr):
            shown_last = ast.Expression(last.value)
            tree.body.pop()
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(compile(tree, name, "exec"), self._names)
            value = None if shown_last is None else eval(compile(shown_last, name, "eval"), self._names)
        if told.getvalue():
            lines = told.getvalue().splitlines(keepends=True)
            self._outputs.insert(0, {"name": "stdout", "output_type": "stream", "text": lines})
        if value is not None:
            result = {"output_type": "execute_result", "execution_count": self.count}
            self._outputs.append({**result, "data": shown(value), "metadata": {}})
        return self._outputs

    def _display(self, *values: Any) -> None:
        for value in values:
            self._outputs.append({"output_type": "display_data", "data": shown(value), "metadata": {}})


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Returns the notebook with fresh outputs."""
    kernel = Kernel()
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs = kernel.run("".join(cell["source"]))
            cell = {**cell, "outputs": outputs, "execution_count": kernel.count}  # noqa: PLW2901
        cells.append(cell)
    return {**notebook, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the results; default: in place")
    options = parser.parse_args()
    # Pictures are kept, not put on a screen.
    os.environ.setdefault("MPLBACKEND", "agg")
    for path in options.notebooks:
        begun = time.perf_counter()
        notebook = executed(json.loads(path.read_text(encoding="utf-8")))
        folder = options.out or path.parent
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        (folder / path.name).write_text(f"{text}\n", encoding="utf-8")
        print(f"{folder / path.name}; took {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
