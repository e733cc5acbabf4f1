"""Conversion: verified, reported, refused where it differs, and whole whatever happens."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import mutants
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import hubtool
from hubtool import zoo
from hubtool.errors import InputError, ReadError, UnsupportedError, VerifyError, WriteError
from hubtool.graph import Graph, Layer, Tensor, Value, parameters
from hubtool.verify import compare, seeded_inputs


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str | None]]],
    outputs: dict[str, tuple[int, list[int | str | None]]],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A Conv with BatchNormalization and Dropout, as a file."""
    rng = np.random.default_rng(0)
    path = tmp_path / "small.onnx"
    weights = {
        "W": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        **{name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("s", "b", "m", "v")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Identity", ["n"], ["i"], name="same"),
        helper.make_node("Dropout", ["i"], ["d"], name="drop"),
        helper.make_node("Relu", ["d"], ["y"], name="relu"),
    ]
    shape: list[int | str | None] = ["N", 3, 8, 8]
    onnx.save(model(nodes, {"x": (1, shape)}, {"y": (1, ["N", 4, 8, 8])}, weights), path)
    return path


def test_the_report_is_printed_kept_and_true(small: Path, tmp_path: Path) -> None:
    report = hubtool.convert(small, tmp_path / "native")
    kept = json.loads((tmp_path / "native" / "report.json").read_text())
    assert kept == report.to_json() | {"target": "native"}  # not where it lay: it may be published
    assert report.verification.status == "passed"
    assert report.verification.difference < 1e-6
    assert "ONNX Runtime" in report.verification.judge
    assert report.parameters == 4 * 27 + 16
    assert report.source["size"] == small.stat().st_size
    for text in ("small.onnx", report.source["sha256"], "passed", "lifted from opset 17 to 28"):
        assert text in str(report)


def test_what_can_be_trained_stays_and_no_ops_go(small: Path, tmp_path: Path) -> None:
    hubtool.convert(small, tmp_path / "native")
    graph = hubtool.read(tmp_path / "native")
    assert [layer.op for layer in graph.layers] == ["Conv", "BatchNormalization", "Dropout", "Relu"]
    assert [layer.name for layer in graph.layers] == ["conv", "norm", "drop", "relu"]


def test_optimize_folds_for_good(small: Path, tmp_path: Path) -> None:
    report = hubtool.convert(small, tmp_path / "native", optimize=True)
    assert [layer.op for layer in hubtool.read(tmp_path / "native").layers] == ["Conv", "Relu"]
    assert report.verification.status == "passed"


def test_the_target_is_named_after_the_source(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hubtool.convert(small)
    assert hubtool.read("small").meta["name"] == "small"


def test_an_existing_target_is_refused_before_the_source_is_read(
    small: Path, tmp_path: Path
) -> None:
    hubtool.convert(small, tmp_path / "native")
    before = (tmp_path / "native" / "graph.json").read_bytes()
    with pytest.raises(WriteError, match="--overwrite"):
        hubtool.convert(tmp_path / "absent.onnx", tmp_path / "native")
    assert (tmp_path / "native" / "graph.json").read_bytes() == before
    hubtool.convert(small, tmp_path / "native", overwrite=True)


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the judge see something else than the model."""
    module = importlib.import_module("hubtool.backends.onnxruntime")
    honest = module.run_file
    monkeypatch.setattr(module, "run_file", lambda *a: {k: v * 1.01 for k, v in honest(*a).items()})


@pytest.mark.usefixtures("lying")
def test_a_model_that_differs_is_refused_and_nothing_is_left(small: Path, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=r"9\.9e-03 of the largest value \(tolerance 1e-04\)"):
        hubtool.convert(small, tmp_path / "native")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.onnx"]


@pytest.mark.usefixtures("lying")
def test_force_keeps_it_and_the_report_says_failed(small: Path, tmp_path: Path) -> None:
    report = hubtool.convert(small, tmp_path / "native", force=True)
    assert report.verification.status == "failed"
    assert (
        json.loads((tmp_path / "native" / "report.json").read_text())["verification"]["status"]
        == "failed"
    )
    assert hubtool.convert(small, tmp_path / "loose", tolerance=0.1).verification.status == "passed"


def test_unasked_verification_is_reported_as_such(small: Path, tmp_path: Path) -> None:
    report = hubtool.convert(small, tmp_path / "native", verify=False)
    assert str(report.verification) == "not verified: it was not asked for"


def test_the_reference_judges_where_onnx_runtime_refuses(tmp_path: Path) -> None:
    path = tmp_path / "rare.onnx"
    node = helper.make_node("Sinh", ["x"], ["y"], name="sinh")
    double = onnx.TensorProto.DOUBLE  # for which ONNX Runtime has no Sinh
    onnx.save(model([node], {"x": (double, [5])}, {"y": (double, [5])}), path)
    report = hubtool.convert(path, tmp_path / "native")
    assert report.verification.status == "passed"
    assert "reference" in report.verification.judge


def test_without_any_judge_the_report_says_why(tmp_path: Path) -> None:
    # spatial=0 is invalid as the zoo once wrote it: a v2 like that runs nowhere as it is.
    path = tmp_path / "old.onnx"
    zoo.sketch("resnet18-v2", path)
    onnx.save(mutants.spatial_0(onnx.load(path)), path)
    report = hubtool.convert(path, tmp_path / "native")
    assert report.verification.status == "not verified"
    assert "ONNX Runtime:" in report.verification.reason
    assert "onnx's reference:" in report.verification.reason
    assert "--sample" in str(report)


def test_samples_are_used_and_checked(small: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.ones((3, 3, 8, 8), np.float32))
    report = hubtool.convert(small, tmp_path / "native", sample=sample)
    assert report.verification.inputs == "the given sample (x [3, 3, 8, 8])"
    np.savez(sample, z=np.ones(3))
    with pytest.raises(InputError, match="'z' is no input"):
        hubtool.convert(small, tmp_path / "other", sample=sample)
    sample.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as inputs"):
        hubtool.convert(small, tmp_path / "other", sample=sample)


def test_everything_that_is_not_supported_is_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    nodes = [
        helper.make_node("Twist", ["x"], ["a"], name="first", domain="com.example"),
        helper.make_node("Frobnicate", ["a"], ["y"], name="second"),
    ]
    onnx.save(model(nodes, {"x": (1, [2])}, {"y": (1, [2])}), path)
    with pytest.raises(UnsupportedError) as caught:
        hubtool.convert(path, tmp_path / "native")
    text = "\n".join(caught.value.problems)
    assert "'first'" in text
    assert "com.example.Twist" in text
    assert "'second'" in text
    assert not (tmp_path / "native").exists()
    assert hubtool.check(path) == caught.value.problems


def test_labels_and_preprocessing_are_set_at_convert_time(small: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    hubtool.convert(small, tmp_path / "native", labels=labels, preprocess="imagenet")
    meta = hubtool.read(tmp_path / "native").meta
    assert meta["labels"] == ["cat", "dog"]
    assert meta["preprocessing"]["crop"] == 224
    with pytest.raises(InputError, match="no preprocessing named 'imagenot'"):
        hubtool.convert(small, tmp_path / "other", preprocess="imagenot")


def test_a_sketch_is_known_for_what_it_is(sketch18: Path, tmp_path: Path) -> None:
    hubtool.convert(sketch18, tmp_path / "native", verify=False)
    meta = hubtool.read(tmp_path / "native").meta
    assert meta["zoo"] == "resnet18-v1"
    assert meta["untrained"] is True
    assert len(meta["labels"]) == 1000
    assert meta["preprocessing"]["resize"] == 256
    hubtool.export(tmp_path / "native", tmp_path / "back.onnx")
    again = hubtool.read(tmp_path / "back.onnx").meta
    for key in ("zoo", "untrained", "labels", "preprocessing", "licence"):
        assert again[key] == meta[key], key


def test_a_folder_is_no_source(small: Path, tmp_path: Path) -> None:
    hubtool.convert(small, tmp_path / "native")
    with pytest.raises(ReadError, match="is a folder"):
        hubtool.convert(tmp_path / "native", tmp_path / "again")


def test_comparison_sees_shapes_integers_and_nan() -> None:
    x = np.array([1.0, np.nan, np.inf], np.float32)
    assert compare({"y": x}, {"y": x}) == (0.0, "")
    assert compare({"y": x}, {"y": x[::-1]})[1] == "output 'y' has NaN or infinity in other places"
    assert "shape" in compare({"y": x}, {"y": x[:2]})[1]
    assert "1 of 2" in compare({"y": np.array([1, 2])}, {"y": np.array([1, 3])})[1]
    assert compare({"y": np.array([2.0, 1.0])}, {"y": np.array([2.0, 1.5])})[0] == 0.25
    assert compare({"y": [x]}, {"y": [x, x]})[1]
    assert compare({"y": np.zeros(2)}, {"y": np.zeros(2)}) == (0.0, "")


def test_seeded_inputs_fit_the_model_and_stay_the_same() -> None:
    graph = Graph(
        inputs={
            "image": Value("tensor", "float32", ("N", 3, "H", "W")),
            "ids": Value("tensor", "int64", ("N", "L")),
            "mask": Value("tensor", "bool", (None, 5)),
        }
    )
    feeds = seeded_inputs(graph)
    assert feeds["image"].shape == (1, 3, 64, 64)
    assert feeds["ids"].shape == (1, 8)
    assert feeds["ids"].dtype == np.int64
    assert feeds["mask"].dtype == bool
    np.testing.assert_array_equal(feeds["image"], seeded_inputs(graph)["image"])
    graph.inputs["words"] = Value("tensor", "string", (1,))
    with pytest.raises(InputError, match="--sample"):
        seeded_inputs(graph)


KILLER = """
import os, signal, sys, threading, time
import hubtool
source, target, delay, overwrite = sys.argv[1:]
def kill():
    time.sleep(float(delay))
    os.kill(os.getpid(), signal.SIGKILL)
import hubtool.convert, hubtool.formats.onnx.read, hubtool.formats.native  # start from a warm state
threading.Thread(target=kill, daemon=True).start()
hubtool.convert(source, target, overwrite=overwrite == "1")
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_at_any_moment_leaves_nothing_or_a_whole_folder(
    small: Path, tmp_path: Path, overwrite: bool
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    target = place / "native"
    if overwrite:
        hubtool.convert(small, target)
    killed = 0
    for delay in np.linspace(0.0, 1.2, 13):
        command = [sys.executable, "-c", KILLER, str(small), str(target), f"{delay:.3f}"]
        done = subprocess.run([*command, str(int(overwrite))], capture_output=True)
        killed += done.returncode == -signal.SIGKILL
        if target.exists():
            assert len(hubtool.read(target, verify=True).layers) == 4
            assert (target / "report.json").exists()
            if not overwrite:
                break
        else:
            assert not overwrite
    assert killed
    hubtool.convert(small, target, overwrite=True)
    assert [path.name for path in place.iterdir()] == ["native"]


def test_what_is_smaller_than_the_judges_own_noise_is_no_difference() -> None:
    tiny = np.full(3, 1e-8, np.float32)
    assert compare({"y": tiny * 2}, {"y": tiny}) == (pytest.approx(1e-6), "")


def test_maps_and_optionals_are_compared_too() -> None:
    expected = {"y": [{1: 0.5, 2: 0.25}], "z": None}
    assert compare({"y": [{1: 0.5, 2: 0.25}], "z": None}, expected) == (0.0, "")
    assert "other keys" in compare({"y": [{1: 0.5}], "z": None}, expected)[1]
    assert "in one only" in compare({"y": expected["y"], "z": np.zeros(1)}, expected)[1]


def test_a_quantized_model_may_round_an_element_to_the_other_side(tmp_path: Path) -> None:
    ours, theirs = np.asarray([1, 200], np.uint8), np.asarray([2, 200], np.uint8)
    assert compare({"y": ours}, {"y": theirs}, steps=True) == (1 / 200, "")
    assert "differs in 1 of 2" in compare({"y": ours}, {"y": theirs})[1]
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        agraph (float[N, 4] x) => (uint8[N, 4] y, float[N, 4] z)
        <float scale = {0.1}, uint8 zero = {128}> {
          y = QuantizeLinear(x, scale, zero)
          z = DequantizeLinear(y, scale, zero)
        }"""
    )
    onnx.save(model, tmp_path / "q.onnx")
    report = hubtool.convert(tmp_path / "q.onnx", tmp_path / "q")
    assert (report.verification.status, report.verification.tolerance) == ("passed", 0.05)


def test_larger_inputs_are_tried_where_the_judges_refuse_small_ones(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        agraph (float[N, L] x) => (float[N, F, 33, 2] y)
        <int64 step = {16}, int64 size = {64}> { y = STFT(x, step, "", size) }"""
    )
    onnx.save(model, tmp_path / "audio.onnx")
    report = hubtool.convert(tmp_path / "audio.onnx", tmp_path / "audio")
    assert report.verification.status == "passed", report.verification
    assert "[1, 64]" in report.verification.inputs


def test_weights_of_subgraphs_and_small_integers_are_parameters() -> None:
    body = Graph(tensors={"w": Tensor.of(np.zeros((3, 4), np.float32))})
    graph = Graph(
        layers=[
            Layer("if", "If", {"cond": "c"}, ["y"], {"then_branch": body, "else_branch": body})
        ],
        tensors={
            "q": Tensor.of(np.zeros(5, np.int8)),
            "axes": Tensor.of(np.zeros(7, np.int64)),
            "b": Tensor.of(np.zeros(2, bool)),
        },
    )
    assert parameters(graph) == 5 + 12 + 12
