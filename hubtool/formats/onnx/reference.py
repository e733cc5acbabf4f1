"""onnx's own reference implementation: the second judge, where ONNX Runtime refuses a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

__all__ = ["run_file", "version"]

version = onnx.__version__


def run_file(path: str | os.PathLike[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an ONNX file, run as it is. Raises whatever the reference raises."""
    evaluator = ReferenceEvaluator(os.fspath(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))
