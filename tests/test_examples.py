"""The examples run, and what they claim is so."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hubtool

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


def test_a_fine_tuned_resnet_is_saved_published_and_run_as_it_was_trained(
    tmp_path: Path, sketch18: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    hubtool.convert(sketch18, tmp_path / "r18", verify=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other take far longer on a busy machine
    try:
        main = runpy.run_path(str(EXAMPLES / "finetune.py"))["main"]
        told = main(["--out", str(tmp_path), "--base", str(tmp_path / "r18"), "--epochs", "2"])
    finally:
        torch.set_num_threads(threads)
    assert told["losses"][1] < told["losses"][0] / 2
    accuracy = told["accuracy"]
    assert {"torch", "hubtool on numpy", "hubtool on onnxruntime", "ONNX, exported"} <= {*accuracy}
    assert len(set(accuracy.values())) == 1 and accuracy["torch"] > 0.9, accuracy
    before, after = hubtool.read(tmp_path / "r18").tensors, hubtool.read(tmp_path / "model").tensors
    same = {name for name in after.keys() & before.keys() if after[name] == before[name]}
    assert same == {*told["frozen"]} and len(same) > 20
    place = hubtool.pull("demo/resnet18-digits", to=tmp_path / "pulled", hub=str(tmp_path / "hub"))
    card = (tmp_path / "pulled" / "README.md").read_text()
    assert place and "trained from resnet18-v1, an untrained sketch" in card
    assert "| Accuracy | 0.9" in card and "It was trained after its conversion" in card


def test_one_published_revision_is_the_same_to_every_reader(
    tmp_path: Path,
    sketch18: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("HUBTOOL_HUB", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    digits, strangers = (
        runpy.run_path(str(EXAMPLES / name)) for name in ("digits.py", "strangers.py")
    )
    digits["main"](["--out", str(tmp_path)])
    hubtool.push(tmp_path / "model", "demo/digits-v1")
    hubtool.convert(sketch18, tmp_path / "r18", verify=False)
    hubtool.export(tmp_path / "r18", to="transformers")
    hubtool.push(tmp_path / "r18", "axon/resnet18-v1")
    arguments = ["demo/digits-v1", "--digits", str(tmp_path)]
    *answers, resnet = strangers["main"]([*arguments, "--resnet", f"axon/resnet18-v1={sketch18}"])
    assert resnet.logits is not None and resnet.reader == "transformers, resnet18-v1"
    expected = hubtool.load("axon/resnet18-v1", backend="numpy")(
        np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    )
    assert abs(resnet.logits - expected).max() <= 1e-5 * abs(expected).max()
    readers = [answer.reader for answer in answers if answer.logits is not None]
    assert len(readers) >= (6 if shutil.which("node") else 5)
    hashed = [answer for answer in answers if answer.sha256]
    assert len(hashed) >= 5 + bool(shutil.which("node")) + bool(shutil.which("elixir"))
    assert len({answer.sha256 for answer in hashed}) == 1
    logits = [answer.logits for answer in answers if answer.logits is not None]
    for other in logits[1:]:
        assert abs(other - logits[0]).max() <= 1e-5 * abs(logits[0]).max()
    said = capsys.readouterr().out
    assert all(reader in said for reader in readers)


def test_every_example_is_run_by_a_test_or_the_demo() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {"demo.py", "digits.py", "finetune.py", "matmul_backends.py", "strangers.py"}
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {"matmul_backends.ipynb"}
    others = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".mjs", ".exs")}
    assert others == {"reader.mjs", "reader_run.mjs", "axon_run.exs"}


def test_the_product_is_measured_on_every_device_and_comes_back_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(EXAMPLES / "matmul_backends.py"))
    rows, told = script["main"](["--rounds", "2", "--plot", str(tmp_path / "matmul.svg")])
    *fast, pure = rows
    assert [(row.backend, row.device) for row in fast] == script["places"]()
    assert {"numpy", "torch", "xla", "openvino", "onnxruntime"} <= {row.backend for row in fast}
    assert pure.backend == "pure Python" and pure.product > 50 * max(row.product for row in fast)
    assert all(row.difference <= 1e-5 for row in rows)
    assert told["there"]["float32"] <= script["TOLERANCE"]["float32"] and told["back"] == 0
    assert told["device"] != "cpu" and told["backend"] in {row.backend for row in fast}
    said = capsys.readouterr().out
    assert "measured on 20 of the 10,000 rows, times 500" in said
    assert ("as a stand-in" in said) == told["stand_in"]
    assert "pure Python, extrapolated" in (tmp_path / "matmul.svg").read_text()


def test_the_walk_through_packed_bytes_is_the_product() -> None:
    script = runpy.run_path(str(EXAMPLES / "matmul_backends.py"))
    A, B = script["operands"](seed=3)
    made = np.frombuffer(script["binary_dot"](A[:2].tobytes(), B.tobytes(), 2), np.float32)
    np.testing.assert_allclose(made.reshape(2, 10), A[:2] @ B, rtol=0, atol=1e-4)


def test_the_notebook_is_whole_and_its_cells_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads((EXAMPLES / "matmul_backends.ipynb").read_text(encoding="utf-8"))
    script = runpy.run_path(str(EXAMPLES.parent / "docs" / "make_notebook.py"))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]
    assert cells == script["CELLS"], "run: python docs/make_notebook.py"
    assert len({cell["id"] for cell in made["cells"]}) == len(cells)
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    names: dict[str, Any] = {}
    for cell in code:
        source = "".join(cell["source"]).replace("rounds=15", "rounds=1")
        kinds = [each["output_type"] for each in script["executed"](source, names)]
        assert kinds == [each["output_type"] for each in cell["outputs"]], source
    assert len(names["rows"]) > 5 and names["told"]["back"] == 0
    assert (tmp_path / "matmul.svg").exists()
