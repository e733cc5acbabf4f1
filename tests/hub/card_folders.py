"""What tests of cards share: a card with nothing wrong, and converted folders in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.hub.card import lint
from hubtool.vision import PRESETS

SHA256 = "ab" * 32
URL = "https://example.org/digits.onnx"

SECTIONS = """# Digits

## Uses

Reading digits.

## Out-of-scope use

Reading letters.

## Bias, risks and limitations

Written by few hands.

## Training data

Scans.

## Results

Not measured.

## Usage

Run it.

## Citation

None.

## Environmental impact

Little.
"""
HEADER = "---\nlicense: mit\ntags:\n- digits\n---\n"
CLEAN = f"{HEADER}\n{SECTIONS}"


def rules(path: Path, **options: Any) -> set[tuple[str, int]]:
    """Rule and line of every problem of a card or a folder."""
    return {(problem.rule, problem.line) for problem in lint(path, **options)}


def small(folder: Path, *, difference: float | None = 3e-07, **meta: Any) -> Path:
    """A folder of a model named digits; `meta` is added to its metadata, None takes a key out."""
    gemm = Layer("dense", "Gemm", {"A": "x", "B": "W"}, ["h"], {"alpha": 1.0, "beta": 1.0})
    gemm.attrs |= {"transA": 0, "transB": 0}
    source = {"file": "digits.onnx", "sha256": SHA256, "size": 1234, "opset": 17}
    known = {"name": "digits", "source": source, "licence": "mit", "labels": ["zero", "one"]}
    known["preprocessing"] = PRESETS["imagenet"]
    graph = Graph(
        [gemm, Layer("relu", "Relu", {"X": "h"}, ["y"])],
        {"x": Value("tensor", "float32", ("N", 64))},
        {"y": Value("tensor", "float32", ("N", 2))},
        {"W": Tensor.of(np.ones((64, 2), np.float32))},
        meta={key: value for key, value in {**known, **meta}.items() if value is not None},
    )
    native.write(graph, folder)
    status = "not verified" if difference is None else "passed"
    verification = {
        "status": status,
        "judge": "ONNX Runtime 1.32.0",
        "inputs": "seeded inputs (x [1, 64])",
        "difference": difference,
        "tolerance": 1e-4,
        "reason": "it was not asked for" if difference is None else "",
    }
    report = {"source": source, "verification": verification, "hubtool": "0.1.0"}
    (folder / "report.json").write_text(json.dumps(report))
    return folder
