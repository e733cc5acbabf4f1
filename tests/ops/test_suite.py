"""Every operator is tested: by a case of ONNX's suite (tests/conformance), or here by its name."""

from __future__ import annotations

from pathlib import Path

from conformance.suite import cases

from hubtool.ops import load_ops


def test_every_operator_has_a_case_of_the_suite_or_a_test_of_its_own() -> None:
    of_suite = set().union(*(case.operators for case in cases().values()))
    here = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    written = "".join(path.read_text(encoding="utf-8") for path in here)
    untested = {
        name
        for name in load_ops().keys() - of_suite
        if f'"{name.rpartition(".")[2]}"' not in written
    }
    untested = {name for name in untested if f'"{name}"' not in written}
    assert untested == set()
