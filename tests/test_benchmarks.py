"""The benchmarks' own parts: the networks that are drawn, tables, and a variant of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import hubtool
from hubtool.bench import Row
from hubtool.bench.worker import Job, Worker, WorkerError

FOLDER = Path(__file__).parents[1] / "benchmarks"
PICTURES = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)


def imported(name: str) -> ModuleType:
    """A module that lies beside a script, which finds it there."""
    sys.path.insert(0, str(FOLDER))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def nets() -> Iterator[ModuleType]:
    yield imported("nets")


@pytest.fixture(scope="module")
def cells() -> Iterator[ModuleType]:
    yield imported("cells")


# Parameters at 64 x 64 of what was published for 224 x 224; VGG's hidden layers are our own.
PARAMETERS = {
    "mobilenet-v2": 3_504_872,
    "densenet121": 7_978_856,
    "squeezenet1.1": 1_235_496,
    "vgg16": 14_714_688 + (2048 * 512 + 512) + (512 * 512 + 512) + (512 * 1000 + 1000),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_net_is_the_published_one_and_its_results_are_sane(
    nets: ModuleType, name: str, tmp_path: Path
) -> None:
    model = nets.net(name, size=64)
    onnx.checker.check_model(model, full_check=True)
    assert "UNTRAINED" in model.doc_string
    # Running statistics are no parameters, nor are the bounds of a Clip.
    statistics = {
        key for node in model.graph.node for key in node.input[3:] if "Norm" in node.op_type
    }
    weights = {each.name: each for each in model.graph.initializer}
    learned = [each for key, each in weights.items() if key not in statistics and each.dims]
    assert sum(int(np.prod(each.dims)) for each in learned) == PARAMETERS[name]

    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"data": PICTURES})
    assert expected.shape == (2, 1000)
    assert 0.5 < expected.std() < 50
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    found = hubtool.load(tmp_path / "net.onnx", backend="numpy")(PICTURES)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_net_is_the_same_for_the_same_seed(nets: ModuleType) -> None:
    one, same, other = (
        nets.net("squeezenet1.1", 64, seed).SerializeToString() for seed in (0, 0, 1)
    )
    assert one == same != other


def row(name: str, seconds: list[float], **facts: Any) -> Row:
    return Row(name, name, False, "cpu", "fp32", 1, 2, seconds=seconds, **facts)


def test_a_ratio_is_the_median_of_the_rounds_ratios_to_the_fastest_peer(cells: ModuleType) -> None:
    ours = row("native", [1.0, 2.0, 4.0])
    cell = cells.Cell("m", 1, 2, [ours, row("slow", [9.0] * 3), row("fast", [3.0, 3.0, 4.0])])
    assert cell.fastest().name == "fast"
    assert cell.ratio() == 1.5  # of 3, 1.5 and 1; the ratio of the medians is 1.5 too
    cell.rows[2].seconds = [4.0, 3.0, 2.0]
    assert cell.ratio() == 1.5  # of 4, 1.5 and 0.5
    ours.status, ours.reason = "not measured", "not built"
    assert cell.ratio() is None


def test_a_geometric_mean_is_that_of_the_ratios(cells: ModuleType) -> None:
    assert cells.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert cells.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_the_table_has_a_line_a_cell_the_fastest_bold_and_what_is_missing_said(
    cells: ModuleType,
) -> None:
    absent = row("jax", [], status="not measured", reason="not here")
    first = [row("native", [0.01], difference=2e-6), row("peer", [0.02], difference=4e-7), absent]
    second = [row("native", [0.02], difference=1e-6), row("peer", [0.01]), absent]
    second[1].reason = "two rounds only"
    lines = cells.table(
        [cells.Cell("m", 1, 2, first), cells.Cell("m", 8, 2, second)], ["native", "peer", "jax"]
    ).splitlines()
    assert lines == [
        "| model | batch | threads | native | peer | jax | fastest / native | native's error |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        "| m | 1 | 2 | **10** | 20 | - | 2.00 | 2e-06 |",
        "| m | 8 | 2 | 20 | **10*** | - | 0.50 | 1e-06 |",
        "",
        "fastest / native, geometric means: m 1.00; all 1.00; lowest 0.50",
        "largest errors against float64: native 2e-06, peer 4e-07",
        "jax: not measured: not here",
    ]


def test_a_table_without_native_still_tells_the_peers(cells: ModuleType) -> None:
    absent = row("native", [], status="not measured", reason="not built")
    told = cells.table([cells.Cell("m", 1, 1, [absent, row("peer", [0.5])])], ["native", "peer"])
    assert "| m | 1 | 1 | - | **500** | - | - |" in told
    assert "native was not measured" in told and "native: not measured: not built" in told


OPENER = """
def twice(job, feeds):
    import os
    told = (os.environ["TOLD"], job.options["plus"], job.threads)
    assert told == ("yes", 1, 2), told
    return lambda: {"y": 2 * feeds["x"] + job.options["plus"]}

def failing(job, feeds):
    raise ValueError("not like this")
"""


def opened(tmp_path: Path, function: str) -> Job:
    (tmp_path / "openers.py").write_text(OPENER)
    inputs = (("x", "float32", (2, 3)),)
    where = f"{tmp_path / 'openers.py'}:{function}"
    return Job("", False, "", "cpu", "fp32", 2, inputs, 0, where, {"plus": 1}, {"TOLD": "yes"})


def test_a_worker_runs_a_variant_of_ones_own(tmp_path: Path) -> None:
    with Worker(opened(tmp_path, "twice"), tmp_path) as worker:
        worker.begin()
        assert worker.run() > 0
        _, outputs = worker.finish()
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(outputs["y"], 2 * x + 1)


def test_a_variant_that_fails_says_why(tmp_path: Path) -> None:
    with (
        Worker(opened(tmp_path, "failing"), tmp_path) as worker,
        pytest.raises(WorkerError, match="not like this") as raised,
    ):
        worker.begin()
    assert not raised.value.absent
