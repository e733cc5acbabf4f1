"""The command line as a user meets it: every message, every exit code, and no traceback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper
from PIL import Image

import hubtool
from hubtool import Graph, Layer, Tensor, Value
from hubtool.cli import cli
from hubtool.feeds import write_arrays


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that scores 8x8 grey pictures: dark, or bright."""
    graph = Graph(
        layers=[
            Layer("flat", "Flatten", {"input": "x"}, ["flat"], {"axis": 1}),
            Layer("score", "MatMul", {"A": "flat", "B": "w"}, ["y"]),
        ],
        inputs={"x": Value("tensor", "float32", ("N", 1, 8, 8))},
        outputs={"y": Value("tensor", "float32", ("N", 2))},
        tensors={"w": Tensor.of(np.repeat(np.float32([[-1, 1]]), 64, axis=0))},
        meta={
            "name": "bright",
            "labels": ["dark", "bright"],
            "preprocessing": {
                "channels": "L",
                "resize": 8,
                "interpolation": "box",
                "crop": 8,
                "range": [0, 1],
                "mean": [0.5],
                "std": [1],
                "layout": "NCHW",
            },
        },
    )
    folder = tmp_path_factory.mktemp("cli") / "bright"
    hubtool.save(graph, folder)
    return folder


@pytest.fixture
def onnx_file(native: Path, tmp_path: Path) -> Path:
    hubtool.export(native, tmp_path / "bright.onnx")
    return tmp_path / "bright.onnx"


def test_info_tells_what_a_backend_runs_apart(native: Path, tmp_path: Path) -> None:
    assert run("info", native, "--backend", "native").stdout.endswith(
        "native: all layers run as one\n"
    )
    graph = hubtool.read(native)
    graph.layers.append(Layer("top", "Hardmax", {"input": "y"}, ["z"], {"axis": -1}))
    graph.outputs = {"z": graph.outputs["y"]}
    hubtool.save(graph, tmp_path / "apart")
    told = run("info", tmp_path / "apart", "--backend", "native").stdout
    assert told.endswith("native: Hardmax 'top': no kernel\n")
    table = json.loads(run("info", tmp_path / "apart", "--backend", "native", "--json").stdout)
    assert table["notes"] == ["Hardmax 'top': no kernel"]
    assert "there is no backend 'nativ'" in run("info", native, "--backend", "nativ", code=1).stderr


def test_convert_info_check_run_export_in_a_row(onnx_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    assert "verified    passed" in run("convert", onnx_file, folder).stdout
    assert "no problem found" in run("check", folder).stdout
    assert "MatMul" in run("info", folder).stdout
    assert "opset 7" in run("export", folder, tmp_path / "back.onnx").stdout
    onnx.checker.check_model(tmp_path / "back.onnx")
    Image.new("L", (20, 10), 250).save(tmp_path / "snow.png")
    for backend in ("numpy", "torch", "onnxruntime"):
        lines = run("run", folder, tmp_path / "snow.png", "--backend", backend).stdout.splitlines()
        assert lines[1].split() == ["1.0000", "bright"]


def test_json_is_json_everywhere(native: Path, onnx_file: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 0).save(tmp_path / "night.png")
    top = json.loads(run("run", native, tmp_path / "night.png", "--json").stdout)
    assert top[0] == {"label": "dark", "probability": pytest.approx(1.0)}
    table = json.loads(run("info", native, "--json", "--shape", "x=3x1x8x8").stdout)
    assert table["totals"] == {"layers": 2, "parameters": 128, "multiply_adds": 384}
    assert json.loads(run("check", native, "--json").stdout)["problems"] == []
    names = {row["name"] for row in json.loads(run("backends", "--json").stdout)}
    assert names >= {"numpy", "torch", "onnxruntime"}
    assert len(json.loads(run("zoo", "list", "--json").stdout)) == 11
    report = json.loads(run("convert", onnx_file, tmp_path / "n", "--json").stdout)
    assert report["verification"]["status"] == "passed"


def test_backends_are_shown_with_what_they_have_or_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "a", "default": True, "available": True, "version": "1.0", "devices": ["cpu", "g"]}
        | {"precisions": {"cpu": ["float32"], "g": ["float32", "tf32"]}},
        {"name": "b", "default": False, "available": True, "version": "2.0", "devices": ["x", "y"]}
        | {"precisions": {"x": ["float32"], "y": ["float32"]}},
        {"name": "c", "default": False, "available": False, "reason": "c is not there; get c"},
    ]
    monkeypatch.setattr(hubtool, "backends", lambda: rows)
    shown = [re.split(r"  +", line) for line in run("backends").stdout.splitlines()]
    assert shown == [
        ["backend", "version", "devices", "precisions"],
        ["a (default)", "1.0", "cpu, g", "cpu: float32; g: float32, tf32"],
        ["b", "2.0", "x, y", "float32"],
        ["c", "-", "c is not there; get c", "-"],
    ]


def test_arrays_go_in_and_out(native: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    expected = hubtool.load(native, backend="numpy")(x)
    for source, target in (("x.npy", "y.npy"), ("x.npz", "y.npz")):
        shown = run("run", native, tmp_path / source, "--output", tmp_path / target).stdout
        assert "float32" in shown
        assert "[2, 2]" in shown
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], expected, rtol=1e-5)
    refused = run("run", native, tmp_path / "x.npy", "--output", tmp_path / "y.npy", code=1)
    assert "exists already" in refused.stderr


def test_a_pickle_is_no_input(native: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "cannot be read as inputs" in run("run", native, tmp_path / "x.npy", code=1).stderr


def damaged(native: Path, folder: Path) -> Path:
    shutil.copytree(native, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return folder


def unknown_operator(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="odd one")],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_every_bad_input_has_one_clear_message_and_exit_code_1(
    native: Path, onnx_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("Hello, I am no model.\n")
    (tmp_path / "cut.onnx").write_bytes(onnx_file.read_bytes()[:-40])
    (tmp_path / "cat.jpg").write_text("no picture")
    np.save(tmp_path / "wide.npy", np.zeros((1, 1, 8, 9), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((1, 1, 8, 8)))
    np.savez(tmp_path / "named.npz", z=np.zeros((1, 1, 8, 8), np.float32))
    cases = [
        (["convert", tmp_path / "absent.onnx"], "there is no file"),
        (["convert", tmp_path / "text.onnx"], "text.onnx"),
        (["convert", tmp_path / "cut.onnx"], "cut off"),
        (["convert", unknown_operator(tmp_path / "odd.onnx")], "odd one"),
        (["convert", onnx_file, native], "--overwrite"),
        (["convert", native], "is a folder"),
        (["info", tmp_path], "graph.json"),
        (["info", damaged(native, tmp_path / "damaged")], "model.safetensors"),
        (["check", tmp_path / "absent"], "absent"),
        (["run", native, tmp_path / "cat.jpg"], "cat.jpg"),
        (["run", native, tmp_path / "absent.png"], "absent.png"),
        (["run", native, tmp_path / "wide.npy"], "float32[N,1,8,8] is wanted"),
        (["run", native, tmp_path / "double.npy"], "x.astype('float32')"),
        (["run", native, tmp_path / "named.npz"], "'z' is no input"),
        (["run", native, tmp_path / "wide.npy", "--backend", "nunpy"], "Did you mean 'numpy'?"),
        (["run", native, tmp_path / "wide.npy", "--device", "moon"], "no device 'moon'"),
        (["export", native, tmp_path / "x.txt"], ".onnx"),
        (["export", native, tmp_path / "x.onnx", "--opset", "99"], "7 to 28"),
        (["export", native, onnx_file], "exists already"),
        (["zoo", "sketch", "resnet35-v1", tmp_path / "r.onnx"], "resnet34-v1"),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, said in cases:
        result = run(*arguments, code=1)
        # `check` lists problems as its data; all others talk on stderr.
        talk = result.stdout if arguments[0] == "check" else result.stderr
        assert said in talk, (arguments, result.output)
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_usage_is_exit_code_2(native: Path) -> None:
    run("run", native, code=2)
    run("frobnicate", code=2)
    run("info", native, "--shape", "data:1x2", code=2)
    run("completion", "tcsh", code=2)


def test_a_traceback_is_shown_with_debug_only(tmp_path: Path) -> None:
    with pytest.raises(hubtool.ReadError):
        CliRunner().invoke(
            cli, ["--debug", "info", str(tmp_path / "absent")], catch_exceptions=False
        )


def test_a_fault_of_our_own_is_called_that(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubtool, "info", lambda *_, **__: 1 / 0)
    result = run("info", native, code=1)
    assert "This is a fault in hubtool" in result.stderr


def test_completion_scripts_name_the_command() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_HUBTOOL_COMPLETE" in run("completion", shell).stdout


def test_untrained_models_say_so(sketch18: Path, tmp_path: Path) -> None:
    run("convert", sketch18, tmp_path / "r18", "--no-verify")
    Image.new("RGB", (300, 260), "green").save(tmp_path / "green.png")
    result = run("run", tmp_path / "r18", tmp_path / "green.png")
    assert len(result.stdout.splitlines()) == 6
    assert "untrained" in result.stderr


def test_a_model_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    graph = Graph(
        layers=[Layer("evil\x1b[2J\x07", "Relu", {"X": "x"}, ["y"])],
        inputs={"x": Value("tensor", "float32", (1,))},
        outputs={"y": Value("tensor", "float32", (1,))},
    )
    hubtool.save(graph, tmp_path / "evil")
    assert "\x1b" not in run("info", tmp_path / "evil").stdout


def test_the_installed_command_and_the_module_are_one() -> None:
    for command in (
        [sys.executable, "-m", "hubtool"],
        [str(Path(sys.executable).parent / "hubtool")],
    ):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"hubtool, version {hubtool.__version__}\n"


MIXED = """
<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3]>
agraph (int64[N] x)
  => (string[N] text, seq(float[N]) pieces, seq(map(int64, float)) scores, float[N] y)
{
  text = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["no", "yes"]> (x)
  y = Cast <to = 1> (x)
  pieces = SequenceConstruct (y, y)
  axis = Constant <value_ints = [1]> ()
  columns = Unsqueeze (y, axis)
  scores = ai.onnx.ml.ZipMap <classlabels_int64s = [7]> (columns)
}
"""


def test_text_sequences_and_maps_are_shown_and_written_as_far_as_files_hold_them(
    tmp_path: Path,
) -> None:
    model, given = tmp_path / "mixed.onnx", tmp_path / "x.npy"
    onnx.save(onnx.parser.parse_model(MIXED), model)
    np.save(given, np.asarray([1, 0]))
    rows = {row["name"]: row for row in json.loads(run("run", model, given, "--json").stdout)}
    assert rows["text"] == {"name": "text", "dtype": "string", "shape": [2], "begins": "yes, no"}
    assert (rows["pieces"]["dtype"], rows["pieces"]["shape"]) == ("sequence", [2])
    assert rows["scores"]["begins"] == "7: 1; 7: 0"

    told = run("run", model, given, "--output", tmp_path / "out.npz", code=1).output
    assert "output 'scores.0' is a map, and no array" in told
    assert not (tmp_path / "out.npz").exists()
    write_arrays(
        tmp_path / "out.npz",
        {"text": np.asarray(["a", "ö"], object), "pieces": [np.zeros(2), np.ones(3)]},
    )
    with np.load(tmp_path / "out.npz", allow_pickle=False) as written:
        assert written["text"].tolist() == ["a", "ö"]
        assert written["pieces.1"].tolist() == [1, 1, 1]
