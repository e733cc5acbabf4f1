"""What is known to fail, and why: one file a backend under known_failures/.

A file holds the names of cases, a line each, in groups; the comment above a group is the reason.
Strict in both directions: a case that fails must stand there, and one that passes must not.
"""

from __future__ import annotations

from pathlib import Path

from .strict import DTYPES
from .suite import Case

__all__ = ["BACKENDS", "FILES", "known_failures", "runs"]

BACKENDS = ("numpy", "native", "torch", "xla", "onnxruntime", "openvino", "strict")
FILES = Path(__file__).with_name("known_failures")


def known_failures(name: str) -> dict[str, str]:
    """Case -> why it fails: the comment above its group in the file of that name."""
    failures: dict[str, str] = {}
    reason = ""
    for line in (FILES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line:
            assert reason, f"{line} of {name}.txt has no reason above it"
            assert line not in failures, f"{line} stands twice in {name}.txt"
            failures[line] = reason
    return failures


def runs(backend: str, case: Case) -> bool:
    """Whether a case is run there at all. The array API standard has few dtypes; ONNX Runtime's
    StringNormalizer wants a locale that a machine may have or not."""
    if backend == "onnxruntime":
        return "StringNormalizer" not in case.operators
    return backend != "strict" or case.dtypes <= DTYPES
