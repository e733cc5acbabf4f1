"""The examples run, and what they claim is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_digits_are_recognized_alike_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(EXAMPLES / "digits.py"))["main"]
    accuracy = main(["--out", str(tmp_path)])
    assert {"torch, the original", "hubtool on numpy", "hubtool on torch"} <= set(accuracy)
    assert {"hubtool on onnxruntime", "ONNX, exported again"} <= set(accuracy)
    assert len(set(accuracy.values())) == 1, accuracy
    assert accuracy["torch, the original"] >= 0.97
    said = capsys.readouterr().out
    assert "verified    passed" in said
    assert sum(f"digit-{digit}.png  shows {digit}" in said for digit in range(10)) >= 9


def test_every_example_is_run_by_a_test_or_the_demo() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"demo.py", "digits.py"}
