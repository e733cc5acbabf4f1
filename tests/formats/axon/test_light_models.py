"""The nine light models of onnx: every cell of their notebooks runs against the stand-ins."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from hubtool import read
from hubtool.formats.axon.lower import lower

from .test_notebook import hollow, written

LIGHT = sorted(Path(onnx.__file__).parent.rglob("light_*.onnx"))


def test_the_light_models_are_nine() -> None:
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_the_notebook_of_a_light_model_runs(path: Path, run, tmp_path) -> None:
    graph = hollow(read(path))
    lowered = lower(graph)
    assert lowered.problems == []
    facts = run("notebook", written(graph, tmp_path / "m", path.stem))
    assert facts["layers"] == [str(len(lowered.steps))]
