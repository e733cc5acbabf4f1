"""Models cut and given a new head: the same numbers up to the cut, and a model like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from passes.builders import floats, residual_net

import hubtool
from hubtool import Graph, InputError, Model, Value
from hubtool.interpreter import HOST, Program
from hubtool.passes import prune

X = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)


def test_a_cut_model_gives_what_the_whole_one_has_there() -> None:
    graph = residual_net()
    seen: dict[str, np.ndarray] = {}
    Program(graph, HOST).run(
        {"data": X}, watch=lambda each, made: seen.update({each.name: made[0]})
    )
    for each in graph.layers:
        part = hubtool.features(graph, each.name)
        assert isinstance(part, Graph) and [*part.outputs] == [each.outputs[0]]
        assert prune(part).layers == part.layers
        np.testing.assert_array_equal(
            Program(part, HOST).run({"data": X})[each.outputs[0]], seen[each.name]
        )
    assert len(hubtool.features(graph, graph.layers[0].name).tensors) < len(graph.tensors)
    assert graph.layers == residual_net().layers, "the whole one stays as it is"


def test_a_value_is_named_as_well_as_a_layer_and_a_model_stays_where_it_runs() -> None:
    graph = residual_net()
    value = graph.layers[1].outputs[0]
    model = hubtool.features(Model(graph, backend="torch", threads=1), value)
    assert isinstance(model, Model) and (model.backend, model.threads) == ("torch", 1)
    assert [*model.outputs] == [value]


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    graph = residual_net()
    name = graph.layers[2].name
    with pytest.raises(InputError, match=f"Did you mean '{name}'"):
        hubtool.features(graph, name[:-1] + "_")


def test_a_head_gives_a_score_a_label_and_goes_where_models_go(tmp_path: Path) -> None:
    graph = residual_net()
    base = hubtool.features(graph, graph.layers[-1].name)
    base.outputs = {name: floats("N", 4, 6, 6) for name in base.outputs}
    whole = hubtool.with_head(base, ["cat", "dog", "owl"], seed=3)
    assert whole.meta["labels"] == ["cat", "dog", "owl"]
    (output,) = whole.outputs.values()
    assert output == Value("tensor", "float32", ("N", 3))
    features = Program(base, HOST).run({"data": X})
    mean = next(iter(features.values())).mean((2, 3))
    wanted = mean @ whole.tensors["head_weight"].array.T
    hubtool.save(whole, tmp_path / "model")
    for backend in ("numpy", "torch", "onnxruntime"):
        got = hubtool.load(tmp_path / "model", backend=backend)(X)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert hubtool.with_head(base, ["cat", "dog", "owl"], seed=3).tensors == whole.tensors
    again = hubtool.with_head(whole, ["x"])
    assert [*again.outputs] == ["head_2"], "names are never used twice"


def test_what_cannot_bear_a_head_is_told() -> None:
    graph = residual_net()
    for outputs in (
        {"a": floats("N", None)},
        {"a": Value("tensor", "int64", (1, 4))},
        {"a": floats(1, 2), "b": floats(1, 2)},
        {"a": Value("tensor", "float32", None)},
    ):
        graph.outputs = outputs
        with pytest.raises(InputError, match="a head needs one float32 output"):
            hubtool.with_head(graph, ["x"])
    graph.outputs = {"a": floats(1, 2)}
    with pytest.raises(InputError, match="at least one label"):
        hubtool.with_head(graph, [])
