"""What transformers' ResNet cannot say is refused, the layer named, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubtool
from hubtool import zoo
from hubtool.errors import UnsupportedError
from hubtool.formats.transformers import fits, write
from hubtool.graph import Graph, Layer, Tensor, Value

from .torch_resnets import drawn, export, layers_of


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph]:
    """A basic ResNet with odd widths: its file and its graph, which is not to be changed."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    return path, drawn(path, widths=(7, 13, 9), depths=(2, 1, 3), embedding=5)


def test_resnet_v2_is_refused_for_normalizing_first(tmp_path: Path) -> None:
    zoo.sketch("resnet18-v2", tmp_path / "v2.onnx")
    graph = hubtool.read(tmp_path / "v2.onnx")
    (problem,) = fits(graph)
    assert problem.startswith("layer 'resnetv22_batchnorm0_fwd' (BatchNormalization): ")
    assert "v2" in problem
    with pytest.raises(UnsupportedError, match="resnetv22_batchnorm0_fwd"):
        write(graph, tmp_path / "transformers")
    assert not (tmp_path / "transformers").exists()


def test_an_epsilon_for_which_no_variance_can_make_up_is_refused(
    small: tuple[Path, Graph],
) -> None:
    graph = small[1].copy()
    norm = layers_of(graph, "BatchNormalization")[2]
    norm.attrs["epsilon"] = 1e-6
    assert fits(graph) == []
    name = str(norm.inputs["input_var"])
    var = graph.tensors[name].array.copy()
    var[0] = 1e-7
    graph.tensors[name] = Tensor.of(var)
    (problem,) = fits(graph)
    assert problem.startswith(f"layer '{norm.name}' (BatchNormalization): its epsilon is 1e-06")


def _first(op: str, nth: int = 0) -> Callable[[Graph], str]:
    def name(graph: Graph) -> str:
        return f"layer '{layers_of(graph, op)[nth].name}' ({op}): "

    return name


REFUSED: dict[str, tuple[dict[str, Any], Callable[[Graph], str], str]] = {
    "grouped": (
        {"layer_type": "bottleneck", "widths": (32, 64), "stride_at": 1, "groups": 4},
        _first("Conv", 2),
        "has 4 groups",
    ),
    "wide": (
        {"layer_type": "bottleneck", "widths": (32, 64), "stride_at": 1, "widen": 2},
        _first("Conv", 1),
        "goes from 8 to 16 channels, and transformers' bottleneck here from 8 to 8",
    ),
    "stem of 3x3": ({"stem": (3, 2)}, _first("Conv"), "stem is a convolution of 3x3 with stride 2"),
    "stem of stride 1": ({"stem": (7, 1)}, _first("Conv"), "7x7 with stride 1"),
    "squeeze and excitation": ({"excite": True}, _first("GlobalAveragePool"), "squeeze"),
    "pre-activation": ({"preact": True}, _first("BatchNormalization"), "pre-activation"),
    "surplus projection": (
        {"surplus": True},
        _first("Conv", 1),
        "with a projection in its shortcut; transformers builds it without one",
    ),
    "another activation inside": (
        {"act": "LeakyReLU", "inner_act": "LeakyReLU"},
        _first("LeakyRelu", 1),
        "is leaky_relu inside a block",
    ),
    "silu in two layers": ({"act": "SiLU"}, _first("BatchNormalization"), "is read by"),
    "prelu": ({"act": "PReLU"}, _first("PRelu"), "hidden_act"),
    "stride on the last": (
        {"layer_type": "bottleneck", "widths": (32, 64), "stride_at": 2},
        _first("Conv", 7),
        "has a stride",
    ),
    "a stage that keeps the size": (
        {"stage_stride": 1},
        _first("Conv", 3),
        "begins a block from 8 to 12 channels without a stride",
    ),
    "a shortcut of 3x3": ({"shortcut": 3}, _first("Conv", 5), "the shortcut is 3x3 with stride 2"),
    "blocks of two types": (
        {"last_type": "bottleneck"},
        _first("Conv", 3),
        "begins a bottleneck block among basic ones",
    ),
    "stride of 4": (
        {"widths": (8, 12), "depths": (1, 1), "first_stride": 4},
        _first("Conv", 1),
        "stride 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_configuration_cannot_say_is_refused_with_the_layer_named(
    case: str, tmp_path: Path
) -> None:
    options, who, reason = REFUSED[case]
    graph = drawn(tmp_path / "net.onnx", **options)
    problems = fits(graph)
    assert any(p.startswith(who(graph)) and reason in p for p in problems), problems
    with pytest.raises(UnsupportedError) as caught:
        write(graph, tmp_path / "t")
    assert caught.value.problems == problems
    assert not (tmp_path / "t").exists()


def test_a_softmax_at_the_end_is_refused_for_the_logits(tmp_path: Path) -> None:
    from torch import nn

    def head(dense: Any) -> list[Any]:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense, nn.Softmax(1)]

    graph = drawn(tmp_path / "net.onnx", head=head)
    (problem,) = fits(graph)
    assert problem.startswith(_first("Softmax")(graph))
    assert "logits" in problem


def test_a_net_of_depthwise_convolutions_is_refused(tmp_path: Path) -> None:
    from torch import nn

    def unit(before: int, after: int, kernel: int, stride: int, groups: int = 1) -> list[Any]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU6()]

    net = nn.Sequential(
        *unit(3, 8, 3, 2),
        *unit(8, 8, 3, 1, 8),
        *unit(8, 16, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    graph = hubtool.read(export(net, tmp_path / "net.onnx"))
    stem, pool = fits(graph)
    assert stem.startswith(_first("Conv")(graph))
    assert "3x3 with stride 2" in stem
    assert pool.startswith(_first("Conv", 1)(graph))
    assert "MaxPool" in pool


@pytest.mark.parametrize(
    ("op", "nth", "attrs", "reason"),
    [
        ("MaxPool", 0, {"ceil_mode": 1}, "ceil_mode 1"),
        ("MaxPool", 0, {"pads": [0, 0, 1, 1]}, "pads [0, 0, 1, 1]"),
        ("MaxPool", 0, {"kernel_shape": [2, 2]}, "kernel_shape [2, 2]"),
        ("Conv", 0, {"auto_pad": "SAME_UPPER"}, "pads"),
        ("Conv", 2, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, "dilations [2, 2]"),
        ("Conv", 2, {"strides": [1, 2]}, "are not square"),
        ("BatchNormalization", 1, {"training_mode": 1}, "training mode"),
    ],
)
def test_a_layer_with_another_setting_is_refused(
    small: tuple[Path, Graph], op: str, nth: int, attrs: dict[str, Any], reason: str
) -> None:
    graph = small[1].copy()
    layers_of(graph, op)[nth].attrs |= attrs
    assert any(p.startswith(_first(op, nth)(graph)) and reason in p for p in fits(graph)), fits(
        graph
    )


def test_another_activation_in_one_place_is_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    relu = layers_of(graph, "Relu")[3]
    relu.op = "Tanh"
    (problem,) = fits(graph)
    assert problem.startswith(f"layer '{relu.name}' (Tanh): is tanh inside a block")
    relu.op = "Relu"
    last = layers_of(graph, "Relu")[-1]
    last.op = "Tanh"
    (problem,) = fits(graph)
    assert (
        problem == f"layer '{last.name}' (Tanh): is tanh after relu, and hidden_act is one for all"
    )


def test_an_activation_before_the_addition_is_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    add = layers_of(graph, "Add")[1]
    main = next(
        formal
        for formal, name in add.inputs.items()
        if graph.producers()[str(name)].op == "BatchNormalization"
    )
    early = Layer("early", "Relu", {"X": add.inputs[main]}, ["early_value"])
    graph.layers.insert(graph.layers.index(add), early)
    add.inputs[main] = "early_value"
    assert fits(graph) == [
        "layer 'early' (Relu): activates before the addition, transformers' ResNet after it"
    ]


def test_an_addition_of_something_more_is_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    add = layers_of(graph, "Add")[1]
    branches = [str(name) for name in add.inputs.values()]
    add.op, add.inputs = "Sum", {"data_0": branches}
    assert fits(graph) == []
    graph.tensors["more"] = Tensor.of(np.ones((1, 1, 1, 1), np.float32))
    add.inputs = {"data_0": [*branches, "more"]}
    assert fits(graph) == [
        f"layer '{add.name}' (Sum): adds something other than the two branches of a block"
    ]


def test_a_net_without_blocks_is_refused(tmp_path: Path) -> None:
    graph = drawn(tmp_path / "net.onnx", widths=(), depths=())
    assert fits(graph) == [
        f"{_first('GlobalAveragePool')(graph)}no residual block stands before it"
    ]


def test_bottlenecks_have_their_strides_in_one_place(tmp_path: Path) -> None:
    # The last stage's stride moves from the first 1x1 to the 3x3; that of the stage before stays.
    graph = drawn(
        tmp_path / "three.onnx", layer_type="bottleneck", widths=(32, 64, 64), depths=(1, 1, 1)
    )
    assert fits(graph) == []
    last = layers_of(graph, "Conv")[9:12]
    assert last[0].attrs["strides"] == [2, 2]
    last[0].attrs["strides"], last[1].attrs["strides"] = [1, 1], [2, 2]
    (problem,) = fits(graph)
    assert problem.startswith(f"layer '{last[0].name}' (Conv): ")
    assert "one for all" in problem


def test_a_value_that_the_caller_gets_too_is_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    relu = layers_of(graph, "Relu")[2]
    graph.outputs[relu.outputs[0]] = Value("tensor", "float32", None)
    assert fits(graph) == [
        "it has 1 inputs and 2 outputs; transformers' ResNet takes pictures and gives logits"
    ]


def test_weights_that_a_caller_may_replace_are_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    conv = layers_of(graph, "Conv")[1]
    name = str(conv.inputs["W"])
    graph.inputs[name] = Value("tensor", "float32", graph.tensors[name].shape)
    assert fits(graph) == [f"layer '{conv.name}' (Conv): its W is no plain weight of four axes"]


def test_other_dtypes_are_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    graph.tensors = {
        name: Tensor.of(tensor.array.astype(np.float64)) if tensor.dtype == "float32" else tensor
        for name, tensor in graph.tensors.items()
    }
    problems = fits(graph)
    assert f"layer '{layers_of(graph, 'Conv')[0].name}' (Conv): its W is float64, not float32" in (
        problems
    )


def test_a_mean_over_other_axes_is_refused(small: tuple[Path, Graph]) -> None:
    graph = small[1].copy()
    (mean,) = layers_of(graph, "GlobalAveragePool")
    mean.op, mean.inputs = "ReduceMean", {"data": mean.inputs["X"], "axes": "axes"}
    mean.attrs = {"keepdims": 1, "noop_with_empty_axes": 0}
    graph.tensors["axes"] = Tensor.of(np.array([2, -1]))
    assert fits(graph) == []
    graph.tensors["axes"] = Tensor.of(np.array([3]))
    assert fits(graph) == [
        f"layer '{mean.name}' (ReduceMean): does not take the mean over height and width"
    ]
