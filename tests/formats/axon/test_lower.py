from __future__ import annotations

import numpy as np
import pytest

from hubtool.formats.axon import coverage, module
from hubtool.formats.axon.lower import LOWERED, load_lowered, lower
from hubtool.formats.axon.lower_facts import Dim, gather
from hubtool.formats.axon.lower_source import assignment
from hubtool.graph import Graph
from hubtool.ops import load_ops

from .graphs import FAMILIES, FLOAT, Net, saved, transformer

X = ("float32", ("N", 3, 8, 8))


def said(graph: Graph) -> str:
    """All calls, one a line."""
    lowered = lower(graph)
    assert lowered.problems == []
    return "\n".join(f"{step.variable} = {step.value}" for step in lowered.steps)


def test_the_table_holds_operators_only() -> None:
    load_lowered()
    assert set(LOWERED) <= set(load_ops())
    assert len(LOWERED) > 130


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_are_covered_whole(family: str) -> None:
    graph = FAMILIES[family]()
    assert coverage(graph) == []
    lowered = lower(graph)
    assert set(lowered.outputs) == set(graph.outputs)
    used = {parameter.tensor for _, parameter in lowered.parameters}
    assert used | {*lowered.folded} == set(graph.tensors)


def test_a_convolution_is_axons_with_onnxs_meaning() -> None:
    net = Net(x=X)
    net.conv(
        "c", (6, 1, 3, 5), bias=True, group=3, strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3]
    )
    assert said(net.returns()) == (
        "c = Axon.conv(x, 6, kernel_size: {3, 5}, strides: [2, 1], padding: [{0, 2}, {1, 3}], "
        'kernel_dilation: [1, 2], feature_group_size: 3, channels: :first, name: "c")'
    )


@pytest.mark.parametrize(
    ("auto_pad", "padding"),
    [("SAME_UPPER", "[{0, 1}, {0, 1}]"), ("SAME_LOWER", "[{1, 0}, {1, 0}]"), ("VALID", None)],
)
def test_auto_pad_is_resolved(auto_pad: str, padding: str | None) -> None:
    net = Net(x=X)
    net.conv("c", (4, 3, 3, 3), strides=[2, 2], auto_pad=auto_pad)
    text = said(net.returns())
    assert (f"padding: {padding}" in text) if padding else ("padding" not in text)


def test_ceil_mode_becomes_padding_at_the_end() -> None:
    net = Net(x=X)
    net.add("MaxPool", {"X": "x"}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    assert "padding: [{0, 1}, {0, 1}]" in said(net.returns())


@pytest.mark.parametrize(("count_include_pad", "function"), [(0, "Axon.nx"), (1, "Axon.avg_pool")])
def test_an_average_that_leaves_out_padding_is_no_avg_pool(count_include_pad, function) -> None:
    net = Net(x=X)
    attrs = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": count_include_pad}
    net.add("AveragePool", {"X": "x"}, **attrs)
    assert f" = {function}(" in said(net.returns())


@pytest.mark.parametrize(("transB", "turn"), [(1, "&Nx.transpose/1"), (0, "")])
def test_a_dense_kernel_is_turned_where_gemm_transposes_it(transB: int, turn: str) -> None:
    net = Net(x=("float32", ("N", 4)))
    shape = (5, 4) if transB else (4, 5)
    inputs = {"A": "x", "B": net.weight("w", *shape), "C": net.weight("c", 5)}
    net.add("Gemm", inputs, "fc", transB=transB)
    lowered = lower(net.returns())
    ((_, kernel), (_, bias)) = lowered.parameters
    assert (kernel.name, kernel.turn, bias.name, bias.turn) == ("kernel", turn, "bias", "")
    assert str(lowered.steps[0].value) == 'Axon.dense(x, 5, name: "fc")'


def test_a_gemm_that_scales_is_no_dense_layer() -> None:
    net = Net(x=("float32", ("N", 4)))
    net.add("Gemm", {"A": "x", "B": net.weight("w", 40, 50)}, "fc", alpha=0.5, transA=1)
    net.graph.inputs["x"] = net.graph.inputs["x"].__class__("tensor", "float32", (40, "N"))
    assert "Nx.multiply(Nx.dot(Nx.transpose(a), b), 0.5)" in said(net.returns())


def test_tied_weights_are_given_to_each_layer() -> None:
    net = Net(x=("float32", ("N", 9)))
    net.weight("w", 9, 9)
    for name in ("one", "two"):
        net.add("MatMul", {"A": net.last, "B": "w"}, name)
    told = [(layer, p.name, p.tensor) for layer, p in lower(net.returns()).parameters]
    assert told == [("one", "kernel", "w"), ("two", "kernel", "w")]


def test_weights_of_other_floats_stay_what_they_are() -> None:
    net = Net(x=("float16", ("N", 9)))
    net.tensor("w", np.ones((9, 9), np.float16))
    net.add("MatMul", {"A": "x", "B": "w"})
    assert 'Axon.param("b", {9, 9}, type: {:f, 16}, initializer: :zeros)' in said(net.returns())


def test_floats_are_written_short() -> None:
    net = Net(x=X)
    net.norm("bn", 3)
    net.graph.layers[0].attrs["epsilon"] = float(np.float32(1e-5))
    assert "epsilon: 1.0e-5, momentum: 0.9," in said(net.returns())


def test_shape_arithmetic_is_folded_and_no_batch_is_baked_in() -> None:
    text = said(transformer())
    assert "Nx.slice_along_axis(data, 0, Nx.axis_size(like, 1), axis: 0)" in text
    assert "Nx.reshape(data, {Nx.axis_size(data, 0), Nx.axis_size(data, 1), 2, 4})" in text
    assert "Axon.transpose" in text
    assert not any(f"Axon.layer(fn {word}" in text for word in ("shape", "concat"))


def test_a_reshape_of_the_batch_alone_is_axons() -> None:
    net = Net(x=("float32", ("N", 12)))
    net.add("Reshape", {"data": "x", "shape": net.ints(0, 3, 4)}, "r")
    assert said(net.returns()) == 'r = Axon.reshape(x, {:batch, 3, 4}, name: "r")'


def test_a_flattened_batch_and_sequence_is_what_is_left() -> None:
    net = Net(x=("float32", ("N", "S", 4)))
    net.add("Reshape", {"data": "x", "shape": net.ints(-1, 4)}, "r")
    assert "Nx.reshape(data, {:auto, 4})" in said(net.returns())


def test_negative_places_are_counted_from_the_front() -> None:
    net = Net(x=("float32", ("N", 7)))
    net.add("Gather", {"data": "x", "indices": net.tensor("i", np.int64(-1))}, axis=1)
    assert "Nx.take(data, 6, axis: 1)" in said(net.returns())


def test_a_layer_that_nothing_reads_is_left_out() -> None:
    net = Net(x=X)
    net.conv("unused", (4, 3, 1, 1))
    net.add("Relu", {"X": "x"}, "r")
    lowered = lower(net.returns())
    assert [step.name for step in lowered.steps] == ["r"]
    assert lowered.folded == ["unused.weight"]


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "reason"),
    [
        ("MaxPool", {"X": "x"}, {"kernel_shape": [2, 2], "outs": 2}, "indices are read"),
        ("Zonk", {"X": "x"}, {}, "no operator Zonk"),
        ("NonZero", {"X": "x"}, {}, "hubtool cannot say NonZero in Axon"),
        ("Cast", {"input": "x"}, {"to": 22}, "no element type int4"),
        ("Dropout", {"data": "x", "training_mode": "true"}, {}, "drops in inference too"),
        ("Reshape", {"data": "x", "shape": "asked"}, {}, "depends on"),
    ],
)
def test_what_cannot_be_said_is_reported_with_its_layer(op, inputs, attrs, reason) -> None:
    net = Net(x=X, asked=("int64", (2,)))
    net.tensor("true", np.True_)
    if op == "Zonk":
        net.add("Relu", {"X": "x"}, "bad")
        net.graph.layers[0].op = op
    else:
        net.add(op, inputs, "bad", **attrs)
    (problem,) = coverage(net.returns(*net.graph.layers[0].outputs))
    assert reason in problem
    assert op == "Reshape" or f"layer 'bad' ({op})" in problem


def test_every_problem_is_told_at_once() -> None:
    net = Net(x=X)
    for name in ("one", "two"):
        net.add("Cast", {"input": net.last}, name, to=FLOAT)
        net.graph.layers[-1].attrs["to"] = 22
        net.last = "x"
    assert len(coverage(net.returns("one_out", "two_out"))) == 2


def test_a_tensor_without_elements_is_refused() -> None:
    net = Net(x=X)
    net.tensor("empty", np.zeros(0, np.int64))
    net.add("Relu", {"X": "x"})
    (problem,) = coverage(net.returns())
    assert "'empty' has no elements" in problem


def test_padding_that_changes_with_the_picture_is_refused() -> None:
    net = Net(x=("float32", ("N", 3, "H", "W")))
    net.conv("c", (4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
    net.graph.inputs["x"] = net.graph.inputs["x"].__class__("tensor", "float32", ("N", 3, "H", 9))
    odd = net.returns()
    assert coverage(odd) == [] or "depends on the sizes" in coverage(odd)[0]


def test_sizes_of_different_symbols_never_go_in_step() -> None:
    inputs = {f"x{i}": ("float32", (f"A{i}", f"B{i}", f"C{i}")) for i in range(3)}
    net = Net(**inputs)
    net.add("Relu", {"X": "x0"})
    facts = gather(net.returns())
    assert not isinstance(facts, str)
    for symbol, (name, axis) in facts.symbols.items():
        assert facts.dims(name)[axis] == Dim(1, symbol, 0)


def test_a_call_breaks_where_mix_format_breaks_it() -> None:
    net = Net(x=X)
    net.conv("a_rather_long_name_of_a_layer", (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    (step,) = lower(net.returns()).steps
    assert assignment(step.variable, step.value) == [
        "a_rather_long_name_of_a_layer =",
        "  Axon.conv(x, 4,",
        "    kernel_size: {3, 3},",
        "    strides: [2, 2],",
        "    padding: [{1, 1}, {1, 1}],",
        "    use_bias: false,",
        "    channels: :first,",
        '    name: "a_rather_long_name_of_a_layer"',
        "  )",
    ]


@pytest.fixture(scope="module")
def node_cases():
    """One of onnx's own cases for each operator that is in them, as a graph that can be said."""
    from conformance.suite import cases

    found: dict[str, Graph] = {}
    for case in cases().values():
        ops = case.operators - {"Constant"}
        if len(ops) != 1 or not ops <= load_lowered().keys() - found.keys():
            continue
        graph = case.graph.copy()
        feeds, _ = next(case.feeds())
        for name in [*graph.inputs][1:]:
            if name in feeds:
                graph.tensors[name] = _tensor(feeds[name])
                del graph.inputs[name]
        if ops == {layer.op for layer in graph.layers} and not coverage(graph):
            found[ops.pop()] = graph
    return found


def _tensor(array):
    from hubtool.graph import Tensor

    return Tensor.of(np.asarray(array))


def test_every_operator_runs_as_elixir(node_cases, run, tmp_path) -> None:
    listed = []
    for op, graph in node_cases.items():
        folder = tmp_path / op
        text = module(graph, name=f"Case{op}", title=op, weights=saved(graph, folder))
        (folder / "case.ex").write_text(text, encoding="utf-8")
        listed.append(f"{folder}")
    (tmp_path / "list").write_text("\n".join(listed))
    assert run("modules", tmp_path / "list")["ran"] == [str(len(node_cases))]
    in_families = {layer.op for family in FAMILIES.values() for layer in family().layers}
    assert set(LOWERED) == {*node_cases, *in_families}
