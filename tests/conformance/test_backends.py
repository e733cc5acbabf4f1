"""ONNX's 2,018 deterministic inference cases, on every backend; what fails is known and strict."""

from __future__ import annotations

import pytest

from .known import BACKENDS, FILES, known_failures
from .suite import cases, on


def test_case_passes(backend: str, case) -> None:
    case.check(on(backend))


def test_the_suite_has_2018_cases_of_200_operators() -> None:
    assert len(cases()) == 2018
    assert len(set().union(*(case.operators for case in cases().values()))) == 200


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_what_falls_back_to_definitions_passes_all(backend: str) -> None:
    assert known_failures(backend) == {}


@pytest.mark.parametrize("path", sorted(FILES.glob("*.txt")), ids=lambda path: path.stem)
def test_known_failures_are_cases_of_the_suite(path) -> None:
    assert known_failures(path.stem).keys() <= cases().keys()
    assert path.stem in {*BACKENDS, "shapes", "round_trip", "round_trip_unjudged"}
