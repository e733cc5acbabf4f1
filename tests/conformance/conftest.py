"""The suite's cases as parameters, and the known failures of each backend as strict ones."""

from __future__ import annotations

import pytest

from .known import BACKENDS, known_failures, runs
from .suite import cases


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
            if runs(backend, case)
        ],
    )


def _marks(reason: str | None) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
