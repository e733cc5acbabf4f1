"""What could not be read back is not written: every reason at once, and nothing left behind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hubtool.errors import WriteError
from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, TensorRef, Value

LONG = 65


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def small(**meta: object) -> Graph:
    return Graph(
        layers=[Layer("dense", "Gemm", {"A": "x", "B": "W"}, ["y"], {"alpha": 1.0})],
        inputs={"x": Value("tensor", "float32", ("N", 3))},
        outputs={"y": Value("tensor", "float32", ("N", 2))},
        tensors={"W": Tensor.of(np.arange(6, dtype=np.float32).reshape(3, 2))},
        meta=dict(meta),
    )


def unstorable() -> dict[str, tuple[Graph, str]]:
    """Graphs that could not be read back, and what is said of each."""

    def with_attr(attr: object) -> Graph:
        graph = small()
        graph.layers[0].attrs["a"] = attr
        return graph

    def changed(**fields: object) -> Graph:
        graph = small()
        for name, value in fields.items():
            setattr(graph, name, value)
        return graph

    other = Layer("other", "Relu", {"X": "y"}, ["z"])
    late = [other, *small().layers]
    twice = [*small().layers, Layer("dense", "Relu", {"X": "y"}, ["z"])]
    again = [*small().layers, Layer("other", "Relu", {"X": "y"}, ["x"])]
    shaped = Tensor("float32", (2, 2), lambda: np.zeros(3, np.float32))
    typed = Tensor("float32", (3,), lambda: np.zeros(3, np.float64))
    return {
        "late": (changed(layers=late), "layer 'other' (Relu) reads 'y' before"),
        "name": (changed(layers=twice), "layer 'dense' (Relu): its name must be its own"),
        "again": (changed(layers=again), "layer 'other' (Relu) makes 'x', which exists already"),
        "output": (changed(layers=[]), "output 'y' is made by no layer"),
        "nameless": (changed(tensors={"": small().tensors["W"]}), "a value without a name"),
        "domain": (changed(layers=[Layer("l", "my.Op", {}, ["y"])]), "for the domain 'my'"),
        "shape": (changed(tensors={"W": shaped}), "tensor 'W' is said to be Tensor(float32[2,2])"),
        "dtype": (changed(tensors={"W": typed}), "but is float64[3]"),
        "ref": (with_attr(TensorRef("none")), "is the tensor 'none', which is not there"),
        "int": (with_attr(2**63), "beyond 64 bits"),
        "float": (with_attr(1e300), "is 1e+300, beyond float32"),
        "bool": (with_attr(True), "is a bool, which is no attribute"),
        "dict": (with_attr({"tensor": "W"}), "is a dict, which is no attribute"),
        "nested": (with_attr([[1]]), "is a list, which is no attribute"),
        "kind": (with_attr(Value("set", "int8", ())), "unknown kind 'set'"),
        "parens": (with_attr(Value("optional(sequence", "int8", ())), "unknown kind"),
        "element": (with_attr(Value("tensor", "float", ())), "unknown element type 'float'"),
        "dim": (with_attr(Value("tensor", "int8", (-1,))), "its shape holds -1"),
        "surrogate": (with_attr("\ud800"), "half of a surrogate pair"),
        "surrogates": (with_attr(["\ud800"] * LONG), "which is no Unicode text"),
        "bodymeta": (with_attr(Graph(meta={"a": 1})), "a subgraph has no metadata"),
        "text": (
            changed(tensors={"W": Tensor.of(np.array([b"a"], object))}),
            "tensor 'W' holds b'a', which is no Unicode text",
        ),
        "nan": (small(a=[math.nan]), "meta: JSON has no number nan"),
        "set": (small(a={1}), "meta: {1} is a set, no JSON"),
        "tuple": (small(a=(1,)), "is a tuple, no JSON"),
        "key": (small(a={1: 2}), "meta: the key 1 is no text"),
        "huge": (small(a=2**60), "is beyond 2^53"),
    }


@pytest.mark.parametrize("case", unstorable())
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, case: str) -> None:
    graph, message = unstorable()[case]
    with pytest.raises(WriteError) as caught:
        native.write(graph, tmp_path / "m")
    assert message in str(caught.value)
    assert names(tmp_path) == []


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    graph = small(a=math.inf)
    graph.layers[0].inputs["C"] = "nowhere"
    graph.layers[0].attrs["alpha"] = 1e300
    with pytest.raises(WriteError) as caught:
        native.write(graph, tmp_path / "m")
    assert len(caught.value.problems) == 3


def nest(depth: int) -> Graph:
    graph = Graph()
    for _ in range(depth):
        graph = Graph(layers=[Layer("l", "If", {}, [], {"then_branch": graph})])
    return graph


def test_subgraphs_nest_to_64_and_no_deeper(tmp_path: Path) -> None:
    native.write(nest(64), tmp_path / "m")
    assert native.read(tmp_path / "m") == nest(64)
    with pytest.raises(WriteError, match="nested more than 64 deep"):
        native.write(nest(65), tmp_path / "n")
