"""The sketches of the zoo's ResNets: the same structure, other weights, and numbers that behave."""

from __future__ import annotations

from collections import Counter
from functools import cache

import mutants
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hubtool import zoo
from hubtool.formats.onnx.sketch import packed_floats, resnet

FLOAT_MODELS = [model.name for model in zoo.models() if not model.quantized]
COUNTS = {
    "resnet18-v1": (69, 103),
    "resnet34-v1": (125, 183),
    "resnet50-v1": (175, 300),
    "resnet101-v1": (345, 589),
    "resnet152-v1": (515, 878),
    "resnet18-v2": (69, 100),
    "resnet34-v2": (125, 180),
    "resnet50-v2": (174, 261),
    "resnet101-v2": (344, 516),
    "resnet152-v2": (514, 771),
}


def draw(name: str, seed: int = 0) -> ModelProto:
    known = zoo.find(name)
    prefix = known.output.removesuffix("_dense0_fwd")
    return resnet(known.version, known.depth, prefix=prefix, name=name, seed=seed)


@cache
def small(version: int) -> ModelProto:
    return draw(f"resnet18-v{version}")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 224, 224), np.float32)


def run(model: ModelProto | str, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options).run(None, {"data": x})[0]


@cache
def small_logits(version: int) -> np.ndarray:
    return run(small(version), picture())


def error(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(abs(logits - expected).max() / abs(expected).max())


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_a_sketch_has_the_structure_of_the_published_file_to_the_byte(name):
    model = draw(name)
    marked = model.ByteSize()
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    assert model.ByteSize() == zoo.find(name).bytes
    assert 200 < marked - model.ByteSize() < 250
    assert (len(model.graph.node), len(model.graph.input)) == COUNTS[name]
    assert [value.name for value in model.graph.output] == [zoo.find(name).output]


@pytest.mark.parametrize("version", [1, 2])
def test_a_sketch_is_valid_and_every_weight_is_an_input_too(version):
    model = small(version)
    onnx.checker.check_model(model)
    assert (model.ir_version, model.opset_import[0].version) == (3, 7)
    weights = [tensor.name for tensor in model.graph.initializer]
    assert [value.name for value in model.graph.input] == ["data", *weights]
    sizes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["N", 3, 224, 224]
    stored = {bool(t.float_data) for t in model.graph.initializer if t.data_type == 1}
    assert stored == {True}
    assert not any(tensor.raw_data for tensor in model.graph.initializer)


def test_a_sketch_says_that_it_is_untrained_and_of_what():
    said = {entry.key: entry.value for entry in small(1).metadata_props}
    assert said == {"hubtool.untrained": "true", "hubtool.zoo": '"resnet18-v1"'}
    assert "UNTRAINED" in small(1).doc_string


def test_v1_has_the_names_and_attributes_of_the_zoo():
    nodes = {node.name: node for node in small(1).graph.node}
    add = nodes["resnetv15_stage2__plus0"]
    assert list(add.input) == ["resnetv15_stage2_batchnorm2_fwd", "resnetv15_stage2_batchnorm1_fwd"]
    assert nodes["resnetv15_stage1__plus1"].input[0] == "resnetv15_stage1_activation0"
    norm = nodes["resnetv15_stage1_batchnorm0_fwd"]
    assert list(norm.input)[1:] == [
        f"resnetv15_stage1_batchnorm0_{end}"
        for end in ("gamma", "beta", "running_mean", "running_var")
    ]
    said = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
    assert said == {"epsilon": pytest.approx(1e-5), "momentum": pytest.approx(0.9), "spatial": 1}
    assert [n.op_type for n in small(1).graph.node][-3:] == ["GlobalAveragePool", "Flatten", "Gemm"]


def test_a_v1_bottleneck_strides_on_its_first_1x1_and_biases_both():
    model = draw("resnet50-v1")
    convs = {n.name: n for n in model.graph.node if n.op_type == "Conv"}
    block = [convs[f"resnetv17_stage2_conv{index}_fwd"] for index in range(4)]
    strides = [next(a.ints[0] for a in n.attribute if a.name == "strides") for n in block]
    assert strides == [2, 1, 1, 2]
    assert [len(n.input) for n in block] == [3, 2, 3, 2]
    assert sum(len(n.input) == 3 for n in convs.values()) == 32
    assert "flatten_473" in [n.name for n in model.graph.node]


def test_v2_starts_with_batch_normalization_and_flattens_by_a_shape_that_is_an_input():
    graph = small(2).graph
    assert (graph.node[0].op_type, graph.node[0].input[0]) == ("BatchNormalization", "data")
    reshape = next(node for node in graph.node if node.op_type == "Reshape")
    assert reshape.input[1] == "reshape_attr_tensor164"
    shape = next(t for t in graph.initializer if t.name == reshape.input[1])
    assert numpy_helper.to_array(shape).tolist() == [0, -1]
    assert reshape.input[1] in [value.name for value in graph.input]
    followers = Counter(n.op_type for n in graph.node if any("_plus" in i for i in n.input))
    assert set(followers) == {"BatchNormalization", "Add"}


def test_the_seed_decides_the_weights():
    def first(seed: int) -> np.ndarray:
        return numpy_helper.to_array(draw("resnet18-v1", seed).graph.initializer[0])

    assert np.array_equal(first(3), first(3))
    assert not np.array_equal(first(3), first(4))


@pytest.mark.parametrize("name", ["resnet18-v1", "resnet18-v2", "resnet152-v1", "resnet152-v2"])
def test_logits_are_tame_and_tell_pictures_apart(name):
    grey = np.full((1, 3, 224, 224), 0.5, np.float32)
    noise, other, flat = run(draw(name), np.concatenate([picture(0), picture(1), grey]))
    assert 1 < abs(noise).max() < 100
    assert 1 < abs(flat).max() < 100
    assert error(other, noise) > 0.02
    assert error(flat, noise) > 0.2


@pytest.mark.parametrize("version", [1, 2])
def test_another_float32_engine_agrees_to_1e_5(version):
    lifted = mutants.at_opset(small(version), 15)  # the reference fails on BatchNormalization 7
    theirs = ReferenceEvaluator(lifted).run(None, {"data": picture()})[0]
    assert error(theirs, small_logits(version)) < 1e-5


def test_packed_floats_are_what_protobuf_would_have_written():
    for size in (1, 31, 32, 5000):
        values = np.arange(size, dtype=np.float32)
        theirs = TensorProto(float_data=values.tolist())
        assert packed_floats(values) == theirs.SerializeToString()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "mutate",
    [
        mutants.not_inputs,
        mutants.raw_data,
        mutants.as_constants,
        mutants.as_identities,
    ],
    ids=lambda mutate: mutate.__name__,
)
def test_a_mutant_computes_the_same(mutate, version):
    mutant = mutate(small(version))
    onnx.checker.check_model(mutant)
    assert mutant != small(version)
    assert np.array_equal(run(mutant, picture()), small_logits(version))


def test_raw_data_and_back_is_the_sketch_again():
    assert mutants.float_data(mutants.raw_data(small(1))) == small(1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_mutant_with_external_data_computes_the_same(version, tmp_path):
    mutants.external_data(small(version), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 100_000
    assert (tmp_path / "weights.bin").stat().st_size > 46_000_000
    assert np.array_equal(run(str(tmp_path / "model.onnx"), picture()), small_logits(version))


def test_a_mutant_with_spatial_0_is_what_the_zoo_once_served():
    assert np.array_equal(run(mutants.spatial_0(small(1)), picture()), small_logits(1))
    with pytest.raises(Exception, match="Invalid input scale"):
        run(mutants.spatial_0(small(2)), picture())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("opset", [8, 9, 14, 28])
def test_a_mutant_at_a_later_opset_computes_the_same(opset, version):
    mutant = mutants.at_opset(small(version), opset)
    assert mutant.opset_import[0].version == opset
    assert np.array_equal(run(mutant, picture()), small_logits(version))


@pytest.mark.parametrize("version", [1, 2])
def test_a_mutant_at_opset_6_computes_the_same(version):
    mutant = ReferenceEvaluator(mutants.at_opset(small(version), 6))
    assert error(mutant.run(None, {"data": picture()})[0], small_logits(version)) < 1e-5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("opset", [3, 4, 5])
def test_a_mutant_below_opset_6_is_valid_there(opset, version):
    mutant = mutants.at_opset(small(version), opset)
    onnx.checker.check_model(mutant)
    flatten = next(n for n in mutant.graph.node if n.op_type in ("Reshape", "Flatten"))
    assert len(flatten.input) == (2 if version == 2 and opset == 5 else 1)
    norms = [n for n in mutant.graph.node if n.op_type == "BatchNormalization"]
    assert all("consumed_inputs" in [a.name for a in n.attribute] for n in norms)
