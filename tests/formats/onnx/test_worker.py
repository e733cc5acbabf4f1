"""onnx's C++ in a process of its own: whatever it does there, the caller gets one clear error and
no process stays behind."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hostile import external, model, node, save, tensor, value
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from hubtool.errors import ReadError, RunError, UnsupportedError
from hubtool.formats.onnx import worker
from hubtool.formats.onnx.read import read
from hubtool.model import Model

IMPORTS, _, _ = worker.START.rpartition("worker.main(")
CALL = worker.START.removeprefix(IMPORTS)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save(tmp_path / "good.onnx", model([node("Relu", ["X"], ["Y"])], opset=13))


@pytest.fixture(autouse=True)
def _no_child_stays_behind() -> object:
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():  # not on every system
        assert children.read_text() == ""
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_good_model_comes_back_with_its_facts(good: Path) -> None:
    source = read(good).meta["source"]
    assert (source["opset"], source["ir_version"]) == (13, 10)


def test_isolated_and_not_gives_the_same(good: Path) -> None:
    assert read(good) == read(good, isolated=False)


def test_a_conversion_that_hangs_is_stopped(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SECONDS", 1)
    monkeypatch.setattr(worker, "START", "import time; time.sleep(600)")
    with pytest.raises(ReadError, match="was still converting it after 1 s, and was stopped"):
        read(good)


def test_a_conversion_that_takes_all_the_processor_is_stopped(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own limit ends it, should its parent be gone."""
    monkeypatch.setattr(worker, "START", f"{IMPORTS}worker._limit(1, 2**40)\nwhile True: pass")
    with pytest.raises(ReadError, match=r"onnx crashed \(SIG(KILL|XCPU)\)"):
        read(good)


def test_a_conversion_that_takes_all_the_memory_is_stopped(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eat = "from hubtool.formats.onnx import lift\nlift.lift = lambda data: bytearray(10**12)\n"
    monkeypatch.setattr(worker, "START", f"{IMPORTS}{eat}{CALL}")
    with pytest.raises(ReadError, match="takes more memory than there is"):
        read(good)


def test_the_memory_limit_is_the_callers(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BYTES", 1)
    with pytest.raises(ReadError, match="while converting it"):
        read(good)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_crash_is_told_by_name(good: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kill = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    monkeypatch.setattr(worker, "START", kill)
    with pytest.raises(ReadError, match=rf"onnx crashed \({name}\) while converting it"):
        read(good)


@pytest.mark.parametrize(
    ("start", "fate"),
    [
        ("raise SystemExit(3)", r"failed \(exit 3\)"),
        ("raise OSError('no disk')", r"failed \(OSError: no disk\)"),
        ("pass", r"failed \(exit 0\)"),
        ("print('nonsense')", r"failed \(exit 0\)"),
        ("print('x' * 10**7)", r"failed \(exit 0\)"),
        ("import sys; sys.stdin.buffer.read(); sys.exit(1)", r"failed \(exit 1\)"),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    good: Path, monkeypatch: pytest.MonkeyPatch, start: str, fate: str
) -> None:
    monkeypatch.setattr(worker, "START", start)
    with pytest.raises(ReadError, match=fate):
        read(good)


def test_what_cpp_prints_is_not_taken_for_the_answer(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatty = (
        "from hubtool.formats.onnx import lift\nsilent = lift.lift\n"
        "def chatty(data):\n"
        "    import os\n"
        "    os.write(1, b'Warning: this is C++ speaking\\n')\n"
        "    return silent(data)\n"
        "lift.lift = chatty\n"
    )
    monkeypatch.setattr(worker, "START", f"{IMPORTS}{chatty}{CALL}")
    assert [layer.op for layer in read(good).layers] == ["Relu"]


def test_a_module_in_the_current_folder_is_not_imported(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs hubtool in a downloaded folder must not run the json.py in it."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in ("json", "onnx", "signal", "resource", "subprocess"):
        folder.joinpath(f"{name}.py").write_text("open('was-here', 'w')\n")
    monkeypatch.chdir(folder)
    assert read(good).layers
    assert not Path("was-here").exists()


def test_no_worker_is_left_when_the_model_is_refused_before(tmp_path: Path) -> None:
    hostile = model([node("Relu", ["W"], ["Y"])], weights=[external([2], ("location", "../x"))])
    with pytest.raises(ReadError, match="leaves the model's folder"):
        read(save(tmp_path / "m.onnx", hostile))


def converter_crasher() -> bytes:
    """A layer reads what nobody makes: this crashed onnx 1.23's version converter."""
    proto = model(
        [node("EyeLike", ["x"], ["y"], dtype=1, k=1)],
        opset=22,
        inputs=[value("", [4, 5], TensorProto.INT32)],
        outputs=[value("y", [4, 5])],
    )
    return proto.SerializeToString()


def inference_crasher() -> bytes:
    """The same of another operator: this crashed onnx 1.23's shape inference."""
    attributes = {"keys_strings": ["a", "b"], "values_int64s": [0, 1]}
    proto = model(
        [node("LabelEncoder", ["X"], ["Y"], domain="ai.onnx.ml", **attributes)],
        inputs=[value("Q", None, TensorProto.INT16)],
        domains={"ai.onnx.ml": 4},
    )
    return proto.SerializeToString()


def recursive_function() -> bytes:
    body = [node("F", ["x"], ["y"], domain="f")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    function = helper.make_function("f", "F", ["x"], ["y"], body, opsets)
    caller = [node("F", ["X"], ["Y"], domain="f")]
    return model(caller, opset=20, functions=[function], domains={"f": 1}).SerializeToString()


@pytest.mark.parametrize("make", [converter_crasher, inference_crasher, recursive_function])
def test_files_that_crashed_onnx_are_one_error(tmp_path: Path, make: object) -> None:
    path = save(tmp_path / "m.onnx", make())
    with pytest.raises((ReadError, UnsupportedError)) as refusal:
        read(path)
    assert str(path) in str(refusal.value)


def test_functions_that_double_forty_times_end_at_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 40 functions calls the next one twice: 2^40 layers, once they are inlined."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    functions = []
    for number in range(40):
        op, domain = (f"F{number + 1}", "f") if number < 39 else ("Relu", "")
        body = [node(op, ["x"], ["a"], domain=domain), node(op, ["a"], ["y"], domain=domain)]
        functions.append(helper.make_function("f", f"F{number}", ["x"], ["y"], body, opsets))
    caller = [node("F0", ["X"], ["Y"], domain="f")]
    proto = model(caller, opset=20, functions=functions, domains={"f": 1})
    monkeypatch.setattr(worker, "SECONDS", 10)
    monkeypatch.setattr(worker, "BYTES", 1 << 30)
    with pytest.raises(ReadError, match="converting it"):
        read(save(tmp_path / "m.onnx", proto))


def int64s(name: str, *numbers: int) -> TensorProto:
    return from_array(np.array(numbers, np.int64), name)


SIZES = {
    "sizes multiply past 2^64": tensor("W", [2**32, 2**32], b"abcd"),
    "sizes multiply to 0 past 2^64": tensor("W", [2**32, 2**32]),
    "sizes beside a 0": tensor("W", [0, 2**62, 2**62]),
    "negative sizes": tensor("W", [-2, -2], b"abcd" * 4),
    "10^12 elements in 4 bytes": tensor("W", [10**12], b"abcd"),
    "10^12 elements in 4000 bytes": tensor("W", [10**12], b"abcd" * 1000),
    "10^12 strings": TensorProto(name="W", dims=[10**12], data_type=8, string_data=[b"a"]),
    "10^12 elements one by one": TensorProto(name="W", dims=[10**12], data_type=1, float_data=[1]),
    "10^15 bits": tensor("W", [10**15], b"a", TensorProto.INT2),
    "100 dimensions": tensor("W", [1] * 100, b"abcd"),
    "a million dimensions": tensor("W", [1] * 10**6, b"abcd"),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_tensor_that_lies_about_its_size_is_refused(tmp_path: Path, case: str) -> None:
    proto = model([node("Identity", ["W"], ["Y"])], weights=[SIZES[case]])
    path = save(tmp_path / "m.onnx", proto)
    with pytest.raises(ReadError, match="tensor 'W'"):
        read(path)


@pytest.mark.parametrize("dims", [[10**8, 10**8], [2**24 + 1], [-1, -1], [-(2**62), 4]])
def test_a_sparse_tensor_that_would_be_huge_is_refused(tmp_path: Path, dims: list[int]) -> None:
    proto = model([node("Identity", ["W"], ["Y"])])
    sparse = proto.graph.sparse_initializer.add(dims=dims)
    sparse.values.CopyFrom(tensor("W", [1], b"abcd"))
    sparse.indices.CopyFrom(int64s("", 0))
    with pytest.raises(ReadError, match="of sparse tensor 'W' is too large"):
        read(save(tmp_path / "m.onnx", proto), isolated=False)


def test_many_sparse_tensors_share_one_limit(tmp_path: Path) -> None:
    proto = model([node("Identity", ["W0"], ["Y"])])
    for number in range(40):
        sparse = proto.graph.sparse_initializer.add(dims=[2**20])
        sparse.values.CopyFrom(tensor(f"W{number}", [1], b"abcd"))
        sparse.indices.CopyFrom(int64s("", 0))
    with pytest.raises(ReadError, match="is too large"):
        read(save(tmp_path / "m.onnx", proto), isolated=False)


OUTPUTS = {
    "ConstantOfShape": ([node("ConstantOfShape", ["S"], ["Y"], name="big")], [10**15]),
    "Expand": ([node("Expand", ["X", "S"], ["Y"], name="big")], [10**15, 2, 3]),
    "Tile": ([node("Tile", ["X", "S"], ["Y"], name="big")], [10**8, 10**7]),
    "a shape of 10^9 axes": (
        [node("ConstantOfShape", ["S"], ["T"], name="big"), node("Expand", ["X", "T"], ["Y"])],
        [10**15],
    ),
}


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_of_petabytes_is_read_without_being_made(
    tmp_path: Path, case: str, isolated: bool
) -> None:
    nodes, shape = OUTPUTS[case]
    path = save(tmp_path / "m.onnx", model(nodes, weights=[int64s("S", *shape)]))
    assert len(read(path, isolated=isolated).layers) == len(nodes)


@pytest.mark.parametrize("case", ["ConstantOfShape", "Expand", "Tile"])
def test_an_output_of_petabytes_is_a_clear_error_when_it_is_run(tmp_path: Path, case: str) -> None:
    """Expand costs nothing by itself; whoever computes with it needs the room."""
    (big,), shape = OUTPUTS[case]
    made = node(case, big.input, ["made"])
    last = node("Relu", ["made"], ["Y"], name="last")
    path = save(tmp_path / "m.onnx", model([made, last], weights=[int64s("S", *shape)]))
    runner = Model(read(path, isolated=False), backend="numpy")
    with pytest.raises(RunError, match=r"while running .*(Unable to allocate|would take)"):
        runner.run({"X": np.ones((2, 3), np.float32)})


def test_a_hundred_thousand_layers_are_read(tmp_path: Path) -> None:
    names = ["X", *(f"v{number}" for number in range(99_999)), "Y"]
    nodes = [node("Relu", [a], [b], name=b) for a, b in pairwise(names)]
    path = save(tmp_path / "m.onnx", model(nodes))
    assert len(read(path, isolated=False).layers) == 100_000


@pytest.mark.parametrize("name", ["same", "", "Relu_9"])
def test_ten_thousand_layers_of_one_name_get_names_of_their_own(tmp_path: Path, name: str) -> None:
    values = ["X", *(f"v{number}" for number in range(9_999)), "Y"]
    nodes = [node("Relu", [a], [b], name=name) for a, b in pairwise(values)]
    graph = read(save(tmp_path / "m.onnx", model(nodes)), isolated=False)
    assert len({layer.name for layer in graph.layers}) == 10_000


def test_a_name_of_megabytes_is_read_and_shortened_in_messages(tmp_path: Path) -> None:
    long = "n" * 10**7
    good = model([node("Relu", ["X"], ["Y"], name=long)])
    assert read(save(tmp_path / "m.onnx", good), isolated=False).layers[0].name == long
    unknown = {f"odd{number}": 1 for number in range(2_000)}
    bad = model([node("Relu", ["X"], ["Y"], name=long, **unknown)])
    with pytest.raises(UnsupportedError) as refusal:
        read(save(tmp_path / "m.onnx", bad), isolated=False)
    assert len(refusal.value.problems) == 2_000
    assert max(map(len, refusal.value.problems)) < 500


def test_one_long_string_does_not_cost_its_length_for_each(tmp_path: Path) -> None:
    """numpy's own strings would take 4 TB for these."""
    texts = [b"x" * 10**7, *[b""] * 100_000]
    weight = TensorProto(name="W", dims=[len(texts)], data_type=8, string_data=texts)
    proto = model([node("Identity", ["W"], ["Y"])], weights=[weight])
    array = read(save(tmp_path / "m.onnx", proto), isolated=False).tensors["W"].array
    assert (array.dtype, len(array[0]), array[-1]) == (object, 10**7, "")


def test_an_interrupted_read_leaves_no_worker(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: worker.Worker, data: bytes, label: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.Worker, "lift", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(good)
