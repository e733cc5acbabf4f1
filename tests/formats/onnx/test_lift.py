"""Old opsets: a model means after the lifting what it meant before, or is refused.

ONNX Runtime judges: it runs the source as it is, and what hubtool read from it, written out again.
Opsets below 7, which it refuses, are in test_old.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile import model, node, save, value
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from hubtool.errors import UnsupportedError
from hubtool.formats.onnx.read import read
from hubtool.formats.onnx.write import write
from hubtool.graph import Graph
from hubtool.ops import OPSETS

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


A = floats(2, 3, 4)
IMAGE = floats(1, 2, 4, 4)
STATISTICS = {"s": floats(2), "b": floats(2), "m": floats(2), "v": np.abs(floats(2))}
BATCH_NORM = ["X", "s", "b", "m", "v"]


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def built(
    nodes: list[NodeProto],
    opset: int,
    feeds: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes that gives Y; ir_version 7, which every runtime reads."""
    inputs = [
        value(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
        for name, array in feeds.items()
    ]
    return model(
        nodes,
        opset=opset,
        ir=7,
        inputs=inputs,
        weights=[from_array(array, name) for name, array in (weights or {}).items()],
    )


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return InferenceSession(path, options).run(None, feeds)


def lifted(folder: Path, proto: onnx.ModelProto) -> Graph:
    return read(save(folder / "source.onnx", proto), isolated=False)


def assert_same(folder: Path, proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Graph:
    """ONNX Runtime gives the same for the source and for what was read from it."""
    graph = lifted(folder, proto)
    write(graph, folder / "lifted.onnx")
    expected, actual = run(folder / "source.onnx", feeds), run(folder / "lifted.onnx", feeds)
    for theirs, ours in zip(expected, actual, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    return graph


Case = tuple[list[NodeProto], dict[str, np.ndarray], dict[str, np.ndarray]]

CASES: dict[str, tuple[list[int], Case]] = {}
"""By name: the opsets to test, and nodes, feeds and weights."""


def case(
    name: str,
    opsets: list[int],
    nodes: list[NodeProto] | NodeProto,
    feeds: dict[str, np.ndarray],
    **weights: np.ndarray,
) -> None:
    CASES[name] = (opsets, (nodes if isinstance(nodes, list) else [nodes], feeds, weights))


for op in ("Softmax", "LogSoftmax", "Hardmax"):
    case(op, [7, 9, 11, 12, 13], node(op, ["A"], ["Y"]), {"A": A})
    for axis in (0, 1, 2):
        case(f"{op} axis {axis}", [7, 12, 13], node(op, ["A"], ["Y"], axis=axis), {"A": A})
    case(f"{op} axis -1", [11, 13], node(op, ["A"], ["Y"], axis=-1), {"A": A})
    case(f"{op} axis -2", [11, 13], node(op, ["A"], ["Y"], axis=-2), {"A": A})
case("Dropout", [7, 10, 12, 13], node("Dropout", ["A"], ["Y"]), {"A": A})
case("Dropout ratio", [7, 10], node("Dropout", ["A"], ["Y"], ratio=0.9), {"A": A})
case("Dropout mask unread", [7, 10], node("Dropout", ["A"], ["Y", "mask"]), {"A": A})
case(
    "BatchNormalization",
    [7, 8, 9, 14, 15],
    node("BatchNormalization", BATCH_NORM, ["Y"], epsilon=0.1),
    {"X": IMAGE},
    **STATISTICS,
)
case(
    "BatchNormalization spatial",
    [7, 8],
    node("BatchNormalization", BATCH_NORM, ["Y"], spatial=1),
    {"X": IMAGE},
    **STATISTICS,
)
for scale in (1.0, 1.5, 2.0, 3.0):
    scales = [1.0, 1.0, scale, scale]
    for mode in ("nearest", "linear"):
        case(
            f"Upsample {mode} {scale}",
            [7, 8],
            node("Upsample", ["X"], ["Y"], scales=scales, mode=mode),
            {"X": IMAGE},
        )
        case(
            f"Upsample {mode} {scale} of 9",
            [9],
            node("Upsample", ["X", "scales"], ["Y"], mode=mode),
            {"X": IMAGE},
            scales=np.array(scales, np.float32),
        )
for scale in (0.3, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 2.7):
    for mode in ("nearest", "linear"):
        scales = np.array([1, 1, scale, scale], np.float32)
        case(
            f"Resize {mode} {scale} of 10",
            [10],
            node("Resize", ["X", "scales"], ["Y"], mode=mode),
            {"X": IMAGE},
            scales=scales,
        )
        case(
            f"Resize {mode} {scale} of 11",
            [11, 12],
            node("Resize", ["X", "roi", "scales"], ["Y"], mode=mode),
            {"X": IMAGE},
            scales=scales,
            roi=np.zeros(0, np.float32),
        )
        case(
            f"Resize {mode} {scale} of 13",
            [13, 18, 19],
            node("Resize", ["X", "", "scales"], ["Y"], mode=mode),
            {"X": IMAGE},
            scales=scales,
        )
case(
    "Resize linear that shrinks and grows",
    [10],
    node("Resize", ["X", "scales"], ["Y"], mode="linear"),
    {"X": IMAGE},
    scales=np.array([1, 1, 0.5, 2], np.float32),
)
case("Slice", [7, 9], node("Slice", ["A"], ["Y"], starts=[0, -2], ends=[1, 2**63 - 1]), {"A": A})
case("Pad", [7, 10], node("Pad", ["A"], ["Y"], pads=[0, 0, 1, 0, 0, 1], value=3.0), {"A": A})
case(
    "Pad reflect", [7], node("Pad", ["A"], ["Y"], pads=[0, 0, 1, 0, 0, 1], mode="reflect"), {"A": A}
)
case("Clip", [7, 10], node("Clip", ["A"], ["Y"], max=0.1), {"A": A})
case("Clip of nothing", [7, 11], node("Clip", ["A"], ["Y"]), {"A": A})
case("TopK", [7, 9], node("TopK", ["A"], ["Y", "i"], k=2), {"A": A})
case("Split", [7, 11, 13], node("Split", ["A"], ["Y", "Z"], axis=2), {"A": A})
case("Split of parts", [7, 11], node("Split", ["A"], ["Y", "Z"], axis=2, split=[1, 3]), {"A": A})
case(
    "Unsqueeze and Squeeze",
    [7, 11, 12],
    [node("Unsqueeze", ["A"], ["u"], axes=[0, 4]), node("Squeeze", ["u"], ["Y"], axes=[0])],
    {"A": A},
)
for op in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
    opsets = [7, 11, 12] if op == "Sum" else [7, 11, 13, 17]
    reduce = node(f"Reduce{op}", ["A"], ["Y"], axes=[1], keepdims=0)
    case(f"Reduce{op}", opsets, reduce, {"A": np.abs(A)})
    case(f"Reduce{op} of all", opsets, node(f"Reduce{op}", ["A"], ["Y"]), {"A": np.abs(A)})
case("Gemm", [7, 9, 11], node("Gemm", ["a", "w", "c"], ["Y"], alpha=0.5, beta=2.0, transA=1),
     {"a": floats(3, 2)}, w=floats(3, 4), c=floats(4))  # fmt: skip
case(
    "ArgMax",
    [7, 11, 12],
    [node("ArgMax", ["A"], ["i"], axis=1), node("Cast", ["i"], ["Y"], to=1)],
    {"A": A},
)
case("Max", [7, 8], node("Max", ["A", "B"], ["Y"]), {"A": A, "B": -A})
case("Max, broadcast", [8], node("Max", ["A", "B"], ["Y"]), {"A": A, "B": floats(4)})
case("OneHot", [9, 10], node("OneHot", ["i", "d", "v"], ["Y"]), {"i": ints(-1, 0, 2)},
     d=np.array(3), v=np.array([0, 1], np.float32))  # fmt: skip
case("Scatter", [9, 10], node("Scatter", ["A", "i", "u"], ["Y"], axis=1), {"A": A},
     i=ints(0, 1).reshape(1, 1, 2), u=floats(1, 1, 2))  # fmt: skip
case("RoiAlign", [10, 16],
     node("RoiAlign", ["X", "r", "i"], ["Y"], output_height=2, output_width=2, sampling_ratio=2),
     {"X": IMAGE}, r=np.array([[0, 0, 3, 3], [1, 1, 2.5, 3]], np.float32),
     i=ints(0, 0))  # fmt: skip
for mode in ("bilinear", "nearest", "bicubic"):
    case(f"GridSample {mode}", [16], node("GridSample", ["X", "g"], ["Y"], mode=mode),
         {"X": IMAGE}, g=floats(1, 3, 3, 2))  # fmt: skip
case("DFT", [17, 19], node("DFT", ["D"], ["Y"], axis=1), {"D": floats(1, 8, 1)})
for pads in ([0, 0, 0, 0], [1, 1, 1, 1]):
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads, "ceil_mode": 1}
    case(
        f"AveragePool {pads}",
        [10, 11, 19],
        node("AveragePool", ["X"], ["Y"], count_include_pad=1, **window),
        {"X": floats(1, 2, 6, 6)},
    )
    case(
        f"MaxPool {pads}",
        [10, 11, 12],
        node("MaxPool", ["X"], ["Y"], **window),
        {"X": floats(1, 2, 6, 6)},
    )
for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    case(op, [7, 13], node(op, ["S", "W", "R"], ["", "Y"], hidden_size=2), {"S": floats(3, 1, 2)},
         W=floats(1, 2 * gates, 2), R=floats(1, 2 * gates, 2))  # fmt: skip
for auto_pad in ("SAME_UPPER", "SAME_LOWER"):
    case(
        f"ConvTranspose {auto_pad}",
        [7, 11],
        node("ConvTranspose", ["X", "W"], ["Y"], auto_pad=auto_pad, strides=[2, 2]),
        {"X": IMAGE},
        W=floats(2, 2, 3, 3),
    )
case(
    "QuantizeLinear and DequantizeLinear",
    [10, 13, 19],
    [node("QuantizeLinear", ["A", "s", "z"], ["q"]),
     node("DequantizeLinear", ["q", "s", "z"], ["Y"])],
    {"A": A}, s=np.array(0.1, np.float32), z=np.array(3, np.uint8),
)  # fmt: skip
case("Mod", [10, 13], node("Mod", ["A", "B"], ["Y"], fmod=1), {"A": A, "B": np.abs(A) + 1})
case("CumSum", [11], node("CumSum", ["A", "axis"], ["Y"]), {"A": A}, axis=np.array(1))
case("PRelu", [7, 9, 16], node("PRelu", ["A", "slope"], ["Y"]), {"A": A}, slope=floats(3, 1))
case("Expand", [8, 13], node("Expand", ["A", "shape"], ["Y"]), {"A": A}, shape=ints(2, 2, 3, 4))
case("LRN", [7, 13], node("LRN", ["X"], ["Y"], size=3), {"X": IMAGE})
case("Reshape", [7, 13, 14], node("Reshape", ["A", "shape"], ["Y"]), {"A": A}, shape=ints(0, -1))


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, (opsets, _) in CASES.items() for opset in opsets]
)
def test_a_layer_means_what_it_meant(tmp_path: Path, name: str, opset: int) -> None:
    nodes, feeds, weights = CASES[name][1]
    assert_same(tmp_path, built(nodes, opset, feeds, weights), feeds)


@pytest.mark.parametrize("opset", range(7, OPSETS[""] + 1))
def test_a_small_network_of_every_opset_means_what_it_meant(tmp_path: Path, opset: int) -> None:
    nodes = [
        node("Conv", ["X", "W"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        node("Relu", ["n"], ["r"], name="relu"),
        node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "bias"], ["d"], name="dense", transB=1),
        node("Softmax", ["d"], ["Y"], name="soft"),
    ]
    weights = {"W": floats(2, 2, 3, 3), **STATISTICS, "w": floats(5, 2), "bias": floats(5)}
    proto = built(nodes, opset, {"X": IMAGE}, weights)
    proto.ir_version = 3 if opset < 9 else 10 if opset < 24 else onnx.IR_VERSION
    if opset < 9:
        proto.graph.input.extend(value(name, w.shape) for name, w in weights.items())
    graph = assert_same(tmp_path, proto, {"X": IMAGE})
    names = [layer.name for layer in graph.layers]
    assert names[:7] == ["conv", "norm", "relu", "pool", "mean", "flat", "dense"]
    assert graph.meta["source"]["opset"] == opset


def test_spatial_0_with_statistics_of_one_axis_is_read_as_1_with_a_note(tmp_path: Path) -> None:
    def norm(spatial: int) -> onnx.ModelProto:
        nodes = [node("BatchNormalization", BATCH_NORM, ["Y"], name="bn", spatial=spatial)]
        return built(nodes, 7, {"X": IMAGE}, STATISTICS)

    graph = lifted(tmp_path, norm(0))
    assert graph.layers == lifted(tmp_path, norm(1)).layers
    assert graph.meta["notes"] == [
        "1 BatchNormalization layers said spatial=0 with statistics of one axis, which is "
        "invalid; they were read as spatial=1 (onnx/models#146)"
    ]


@pytest.mark.parametrize("stored", ["initializers", "constants", "inputs"])
def test_spatial_0_with_statistics_of_every_position_is_done_flat(
    tmp_path: Path, stored: str
) -> None:
    weights = {name: np.abs(floats(2, 4, 4)) for name in "sbmv"}
    nodes = [node("BatchNormalization", BATCH_NORM, ["Y"], name="bn", spatial=0)]
    feeds = {"X": np.concatenate([IMAGE, -IMAGE])}
    if stored == "constants":
        constants = [
            node("Constant", [], [name], value=from_array(w)) for name, w in weights.items()
        ]
        proto = built([*constants, *nodes], 7, feeds)
    elif stored == "inputs":
        feeds |= weights
        proto = built(nodes, 7, feeds)
    else:
        proto = built(nodes, 8, feeds, weights)
    write(lifted(tmp_path, proto), tmp_path / "lifted.onnx")
    s, b, m, v = weights.values()
    (made,) = run(tmp_path / "lifted.onnx", feeds)
    np.testing.assert_allclose(
        made, (feeds["X"] - m) / np.sqrt(v + 1e-5) * s + b, rtol=1e-4, atol=1e-5
    )


REFUSED = {
    "Dropout whose mask is read": (
        10,
        [
            node("Dropout", ["A"], ["d", "mask"], name="drop"),
            node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            node("Mul", ["d", "m"], ["Y"]),
        ],
        "layer 'drop' (Dropout) gives its mask, undefined until opset 12",
    ),
    "Resize that shrinks and grows": (
        10,
        [node("Resize", ["A", "scales"], ["Y"], name="re")],
        "layer 're' (Resize) shrinks and grows, as only opset 10 can say",
    ),
    "Scan of several lengths": (
        8,
        [
            node(
                *("Scan", ["lengths", "A"], ["Y"], "scan"),
                num_scan_inputs=1,
                body=helper.make_graph(
                    [node("Relu", ["a"], ["b"])], "body", [value("a", [4])], [value("b", [4])]
                ),
            )
        ],
        "layer 'scan' (Scan) has sequences of several lengths, as only opset 8 can say",
    ),
    "Resize for nearest that is linear": (
        11,
        [
            node(
                *("Resize", ["A", "", "scales"], ["Y"], "re"),
                mode="linear",
                coordinate_transformation_mode="tf_half_pixel_for_nn",
            )
        ],
        "layer 're' (Resize) has tf_half_pixel_for_nn, as opsets 11 and 12 can say",
    ),
    "Resize for nearest that is rounded up": (
        12,
        [
            node(
                *("Resize", ["A", "", "scales"], ["Y"], "re"),
                nearest_mode="ceil",
                coordinate_transformation_mode="tf_half_pixel_for_nn",
            )
        ],
        "layer 're' (Resize) has tf_half_pixel_for_nn, as opsets 11 and 12 can say",
    ),
    "BatchNormalization whose saved statistics are read": (
        9,
        [
            node("BatchNormalization", ["A", "s", "s", "s", "s"], ["n", *"mvwx"], name="bn"),
            node("Add", ["w", "x"], ["Y"]),
        ],
        "layer 'bn' (BatchNormalization) gives the saved statistics of opsets 1 to 13",
    ),
    "ConstantFill that appends to a shape": (
        7,
        [node("ConstantFill", ["A"], ["Y"], name="fill", extra_shape=[2])],
        "layer 'fill' (ConstantFill) appends to the shape of its input, as only opset 1 can say",
    ),
    "ScaledTanh without a scale": (
        7,
        [node("ScaledTanh", ["A"], ["Y"], name="tanh", alpha=1.0)],
        "layer 'tanh' (ScaledTanh) lacks alpha or beta",
    ),
    "ImageScaler with an attribute of nobody's": (
        7,
        [node("ImageScaler", ["A"], ["Y"], name="scaler", gain=1.0)],
        "layer 'scaler' (ImageScaler) has attributes that are not known: gain",
    ),
    "an operator that was withdrawn for good": (
        7,
        [node("GRUUnit", ["A"], ["Y"], name="unit")],
        "layer 'unit' (GRUUnit): no operator 'GRUUnit' is known",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_later_opset_can_say_is_refused_by_name(tmp_path: Path, name: str) -> None:
    opset, nodes, problem = REFUSED[name]
    weights = {
        "s": np.ones(1, np.float32),
        "b": np.zeros(1, np.float32),
        "scales": np.array([1, 0.5, 2], np.float32),
        "lengths": ints(2, 3),
    }
    with pytest.raises(UnsupportedError) as refusal:
        lifted(tmp_path, built(nodes, opset, {"A": A}, weights))
    assert refusal.value.problems == [problem]


def test_every_refusal_of_a_model_is_told_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Dropout", ["X"], ["d", "mask"], name="drop"),
        node("BatchNormalization", ["d", "s", "b", "m", "v"], ["n", *"pqrt"], name="bn"),
        node("Cast", ["mask"], ["c"], to=TensorProto.FLOAT),
        node("Add", ["c", "t"], ["Y"]),
    ]
    with pytest.raises(UnsupportedError) as refusal:
        lifted(tmp_path, built(nodes, 8, {"X": IMAGE}, STATISTICS))
    named = [problem.partition(")")[0] for problem in refusal.value.problems]
    assert named == ["layer 'bn' (BatchNormalization", "layer 'drop' (Dropout"]


def test_a_resize_whose_scales_are_computed_is_noted(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["X"], ["now"]),
        node("Cast", ["now"], ["from"], to=TensorProto.FLOAT),
        node("Div", ["wanted", "from"], ["scales"]),
        node("Resize", ["X", "scales"], ["Y"], name="re"),
    ]
    wanted = np.array([1, 2, 6, 10], np.float32)
    proto = built(nodes, 10, {"X": IMAGE}, {"wanted": wanted})
    graph = assert_same(tmp_path, proto, {"X": IMAGE})
    assert graph.meta["notes"] == ["layer 're' (Resize) was read as one that makes pictures larger"]


def test_repairs_reach_into_subgraphs(tmp_path: Path) -> None:
    branches = {
        "then_branch": helper.make_graph(
            [node("Hardmax", ["A"], ["t"])], "t", [], [value("t", [2, 3, 4])]
        ),
        "else_branch": helper.make_graph(
            [node("Upsample", ["A", "s"], ["e"], mode="linear")], "e", [], [value("e", [2, 3, 4])]
        ),
    }
    nodes = [node("If", ["c"], ["Y"], **branches)]
    weights = {"s": np.array([1, 1, 1.5], np.float32)}
    for condition in (True, False):
        feeds = {"A": A, "c": np.array(condition)}
        proto = built(nodes, 9, feeds, weights)
        folder = tmp_path / str(condition)
        folder.mkdir()
        assert_same(folder, proto, feeds)


def test_hardmax_in_the_middle_of_others_keeps_its_name_and_makes_no_name_twice(
    tmp_path: Path,
) -> None:
    nodes = [
        node("Relu", ["A"], ["h_shape"], name="hard_shape"),
        node("Hardmax", ["h_shape"], ["h"], name="hard", axis=2),
        node("Hardmax", ["h"], ["i"], name="hard_flat", axis=0),
        node("Add", ["i", "h_shape"], ["Y"]),
    ]
    graph = assert_same(tmp_path, built(nodes, 9, {"A": A}), {"A": A})
    assert [layer.name for layer in graph.layers if layer.op == "Hardmax"] == ["hard", "hard_flat"]
