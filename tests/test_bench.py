"""hubtool bench: what is measured, in which order, and what becomes of what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import hubtool
from hubtool import Graph, Layer, Tensor, Value
from hubtool.bench import Bench, Row, _compare, _rank, fixed_inputs, picture
from hubtool.bench.machine import facts, milliseconds, sentence
from hubtool.bench.worker import Job, Worker, WorkerError
from hubtool.cli import cli
from hubtool.dtypes import numpy_dtype


def product(dtype: str = "float32") -> Graph:
    weight = Tensor.of(np.ones((4, 4), numpy_dtype(dtype)))
    return Graph(
        layers=[Layer("layer", "MatMul", {"A": "x", "B": "w"}, ["y"])],
        inputs={"x": Value("tensor", dtype, ("N", 4))},
        outputs={"y": Value("tensor", dtype, ("N", 4))},
        tensors={"w": weight},
        meta={"name": "product"},
    )


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "product"
    hubtool.save(product(), folder)
    return folder


def job(native: Path, **changes: Any) -> Job:
    own: dict[str, Any] = {
        "backend": "numpy",
        "peer": False,
        "source": str(native),
        "device": "cpu",
        "precision": "fp32",
        "threads": None,
        "inputs": (("x", "float32", (2, 4)),),
        "seed": 0,
    }
    return Job(**own | changes)


@pytest.fixture(scope="module")
def measured(native: Path) -> tuple[Bench, list[str]]:
    said: list[str] = []
    found = hubtool.bench(
        native,
        backends=["numpy", "onnxruntime"],
        batch=[3],
        precision=["fp32", "bf16"],
        rounds=2,
        peers=True,
        tell=said.append,
    )
    return found, said


def by_name(found: Bench, precision: str) -> dict[str, Row]:
    return {row.name: row for row in found.rows if row.precision == precision}


def test_every_backend_and_peer_is_measured_and_agrees(measured: tuple[Bench, list[str]]) -> None:
    rows = by_name(measured[0], "fp32")
    assert [*rows] == ["numpy", "onnxruntime", "ONNX Runtime itself", "OpenVINO itself"]
    for row in rows.values():
        assert (row.status, row.reason, row.batch, len(row.seconds)) == ("measured", "", 3, 2)
        assert row.median is not None and row.first is not None and row.peak is not None
        assert 0 < row.median < row.first and row.peak > 20 << 20
        assert row.difference is not None and row.difference <= 1e-5
    assert [row.name for row in rows.values() if row.reference] == ["numpy"]
    assert min(row.to_best or 0 for row in rows.values()) <= 1.0
    assert rows["numpy"].to_first == 1.0


def test_a_precision_that_a_backend_lacks_is_listed_and_not_measured(
    measured: tuple[Bench, list[str]],
) -> None:
    rows = by_name(measured[0], "bf16")
    lacking = {row.name: row.reason for row in rows.values() if row.status == "not measured"}
    assert {"numpy", "onnxruntime", "ONNX Runtime itself"} <= {*lacking}
    assert "no precision 'bfloat16'" in lacking["numpy"]
    assert all(row.median is None for row in rows.values() if row.name in lacking)


def test_the_rounds_are_interleaved(measured: tuple[Bench, list[str]]) -> None:
    rounds = [line for line in measured[1] if "round" in line and "fp32" in line]
    order = [(line.split(" on ")[0], line.partition("round ")[2]) for line in rounds]
    names = [*by_name(measured[0], "fp32")]
    assert order == [(name, f"{count} of 2") for count in (1, 2) for name in names]


def test_json_tells_the_samples_the_machine_and_the_versions(
    measured: tuple[Bench, list[str]],
) -> None:
    told = json.loads(json.dumps(measured[0].to_json()))
    assert told["model"] == "product" and told["seed"] == 0 and told["rounds"] == 2
    assert {"cpu", "cores", "memory", "load", "python", "hubtool"} <= told["machine"].keys()
    assert told["machine"]["packages"]["numpy"] == np.__version__
    assert len(told["rows"][0]["seconds"]) == 2 and told["rows"][0]["median"] > 0


def test_what_a_backend_refuses_is_a_row_and_the_others_go_on() -> None:
    found = hubtool.bench(product("bfloat16"), backends=["onnxruntime", "numpy"], rounds=1)
    refused, done = found.rows
    assert refused.status == "failed" and "cannot run" in refused.reason
    assert done.status == "measured" and done.to_first == done.to_best == 1.0 and done.reference


def row(name: str, seconds: list[float], precision: str = "fp32") -> Row:
    return Row(name, name, False, "cpu", precision, 1, None, seconds=seconds, difference=0.0)


def test_ratios_are_taken_within_each_round() -> None:
    rows = [row("a", [2.0, 4.0, 20.0]), row("b", [1.0, 2.0, 40.0])]
    _rank(rows)
    assert [each.to_first for each in rows] == [1.0, 0.5]
    assert [each.to_best for each in rows] == [2.0, 1.0]
    assert rows[0].quartiles == (3.0, 12.0) and row("c", [5.0]).quartiles == (5.0, 5.0)


def test_a_fast_wrong_answer_is_seen() -> None:
    right, wrong, coarse = row("numpy", [1.0]), row("fast", [0.1]), row("half", [0.5], "fp16")
    answer = np.float32([1, 2, 4])
    outputs = [(wrong, answer + 1), (coarse, answer * 1.001), (right, answer)]
    _compare([(each, {"y": made}) for each, made in outputs])
    assert right.reference and not right.reason
    assert wrong.difference == 0.25
    assert (
        wrong.reason == "its outputs are not those of numpy: differ by 2.5e-01 of the largest value"
    )
    assert coarse.difference == pytest.approx(1e-3, rel=1e-3) and not coarse.reason


def test_sizes_come_from_the_model_then_from_shapes_and_batch() -> None:
    graph = product()
    assert fixed_inputs(graph, {}) == {"x": ("float32", (1, 4))}
    assert fixed_inputs(graph, {"x": (5, 4)}) == {"x": ("float32", (5, 4))}
    assert fixed_inputs(graph, {"x": (5, 4)}, 8) == {"x": ("float32", (8, 4))}
    graph.inputs["t"] = Value("tensor", "float32", ("N", "T"))
    with pytest.raises(hubtool.InputError) as raised:
        fixed_inputs(graph, {"x": (2, 5), "z": (1,), "t": (3, 4)})
    assert raised.value.problems == [
        "'z' is no input",
        "axis 1 of input 'x' is always 4, not 5",
        "input 't' has 3 for 'N', which is 2",
    ]
    with pytest.raises(hubtool.InputError, match="do not fit") as raised:
        fixed_inputs(graph, {})
    assert raised.value.problems == ["axis 1 of input 't' float32[N,T] needs a size"]
    assert fixed_inputs(graph, {"t": (9, 3)}, 2)["t"] == ("float32", (2, 3))
    graph.inputs["x"] = Value("tensor", "float32", (6, 4))
    assert fixed_inputs(graph, {"t": (9, 3)}, 2)["x"] == ("float32", (6, 4))
    del graph.inputs["t"]
    with pytest.raises(hubtool.InputError) as raised:
        fixed_inputs(graph, {}, 2)
    assert raised.value.problems == ["no input's first axis is open: the batch cannot be 2"]


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"backends": ["nunpy"]}, "no backend 'nunpy'"),
        ({"precision": ["fp99"]}, "no precision 'fp99'"),
        ({"shapes": {"x": (1, 5)}}, "do not fit"),
        ({"shapes": {"x": (1,)}}, "do not fit"),
        ({"rounds": 0}, "measures nothing"),
    ],
)
def test_what_nobody_has_is_refused_before_anything_starts(
    wanted: dict[str, Any], match: str
) -> None:
    with pytest.raises(hubtool.HubtoolError, match=match):
        hubtool.bench(product(), **wanted)


def state(pid: int) -> str:
    """R, S, T (stopped) …; Z where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def wait_for(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_worker_is_stopped_between_its_runs_and_told_its_threads(
    native: Path, tmp_path: Path
) -> None:
    with Worker(job(native, threads=1), tmp_path) as worker:
        pid = worker.process.pid
        worker.begin()
        wait_for(lambda: state(pid) == "T")
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {"OPENBLAS_NUM_THREADS=1", "NPROC=1"} <= {*environment}
        assert worker.run() > 0
        wait_for(lambda: state(pid) == "T")
        _, outputs = worker.finish()
        assert outputs["y"].shape == (2, 4)
    assert worker.process.returncode == -signal.SIGKILL


def test_a_workers_peak_is_its_own_and_not_its_parents(native: Path, tmp_path: Path) -> None:
    held = np.ones(60 << 20)  # 480 MiB
    with Worker(job(native), tmp_path) as worker:
        worker.begin()
        worker.run()
        peak, _ = worker.finish()
    assert 20 << 20 < peak < held.nbytes / 2


def test_a_worker_that_is_killed_says_by_what(native: Path, tmp_path: Path) -> None:
    with Worker(job(native), tmp_path) as worker:
        worker.begin()
        worker.process.kill()
        with pytest.raises(WorkerError, match="ended by SIGKILL"):
            worker.run()


def test_what_is_not_here_is_told_from_what_fails(native: Path, tmp_path: Path) -> None:
    reasons = {}
    changes: list[dict[str, Any]] = [
        {"device": "cuda"},
        {"source": str(native.parent)},
        {"inputs": (("x", "float32", (2, 5)),)},
    ]
    for change in changes:
        with Worker(job(native, **change), tmp_path) as worker:
            with pytest.raises(WorkerError) as raised:
                worker.begin()
            reasons[str(raised.value)] = raised.value.absent
    assert [*reasons.values()] == [True, False, False]
    first, _, last = reasons
    assert "no device 'cuda'" in first and "x" in last and "float32[2,5]" in last


@pytest.fixture
def running(
    native: Path, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[int]]]]:
    """A bench that would go on for long, and what tells the process ids of its workers."""
    command = [sys.executable, "-m", "hubtool", "bench", str(native), "--rounds", "100000"]
    process = subprocess.Popen(
        [*command, "--backends", "numpy,onnxruntime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    yield process, lambda: [int(pid) for pid in children.read_text().split()]
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_bench_that_is_ended(
    running: tuple[subprocess.Popen[bytes], Callable[[], list[int]]], number: signal.Signals
) -> None:
    process, children = running
    wait_for(lambda: len(children()) == 2)
    workers = children()
    wait_for(lambda: state(workers[0]) == "T")
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (1 if number == signal.SIGINT else -number), said
    assert b"Traceback" not in said
    wait_for(lambda: all(state(pid) == "Z" for pid in workers))


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bench", *map(str, arguments)], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_the_command_prints_a_table_and_draws(native: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "bench.svg"
    options = ["--backends", "numpy", "--batch", "1,2", "--rounds", 1, "--precision", "fp32,tf32"]
    result = run(native, *options, "--plot", drawn)
    head, first, second, lacking, machine = result.stdout.splitlines()
    assert head.split()[:4] == ["batch", "threads", "precision", "backend"]
    assert first.split()[:5] == ["1", "own", "fp32", "numpy", "cpu"] and "reference" in first
    assert second.split()[0] == "2"
    assert lacking.startswith("numpy (cpu, tf32): not measured: ")
    assert machine.startswith("1 round, interleaved; seed 0; ")
    assert machine.endswith(sentence(facts()).partition("; ")[2])
    assert result.stderr == f"drawn: {drawn}\n"
    text = drawn.read_text()
    assert text.startswith("<?xml") and "product: median time of a run, ms" in text
    assert "batch 1, each library" in text and "batch 2, each library" in text


def test_the_command_fails_only_where_nothing_could_be_measured(
    native: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "bench.png"
    options = ["--backends", "numpy", "--rounds", 1, "--plot", drawn, "--json"]
    told = json.loads(run(native, *options, "--device", "cuda", code=1).stdout)
    assert [each["status"] for each in told["rows"]] == ["not measured"]
    assert not drawn.exists()
    told = json.loads(run(native, *options, "--device", "cuda,cpu").stdout)
    assert [each["status"] for each in told["rows"]] == ["not measured", "measured"]
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [("--batch", "0"), ("--batch", "1,x"), ("--backends", "a,,b")])
def test_wrong_lists_are_wrong_usage(native: Path, wrong: tuple[str, str]) -> None:
    assert "is not of the form" in run(native, *wrong, code=2).output


def test_times_are_written_without_exponents() -> None:
    written = [milliseconds(time) for time in (1.23456e-5, 0.0123456, 1.23456, 123.456)]
    assert written == ["0.01235", "12.35", "1,235", "123,456"]


def test_a_picture_needs_matplotlib_and_a_kind(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ".png, .svg, .pdf" in run(native, "--plot", "bench.doc", code=1).output
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    assert "pip install 'hubtool[plot]'" in run(native, "--plot", "bench.svg", code=1).output


def test_a_picture_marks_whose_outputs_differ_and_orders_by_time(tmp_path: Path) -> None:
    rows = [row("slow", [2.0, 2.5]), row("fast", [1.0, 1.25])]
    _rank(rows)
    rows[1].reason = "its outputs are not those of slow"
    Bench("model", {}, 2, 0, facts(), rows).plot(tmp_path / "b.svg")
    text = (tmp_path / "b.svg").read_text()
    assert text.count("(its outputs differ)") == 1
    assert text.index(">fast<") < text.index(">slow<")
    with pytest.raises(hubtool.InputError, match="nothing was measured"):
        Bench("model", {}, 2, 0, facts(), []).plot(tmp_path / "c.svg")
    assert not (tmp_path / "c.svg").exists()
