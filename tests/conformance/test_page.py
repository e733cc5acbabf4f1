"""docs/operators.md is what follows from the suite and the known failures."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_operators_is_as_generated() -> None:
    render = runpy.run_path(str(ROOT / "docs" / "make_operators.py"))["render"]
    page = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert page == render(), "run: python docs/make_operators.py"
