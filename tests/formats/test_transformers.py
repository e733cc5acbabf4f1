"""What is written for transformers is opened by transformers, and gives the source's logits.

The measure is the largest difference as a part of the largest logit, ONNX Runtime on the source
against PyTorch in transformers; 1e-5 is allowed. Beside the sketches there are small nets, drawn in
torch and exported with names that say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubtool
from hubtool import vision, zoo
from hubtool.backends.onnxruntime import run_file
from hubtool.errors import WriteError
from hubtool.formats.transformers import fits, write
from hubtool.graph import Graph, Tensor

from .torch_resnets import drawn, layers_of

TOLERANCE = 1e-5
IMAGENET = vision.PRESETS["imagenet"]


def difference(folder: Path, source: Path, channels: int = 3, side: int = 32) -> float:
    """How far transformers on the folder is from ONNX Runtime on the source."""
    import torch
    from transformers import AutoModelForImageClassification

    model, loaded = AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(model).__name__ == "ResNetForImageClassification"
    assert not any(loaded.values()), loaded
    x = np.random.default_rng(0).standard_normal((2, channels, side, side)).astype(np.float32)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(x)).logits.numpy()
    (name,) = hubtool.read(source).inputs
    (expected,) = run_file(source, {name: x}).values()
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph]:
    """A basic ResNet with odd widths: its file and its graph, which is not to be changed."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return path, drawn(path, widths=(7, 13, 9), depths=(2, 1, 3), embedding=5)


# ── the zoo's ResNets ──


@pytest.mark.parametrize(
    ("depth", "config"),
    [
        (18, {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}),
        (34, {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]}),
        (
            50,
            {
                "layer_type": "bottleneck",
                "depths": [3, 4, 6, 3],
                "hidden_sizes": [256, 512, 1024, 2048],
            },
        ),
    ],
)
def test_the_zoos_resnets_give_the_same_logits_in_transformers(
    depth: int, config: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "sketch.onnx"
    zoo.sketch(f"resnet{depth}-v1", source)
    hubtool.convert(source, tmp_path / "native", verify=False)
    graph = hubtool.read(tmp_path / "native")
    assert fits(graph) == []
    facts = write(graph, tmp_path / "transformers")
    bottleneck = depth == 50
    assert facts["layer_type"] == config["layer_type"]
    assert facts["files"] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert facts["labels"] == facts["preprocessing"] == ""
    assert ("downsample_in_bottleneck" in facts["bumblebee"]) == bottleneck
    assert bool(facts["bumblebee"]) == bottleneck
    written = config_of(tmp_path / "transformers")
    expected = config | {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": bottleneck,
    }
    assert {key: written[key] for key in expected} == expected
    assert len(written["id2label"]) == len(written["label2id"]) == 1000
    assert difference(tmp_path / "transformers", source, side=224) <= TOLERANCE


# ── what else fits ──

FITTING = {
    "v1.5 bottlenecks": (
        {"layer_type": "bottleneck", "widths": (32, 64), "stride_at": 1},
        {"layer_type": "bottleneck", "downsample_in_bottleneck": False, "hidden_sizes": [32, 64]},
    ),
    "v1 bottlenecks with biases": (
        {"layer_type": "bottleneck", "widths": (18, 22, 30), "depths": (1, 2, 1), "bias": True},
        {"downsample_in_bottleneck": True, "hidden_sizes": [18, 22, 30], "depths": [1, 2, 1]},
    ),
    "one grey channel": ({"channels": 1, "embedding": 3}, {"num_channels": 1, "embedding_size": 3}),
    "a stride in the first stage": (
        {"first_stride": 2, "bias": True},
        {"downsample_in_first_stage": True, "depths": [1, 2]},
    ),
    "one stage": ({"widths": (8,), "depths": (3,)}, {"hidden_sizes": [8], "depths": [3]}),
    "leaky relu": ({"act": "LeakyReLU"}, {"hidden_act": "leaky_relu"}),
    "hard swish": ({"act": "Hardswish"}, {"hidden_act": "hardswish"}),
    "relu6": ({"act": "ReLU6"}, {"hidden_act": "relu6"}),
}


@pytest.mark.parametrize(
    ("case", "folded"),
    [*((case, False) for case in FITTING), *((case, True) for case in [*FITTING][:4])],
)
def test_nets_from_torch_give_the_same_logits_in_transformers(
    case: str, folded: bool, tmp_path: Path
) -> None:
    options, config = FITTING[case]
    graph = drawn(tmp_path / "net.onnx", folded=folded, **options)
    assert bool(layers_of(graph, "BatchNormalization")) != folded
    assert fits(graph) == []
    facts = write(graph, tmp_path / "t")
    written = config_of(tmp_path / "t")
    assert {key: written[key] for key in config} == config
    assert bool(facts["bumblebee"]) == case.startswith(("v1 ", "hard swish"))
    channels = written["num_channels"]
    assert difference(tmp_path / "t", tmp_path / "net.onnx", channels) <= TOLERANCE


def test_odd_widths_and_depths_come_back(small: tuple[Path, Graph], tmp_path: Path) -> None:
    source, graph = small
    write(graph, tmp_path / "t")
    written = config_of(tmp_path / "t")
    assert written["hidden_sizes"] == [7, 13, 9]
    assert written["depths"] == [2, 1, 3]
    assert written["embedding_size"] == 5
    assert difference(tmp_path / "t", source) <= TOLERANCE


def _heads() -> dict[str, Callable[[Any], list[Any]]]:
    from torch import nn

    class Mean(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((2, 3))

    class View(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.view(x.size(0), -1)

    class Product(nn.Module):
        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(dense.weight.T.clone()), dense.bias

        def forward(self, x: Any) -> Any:
            return self.bias + x @ self.weight

    return {
        "mean": lambda dense: [Mean(), nn.Dropout(0.5), dense],
        "view": lambda dense: [nn.AdaptiveAvgPool2d(1), View(), nn.Identity(), dense],
        "product": lambda dense: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), Product(dense)],
    }


@pytest.mark.parametrize(
    ("head", "ops"),
    [("mean", {"ReduceMean"}), ("view", {"Reshape"}), ("product", {"MatMul", "Flatten"})],
)
def test_a_head_may_be_written_in_other_words(head: str, ops: set[str], tmp_path: Path) -> None:
    graph = drawn(tmp_path / "net.onnx", head=_heads()[head])
    assert ops <= {layer.op for layer in graph.layers}
    write(graph, tmp_path / "t")
    assert difference(tmp_path / "t", tmp_path / "net.onnx") <= TOLERANCE


def test_names_and_the_order_of_addends_decide_nothing(
    small: tuple[Path, Graph], tmp_path: Path
) -> None:
    _, graph = small
    other = graph.copy()
    for index, layer in enumerate(other.layers):
        layer.name = f"resnet.classifier.{index * 7919 % 101}"
        if layer.op == "Add":
            layer.inputs = {"A": layer.inputs["B"], "B": layer.inputs["A"]}
    for name in [*other.tensors]:
        other.replace(name, f"data.{name}")
        other.tensors[f"data.{name}"] = other.tensors.pop(name)
    write(graph, tmp_path / "a")
    write(other, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_normalization_keeps_its_statistics_and_a_bias_goes_into_its_mean(
    tmp_path: Path,
) -> None:
    from safetensors.numpy import load_file

    graph = drawn(tmp_path / "net.onnx", bias=True)
    write(graph, tmp_path / "t")
    written = load_file(tmp_path / "t" / "model.safetensors")
    conv, norm = layers_of(graph, "Conv")[0], layers_of(graph, "BatchNormalization")[0]
    source = {
        formal: graph.tensors[str(layer.inputs[formal])].array
        for layer in (conv, norm)
        for formal in layer.inputs
        if formal != "X"
    }
    bias = graph.tensors[str(conv.inputs["B"])].array
    prefix = "resnet.embedder.embedder"
    assert np.array_equal(written[f"{prefix}.convolution.weight"], source["W"])
    assert np.array_equal(written[f"{prefix}.normalization.weight"], source["scale"])
    assert np.array_equal(written[f"{prefix}.normalization.running_var"], source["input_var"])
    assert np.array_equal(
        written[f"{prefix}.normalization.running_mean"],
        (source["input_mean"].astype(np.float64) - bias).astype(np.float32),
    )
    assert {array.dtype.name for array in written.values()} == {"float32", "int64"}


@pytest.mark.parametrize("epsilon", [1e-3, 0.0])
def test_another_epsilon_goes_into_the_variance(
    epsilon: float, small: tuple[Path, Graph], tmp_path: Path
) -> None:
    graph = small[1].copy()
    for norm in layers_of(graph, "BatchNormalization"):
        norm.attrs["epsilon"] = epsilon
    write(graph, tmp_path / "t")
    hubtool.export(graph, tmp_path / "net.onnx")
    assert difference(tmp_path / "t", tmp_path / "net.onnx") <= TOLERANCE


def test_pads_that_are_the_same_in_other_words_fit(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    for conv in layers_of(graph, "Conv"):
        if conv.attrs["strides"] == [1, 1]:
            conv.attrs.pop("pads")
            conv.attrs["auto_pad"] = "SAME_LOWER"
    assert fits(graph) == []


def test_the_dense_layers_own_factors_go_into_its_weights(
    small: tuple[Path, Graph], tmp_path: Path
) -> None:
    graph = small[1].copy()
    (gemm,) = layers_of(graph, "Gemm")
    assert gemm.attrs["transB"] == 1
    weight, bias = (graph.tensors[str(gemm.inputs[formal])].array for formal in "BC")
    graph.tensors |= {"W": Tensor.of(weight.T.copy()), "b": Tensor.of(bias[None])}
    gemm.inputs |= {"B": "W", "C": "b"}
    gemm.attrs |= {"alpha": 0.5, "beta": 3.0, "transB": 0}
    write(graph, tmp_path / "t")
    hubtool.export(graph, tmp_path / "net.onnx")
    assert difference(tmp_path / "t", tmp_path / "net.onnx") <= TOLERANCE


# ── labels and pictures ──


def test_labels_are_written_so_that_no_two_are_alike(
    small: tuple[Path, Graph], tmp_path: Path
) -> None:
    graph = small[1].copy()
    graph.meta["labels"] = ["crane", "maillot", "crane", "crane (2)", "crane"]
    assert write(graph, tmp_path / "t")["labels"] == ""
    written = config_of(tmp_path / "t")
    names = ["crane", "maillot", "crane (3)", "crane (2)", "crane (4)"]
    assert written["id2label"] == {str(index): name for index, name in enumerate(names)}
    assert written["label2id"] == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "the model has no labels"),
        (["a", "b"], "the model has 2 labels and 5 classes"),
        ([1, 2, 3, 4, 5], "the model's labels are no list of texts"),
    ],
)
def test_without_labels_of_its_own_the_classes_are_numbered(
    labels: Any, reason: str, small: tuple[Path, Graph], tmp_path: Path
) -> None:
    graph = small[1].copy()
    graph.meta |= {} if labels is None else {"labels": labels}
    assert write(graph, tmp_path / "t")["labels"] == reason
    assert config_of(tmp_path / "t")["id2label"]["4"] == "LABEL_4"


def test_transformers_classifies_a_picture_as_hubtool_does(
    small: tuple[Path, Graph], tmp_path: Path
) -> None:
    import torch
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    picture = Image.fromarray(load_sample_image("china.jpg"))
    graph = small[1].copy()
    graph.meta |= {"preprocessing": IMAGENET, "labels": [*"abcde"]}
    facts = write(graph, tmp_path / "t")
    assert facts["preprocessing"] == ""
    processor = AutoImageProcessor.from_pretrained(tmp_path / "t")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "t").eval()
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    ours = vision.preprocess(picture, IMAGENET)
    assert tuple(pixels.shape) == ours.shape
    assert np.abs(pixels.numpy() - ours).max() <= 1e-5
    with torch.no_grad():
        probabilities = model(pixels).logits.softmax(-1)[0]
    top = hubtool.classify(hubtool.load(graph), picture, top=5)
    order = probabilities.argsort(descending=True).tolist()
    assert [model.config.id2label[index] for index in order] == [label for label, _ in top]
    assert probabilities[order].numpy() == pytest.approx([p for _, p in top], abs=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        IMAGENET | {"resize": 60, "crop": 48, "interpolation": "bicubic", "range": [-1, 1]},
        IMAGENET | {"interpolation": "lanczos", "range": [0, 255], "mean": [104, 117, 123.5]},
        IMAGENET | {"channels": "L", "mean": [0.5], "std": [0.25], "interpolation": "nearest"},
    ],
)
def test_any_range_size_and_interpolation_gives_the_same_pixels(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from transformers import AutoImageProcessor

    grey = spec["channels"] == "L"
    graph = drawn(tmp_path / "net.onnx", channels=1 if grey else 3)
    graph.meta["preprocessing"] = spec
    facts = write(graph, tmp_path / "t")
    assert facts["preprocessing"] == ""
    assert ("224x224" in facts["bumblebee"]) == (spec["crop"] != 224)
    picture = Image.fromarray(load_sample_image("flower.jpg")).convert("L" if grey else "RGB")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "t")
    pixels = processor(picture, return_tensors="np")["pixel_values"]
    ours = vision.preprocess(picture, spec)
    assert np.abs(pixels - ours).max() <= 1e-5 * max(1, np.abs(ours).max())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (None, "does not say"),
        ("imagenet", "not whole"),
        ({"resize": 256}, "not whole"),
        (IMAGENET | {"mean": None}, "not whole"),
        (IMAGENET | {"channels": "BGR"}, "BGR"),
        (IMAGENET | {"layout": "NHWC"}, "NHWC"),
        (IMAGENET | {"interpolation": "sinc"}, "sinc"),
        (IMAGENET | {"range": [1, 1]}, "the same"),
        (IMAGENET | {"mean": [0.5], "std": [0.5]}, "1 channels, and the model takes 3"),
    ],
)
def test_steps_that_no_processor_does_are_told_and_not_written(
    spec: Any, reason: str, small: tuple[Path, Graph], tmp_path: Path
) -> None:
    graph = small[1].copy()
    graph.meta |= {} if spec is None else {"preprocessing": spec}
    facts = write(graph, tmp_path / "t")
    assert reason in facts["preprocessing"]
    assert facts["files"] == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == facts["files"]


def test_a_bumblebee_without_the_activation_is_told(tmp_path: Path) -> None:
    graph = drawn(tmp_path / "net.onnx", act="Hardswish")
    assert write(graph, tmp_path / "t")["bumblebee"] == "it does not know the activation hardswish"


def test_files_that_are_there_are_kept(small: tuple[Path, Graph], tmp_path: Path) -> None:
    _, graph = small
    write(graph, tmp_path / "t")
    before = (tmp_path / "t" / "model.safetensors").read_bytes()
    with pytest.raises(WriteError, match="cannot write"):
        write(graph, tmp_path / "t")
    assert (tmp_path / "t" / "model.safetensors").read_bytes() == before
