"""Plans are right: what their steps compute, done by numpy, is what the graph computes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from passes.builders import layer

from backends.native_nets import Net, ints, random_net, resnet, singles
from backends.native_steps import Machine, layout
from hubtool.backends.native import library
from hubtool.backends.native.lower import (
    Choice,
    Lowered,
    Unlowerable,
    fill,
    lower,
    reason_against,
)
from hubtool.backends.native.memory import SLACK, place
from hubtool.graph import Graph, Value
from hubtool.interpreter import HOST, Program
from hubtool.passes import prepare

Array = np.ndarray[Any, Any]


def stand_in_packed(isa: str, step: Any) -> int:
    share = int(step["x"]["c"] // step["groups"])
    return -(-int(step["y"]["c"]) * share * int(step["kh"] * step["kw"]) * 4 // 64) * 64


def stand_in_pack(isa: str, step: Any, W: Array, to: Array, threads: int) -> None:
    given = np.ascontiguousarray(W, np.float32).reshape(-1).view(np.uint8)
    to[: given.size] = given


def stand_in_fits(isa: str, step: Any) -> bool:
    return bool(step["algorithm"] == 0 or step["kh"] == step["kw"] == 3)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's word on packing replaced by the plainest one there is."""
    described = layout()
    monkeypatch.setattr(library, "layout", lambda: described)
    monkeypatch.setattr(library, "packed", stand_in_packed)
    monkeypatch.setattr(library, "pack", stand_in_pack)
    monkeypatch.setattr(library, "fits", stand_in_fits)
    yield


def planned(graph: Graph, feeds: dict[str, Array], **options: Any) -> tuple[Lowered, Array]:
    """The plan of a graph, and its packed weights."""
    shapes = {name: feed.shape for name, feed in feeds.items()}
    lowered = lower(graph, shapes, isa="portable", **options)
    room = np.zeros(lowered.blob + 64, np.uint8)
    start = -room.ctypes.data % 64
    blob = room[start : start + lowered.blob]
    fill(lowered, graph, "portable", blob, 1)
    return lowered, blob


def check(net: Net, prepared: bool = True, **options: Any) -> Lowered:
    """What the plan of a net computes is what numpy does; the plan."""
    graph = prepare(net.graph) if prepared else net.graph
    problems = {each.name: reason_against(each, graph) for each in graph.layers}
    assert not any(problems.values()), problems
    feeds = {name: net.arrays[name] for name in net.graph.inputs}
    lowered, blob = planned(graph, feeds, **options)
    outputs = [np.full(shape, np.nan, np.float32) for _, shape in lowered.outputs]
    Machine(lowered.steps, lowered.arena, blob).run([feeds[n] for n in lowered.inputs], outputs)
    expected = Program(net.graph, HOST).run(feeds)
    assert [name for name, _ in lowered.outputs] == [*expected]
    for made, wanted in zip(outputs, expected.values(), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)
    assert len(lowered.labels) == len(lowered.steps)
    return lowered


def kinds(lowered: Lowered) -> list[str]:
    return [library.layout()["kinds"][step["kind"]] for step in lowered.steps]


pytestmark = pytest.mark.usefixtures("stand_in")


def test_a_residual_net_is_planned_as_it_computes() -> None:
    lowered = check(resnet((1, 1), 17, 16))
    assert set(kinds(lowered)) == {"from_nchw", "conv", "max_pool", "global_average"}


@pytest.mark.parametrize("seed", range(36))
def test_random_nets_are_planned_as_they_compute(seed: int) -> None:
    check(random_net(seed))


ACTIVATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("Relu", "X", {}),
    ("LeakyRelu", "X", {"alpha": 0.3}),
    ("Sigmoid", "X", {}),
    ("Tanh", "input", {}),
    ("HardSigmoid", "X", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", "X", {}),
    ("Elu", "X", {"alpha": 0.7}),
    ("Gelu", "X", {"approximate": "none"}),
    ("Gelu", "X", {"approximate": "tanh"}),
    ("Exp", "input", {}),
    ("Sqrt", "X", {}),
    ("Neg", "X", {}),
    ("Abs", "X", {}),
    ("Reciprocal", "X", {}),
    ("Softplus", "X", {}),
    ("Mish", "X", {}),
    ("Erf", "input", {}),
    ("Swish", "X", {"alpha": 1.0}),
    ("com.microsoft.Gelu", "X", {}),
]


@pytest.mark.parametrize(("op", "formal", "attrs"), ACTIVATIONS)
@pytest.mark.parametrize("after", ["conv", "input", "matrix"])
def test_activations_alone_and_at_the_end_of_what_makes_their_input(
    op: str, formal: str, attrs: dict[str, Any], after: str
) -> None:
    net = Net(1, data=(2, 5) if after == "matrix" else (2, 5, 4, 3))
    if after == "conv":
        net.conv(6, 1)
    net.one(op, formal, **attrs)
    lowered = check(net.returns())
    assert kinds(lowered).count("unary") == (after != "conv")


def test_clip_and_prelu_take_their_numbers_from_weights() -> None:
    net = Net(2, data=(2, 5, 4, 3))
    low, high = net.constant(np.float32(-0.5)), net.constant(np.float32(0.7))
    net.add("Clip", {"input": "data", "min": low, "max": high})
    net.add("Clip", {"input": net.last, "max": net.constant(np.float32(0.5))})
    net.add("PRelu", {"X": net.last, "slope": net.constant(singles([0.2]))})
    check(net.returns())


def test_x_times_its_sigmoid_is_one_step_of_the_convolution() -> None:
    net = Net(3, data=(1, 3, 5, 5))
    x = net.conv(16)
    net.two("Mul", x, net.one("Sigmoid"))
    assert kinds(check(net.returns())) == ["from_nchw", "conv", "to_nchw"]


def test_a_flattened_picture_meets_its_weights_where_it_lies() -> None:
    net = Net(4, data=(2, 3, 6, 5))
    net.conv(16)
    net.one("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.one("Flatten", "input")
    B = net.weight(7, 16 * 3 * 2)
    C = net.weight(1, 7)
    net.add("Gemm", {"A": net.last, "B": B, "C": C}, transB=1, alpha=0.5, beta=2.0)
    net.one("Relu")
    assert kinds(check(net.returns())) == ["from_nchw", "conv", "max_pool", "conv"]


def test_matrices_are_read_and_written_where_the_caller_has_them() -> None:
    net = Net(5, data=(9, 33))
    net.two("MatMul", "data", net.weight(33, 10))
    net.two("Add", net.last, net.weight(10))
    net.one("Relu")
    lowered = check(net.returns())
    assert kinds(lowered) == ["conv"] and lowered.arena == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((9, 33), (33, 10)),
        ((2, 9, 5), (2, 5, 4)),
        ((2, 3, 9, 5), (2, 3, 5, 4)),
        ((2, 3, 9, 5), (5, 4)),
    ],
)
def test_products_of_two_computed_matrices(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    net = Net(6, A=a, B=b)
    x, z = net.one("Neg"), net.add("Abs", {"X": "B"})
    net.two("MatMul", x, z)
    net.two("Add", net.last, net.weight(b[-1]))
    net.one("Tanh", "input")
    made = kinds(check(net.returns()))
    assert made.count("matmul") == 1 and "binary" not in made
    plain = Net(6, A=a, B=b)
    plain.two("MatMul", "A", "B")
    check(plain.returns())


def test_concat_is_done_in_place_and_nests() -> None:
    net = Net(7, data=(1, 16, 7, 7))
    features = net.conv(16)
    for _ in range(3):
        net.conv(32, 1)
        net.one("Relu")
        fresh = net.conv(16, 3)
        features = net.concat(features, fresh)
        net.last = features
        net.norm()
        net.one("Relu")
    assert "copy" not in kinds(check(net.returns(), prepared=False))


@pytest.mark.parametrize("channels", [(16, 24, 16), (24, 24, 32), (5, 16, 3), (16, 32, 7)])
def test_concat_of_odd_channels_copies_in_order(channels: tuple[int, ...]) -> None:
    net = Net(8, data=(2, 16, 5, 5))
    names = [net.conv(c, 3, x="data") for c in channels]
    both = net.concat(*names, names[0], "data")
    net.conv(16, 3)
    net.last = both
    net.conv(8, 5)
    check(net.returns(net.last, both, names[1]))


def test_concat_of_matrices_weights_and_twice_the_same() -> None:
    net = Net(9, data=(3, 16), more=(3, 4))
    x = net.two("MatMul", "data", net.weight(16, 32))
    net.concat(x, x, "more", net.weight(3, 5))
    net.concat(net.last, x, axis=-1)
    check(net.returns())


def test_layouts_change_where_they_must() -> None:
    net = Net(10, data=(2, 3, 4, 6))
    x = net.conv(16)
    net.add("Reshape", {"data": x, "shape": net.constant(ints([2, 16, -1]))})
    rows = net.two("MatMul", net.last, net.weight(24, 12))
    net.add("Reshape", {"data": rows, "shape": net.constant(ints([2, 16, 4, 3]))})
    net.conv(8, 3)
    net.add("Unsqueeze", {"data": net.last, "axes": net.constant(ints([0]))})
    net.add("Squeeze", {"data": net.last, "axes": net.constant(ints([0]))})
    net.one("LogSoftmax", "input", axis=1)
    check(net.returns(net.last, rows, x))


def test_zeros_around_a_picture_become_its_halo() -> None:
    net = Net(11, data=(1, 3, 6, 6))
    pads = net.constant(ints([0, 0, 1, 2, 0, 0, 2, 1]))
    net.add("Pad", {"data": "data", "pads": pads})
    x = net.conv(16, 3, strides=[2, 2])
    assert kinds(check(net.returns())) == ["from_nchw", "conv", "to_nchw"]
    net.last = x
    net.one("Relu")
    padded = net.add("Pad", {"data": net.last, "pads": pads})
    net.one("MaxPool", kernel_shape=[2, 2], strides=[1, 1])
    net.last = padded
    net.conv(4, 3)
    net.graph.outputs.clear()
    check(net.returns(net.last, padded))


def test_resize_by_whole_numbers_repeats_pixels_and_nothing_else_does() -> None:
    for mode, nearest, scales, fits in (
        ("asymmetric", "floor", [1, 1, 2, 3], True),
        ("half_pixel", "round_prefer_floor", [1, 1, 2, 2], True),
        ("asymmetric", "ceil", [1, 1, 2, 2], False),
        ("asymmetric", "floor", [1, 1, 1.5, 2], False),
    ):
        net = Net(12, data=(2, 16, 4, 5))
        net.conv(16)
        net.add(
            "Resize",
            {"X": net.last, "scales": net.constant(singles(scales))},
            coordinate_transformation_mode=mode,
            nearest_mode=nearest,
        )
        net.returns()
        if fits:
            assert "upsample" in kinds(check(net))
        else:
            with pytest.raises(Unlowerable, match="whole number"):
                check(net)


def test_pools_means_and_normalization_of_pictures_and_lines() -> None:
    for shape in ((2, 20, 9, 8), (2, 20, 9)):
        rank = len(shape) - 2
        net = Net(13, data=shape)
        net.conv(20)
        pools: dict[str, Any] = {"kernel_shape": [3] * rank, "strides": [2] * rank, "ceil_mode": 1}
        net.one("MaxPool", **pools)
        net.last = net.graph.layers[0].outputs[0]
        a = net.one("AveragePool", **pools, pads=[1] * (2 * rank), count_include_pad=1)
        b = net.one("AveragePool", kernel_shape=[2] * rank, pads=[1] * (2 * rank))
        net.last = a
        c = net.one("LRN", alpha=0.01, beta=0.7, bias=1.5, size=5)
        d = net.one("GlobalMaxPool")
        axes = net.constant(ints([-1, 2][: 1 if rank == 1 else 2]))
        net.add("ReduceMean", {"data": b, "axes": axes}, keepdims=0)
        e = net.one("Softmax", "input", axis=-1)
        check(net.returns(net.graph.layers[1].outputs[0], c, d, e, b))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_operands_are_spread_in_every_way(op: str) -> None:
    variadic = op in ("Max", "Min")
    for z in [
        (2, 5, 4, 3),
        (1,),
        (5, 1, 1),
        (2, 5, 1, 1),
        (2, 1, 4, 3),
        (4, 1),
        (3,),
        (1, 5, 4, 3),
    ]:
        for computed in (False, True):
            net = Net(14, data=(2, 5, 4, 3), z=z)
            x = net.conv(5)
            other = net.one("Abs") if computed and z == (2, 5, 4, 3) else "z"
            other = other if computed else net.weight(*z)
            for pair in ([x, other], [other, x]):
                inputs = {"data_0": pair} if variadic else dict(zip("AB", pair, strict=True))
                net.add(op, inputs)
            net.returns(*net.arrays.keys() & {x.outputs[0] for x in net.graph.layers[-2:]})
            if not computed:
                del net.graph.inputs["z"], net.arrays["z"]
            spread = not computed or z not in [(4, 1), (3,), (1, 5, 4, 3)]
            if spread or z == (3,):
                check(net)
            else:
                problems = [reason_against(each, net.graph) for each in net.graph.layers]
                assert "no kernel for this broadcasting" in problems


def test_a_sum_of_many_and_of_one() -> None:
    net = Net(15, data=(2, 5, 4, 3), b=(2, 5, 4, 3), c=(2, 5, 1, 1))
    net.add("Sum", {"data_0": ["data", "b", "c"]})
    net.add("Max", {"data_0": [net.last]})
    check(net.returns())


def test_outputs_that_are_inputs_or_the_same_as_others() -> None:
    net = Net(16, data=(2, 5, 4, 3), b=(4, 6))
    x = net.conv(8)
    again = net.add("Identity", {"input": x})
    same = net.add("Identity", {"input": "b"})
    y = net.add("MatMul", {"A": "b", "B": net.weight(6, 3)})
    twice = net.add("Reshape", {"data": y, "shape": net.constant(ints([3, 4]))})
    check(net.returns(x, again, same, "b", y, twice), prepared=False)


def test_fused_convolutions_add_what_is_there_already() -> None:
    net = Net(17, data=(2, 16, 6, 6))
    a = net.conv(16)
    b = net.conv(16, 1, x="data")
    net.two("Add", a, b)
    clip = {"min": net.constant(np.float32(0)), "max": net.constant(np.float32(6))}
    net.add("Clip", {"input": net.last, **clip})
    assert kinds(check(net.returns())).count("binary") == 0


def test_two_layers_with_one_weight_share_its_packing() -> None:
    net = Net(18, data=(1, 16, 6, 6))
    W = net.weight(16, 16, 3, 3)
    for _ in range(2):
        net.add("Conv", {"X": net.last, "W": W}, pads=[1, 1, 1, 1])
    lowered = check(net.returns())
    assert [each.sources for each in lowered.weights] == [(W,)]
    offsets = {int(step["weights"]) for step in lowered.steps if step["weights"] >= 0}
    assert offsets == {0}


def test_layers_that_want_one_weight_packed_in_two_ways_have_it_twice() -> None:
    net = Net(18, data=(1, 16, 16, 16))
    W = net.weight(16, 16, 3, 3)
    for strides in ([1, 1], [2, 2]):
        net.add("Conv", {"X": net.last, "W": W}, pads=[1, 1, 1, 1], strides=strides)
    lowered = check(net.returns())
    assert [each.sources for each in lowered.weights] == [(W,), (W,)]


def test_the_rule_for_winograd_and_what_else_may_be_tried() -> None:
    def chosen(size: int, C: int = 16, **options: Any) -> tuple[str, list[Choice]]:
        net = Net(19, data=(1, C, size, size))
        net.conv(16)
        net.returns()
        lowered, _ = planned(net.graph, {"data": net.arrays["data"]}, **options)
        (could,) = lowered.choices.values()
        step = next(step for step in lowered.steps if step["weights"] >= 0)
        return library.layout()["algorithms"][step["algorithm"]], could

    assert [chosen(size)[0] for size in (13, 6, 5)] == ["winograd4", "winograd2", "direct"]
    assert chosen(16, C=8)[0] == "direct" and chosen(16, exact=True)[0] == "direct"
    assert chosen(16, exact=True)[1] == [Choice("direct")]
    assert {choice.algorithm for choice in chosen(16)[1]} == {"direct", "winograd2", "winograd4"}
    given = {"layer_conv0": Choice("winograd2", 1)}
    assert chosen(16, choices=given)[0] == "winograd2"
    assert chosen(16, choices=given, exact=True)[0] == "direct"


def test_pixels_keep_out_of_each_others_way_in_the_cache() -> None:
    net = Net(20, data=(1, 3, 4, 4))
    net.conv(1024, 1)
    net.conv(4, 3)
    lowered = check(net.returns())
    pixels = [int(step["y"]["pixel"]) for step in lowered.steps]
    assert pixels[:2] == [3, 1040]


def test_what_cannot_be_lowered_says_why() -> None:
    net = Net(21, data=(2, 4, 6, 6))
    W = net.weight(4, 4, 3, 3)
    computed = net.add("Neg", {"X": W})
    net.add("Conv", {"X": "data", "W": computed})
    net.add("Transpose", {"data": "data"}, perm=[0, 2, 3, 1])
    net.add("Softmax", {"input": "data"}, axis=2)
    net.add("com.microsoft.QuickGelu", {"X": "data"})
    net.add("Selu", {"X": "data"})
    net.add("PRelu", {"X": "data", "slope": net.weight(4, 1, 1)})
    reasons = [reason_against(each, net.graph) for each in net.graph.layers[1:]]
    assert reasons == [
        "its weights are computed",
        "no kernel",
        "no kernel for this axis",
        "no kernel",
        "no kernel",
        "its slope is not one number",
    ]
    double = Graph(
        [layer("Relu", {"X": "x"}, "y")],
        {"x": Value("tensor", "float64", (2,))},
        {"y": Value("tensor", "float64", (2,))},
    )
    assert reason_against(double.layers[0], double) == "float64"


def test_shapes_that_do_not_fit_are_left_to_numpy_to_tell() -> None:
    net = Net(22, data=(1, 4, 6, 6))
    net.conv(4)
    net.returns()
    for shape in ((1, 5, 6, 6), (1, 4, 6), (0, 4, 6, 6)):
        with pytest.raises(Unlowerable):
            lower(net.graph, {"data": shape}, isa="portable")


def test_no_two_buffers_that_live_together_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        starts = rng.integers(0, 60, 80)
        lives = [
            (int(rng.integers(1, 10_000)), int(start), int(start + rng.integers(0, 20)))
            for start in starts
        ]
        offsets, total = place(lives)
        for i, (size, first, last) in enumerate(lives):
            assert offsets[i] % 64 == 0 and offsets[i] + size + SLACK <= total
            for j in range(i):
                other, since, until = lives[j]
                together = first <= until and since <= last
                apart = (
                    offsets[i] + size + SLACK <= offsets[j]
                    or offsets[j] + other + SLACK <= offsets[i]
                )
                assert apart or not together


def test_resnet_50_is_lowered_quickly_into_a_small_arena() -> None:
    net = resnet(size=32)
    graph = prepare(net.graph)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        lowered = lower(graph, {"data": (1, 3, 224, 224)}, isa="portable")
        times.append(time.perf_counter() - start)
    made = [step["y"] for step in lowered.steps if step["y"]["where"] == 1]
    total = sum(int(y["n"] * y["h"] * y["w"] * y["c"]) * 4 for y in made)
    assert lowered.arena < total / 5
    assert min(times) < 0.1
    assert [label for label in lowered.labels if not label.startswith(("Conv", "com."))] == [
        "import 'data'",
        "MaxPool 'layer_maxpool2'",
        f"GlobalAveragePool '{graph.layers[-3].name}'",
        f"Gemm '{graph.layers[-1].name}'",
    ]
