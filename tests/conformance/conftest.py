"""The suite's cases as parameters, and the known failures of each backend as strict ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from .strict import DTYPES
from .suite import cases

BACKENDS = ("numpy", "torch", "onnxruntime", "strict")
KNOWN = Path(__file__).with_name("known_failures")


def known_failures(name: str) -> dict[str, str]:
    """Case -> why it fails: the comment above its group in the file of that name."""
    failures: dict[str, str] = {}
    reason = ""
    for line in (KNOWN / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line:
            assert reason, f"{line} of {name}.txt has no reason above it"
            assert line not in failures, f"{line} stands twice in {name}.txt"
            failures[line] = reason
    return failures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs on the suite; one that takes `backend` too, on every one."""
    if "case" not in metafunc.fixturenames:
        return
    if "backend" not in metafunc.fixturenames:
        listed = metafunc.module.KNOWN_FAILURES
        known = known_failures(listed)
        chosen = [pytest.param(c, id=n, marks=_marks(known.get(n))) for n, c in cases().items()]
        metafunc.parametrize("case", chosen)
        return
    metafunc.parametrize(
        ("backend", "case"),
        [
            pytest.param(backend, case, id=f"{backend}-{name}", marks=_marks(known.get(name)))
            for backend in BACKENDS
            for known in [known_failures(backend)]
            for name, case in cases().items()
            if backend != "strict" or case.dtypes <= DTYPES
        ],
    )


def _marks(reason: str | None) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
