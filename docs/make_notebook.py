"""Writes examples/matmul_backends.ipynb: cells that call examples/matmul_backends.py, and what came
out of them on the machine that this ran on. (`python docs/make_notebook.py`)"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

__all__ = ["CELLS", "executed", "notebook"]

EXAMPLES = Path(__file__).parents[1] / "examples"

CELLS = [
    (
        "markdown",
        """# One product, every backend

`{10000, 784} x {784, 10}`, the product that Nx shows its backends with, on every backend and device
of hubtool. The functions stand in `matmul_backends.py` beside this notebook; run it from that
folder. What you see below was measured on the machine that is named below.""",
    ),
    (
        "code",
        """from pathlib import Path

import hubtool
from hubtool.bench.machine import facts, sentence
from matmul_backends import Picture, measure, operands, plot, product_graph, say, table
from matmul_backends import there_and_back""",
    ),
    (
        "markdown",
        """## Switched in a line

A model is a graph on a backend. The default is set for the process, a block or a model.""",
    ),
    (
        "code",
        """A, B = operands()
for backend in hubtool.backends():
    if backend["available"]:
        with hubtool.default_backend(backend["name"]):
            Y = hubtool.load(product_graph()).run({"A": A, "B": B})["Y"]
            print(f"{backend['name']:<12} {Y.shape}  Y[0,0] = {Y[0, 0]:.4f}")""",
    ),
    ("code", "print(sentence(facts()))"),
    (
        "markdown",
        """## Measured

`hubtool.transfer` moves the operands, `returns="device"` leaves the result where it was made, and
`hubtool.transfer` brings it back; the three are timed apart, all places in turn, medians in
milliseconds. *Pure Python* walks through packed bytes as Nx.BinaryBackend does, on a slice of the
rows, and is extrapolated.""",
    ),
    ("code", "rows = measure(rounds=15)\nprint(table(rows))"),
    ("code", 'plot(rows, Path("matmul.svg"))\nPicture(Path("matmul.svg"))'),
    (
        "markdown",
        """## There and back

The same numbers on the CPU, on another device and on the CPU again, in one process. Where there is
no other device, jax shows the CPU as two of them, and the next cell says so.""",
    ),
    ("code", "told = there_and_back()\nprint(say(told))"),
]


def executed(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a code cell gives: what it prints, and its last line's value as a picture."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value: Any = None
    with redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed)})
    if hasattr(value, "_repr_svg_"):
        data = {"image/svg+xml": lines(io.StringIO(value._repr_svg_()))}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def lines(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines(keepends=True)


def notebook() -> dict[str, Any]:
    """The whole notebook, its code cells run in order; in a folder that is thrown away."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    sys.path.insert(0, str(EXAMPLES))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for count, (kind, source) in enumerate(CELLS):
                cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{count}", "metadata": {}}
                if kind == "code":
                    order = sum(kind == "code" for kind, _ in CELLS[: count + 1])
                    cell |= {"execution_count": order, "outputs": executed(source, names)}
                cells.append({**cell, "source": source.splitlines(keepends=True)})
        finally:
            os.chdir(before)
            sys.path.remove(str(EXAMPLES))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    text = json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"
    (EXAMPLES / "matmul_backends.ipynb").write_text(text, encoding="utf-8")
