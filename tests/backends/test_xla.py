import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from passes.builders import floats, layer, random_net, residual_net

from hubtool import Model, transfer
from hubtool.backends import xla as backend
from hubtool.backends import xla_cache, xla_compiled
from hubtool.backends.parts import plan
from hubtool.backends.xla_dtypes import registered
from hubtool.dtypes import BITS, CARRIERS, NUMBERS, numpy_dtype
from hubtool.errors import BackendError, InputError, RunError, UnsupportedError
from hubtool.graph import Graph, Tensor, Value

from .grids import ACTIVATIONS, CONVS, POOLS, alone, assert_close, defined, draw


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Nothing that an earlier test compiled is found again."""
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))


def check(graph: Graph, feeds: dict[str, Any], tolerance: float = 1e-5) -> None:
    """The graph on XLA, unprepared, computes what it does in plain numpy."""
    runner = backend.Runner(graph, plan(graph), backend.XlaSpace("cpu"), disk_cache=False)
    assert runner.notes == []
    assert_close(runner.run(feeds), defined(graph, feeds), tolerance)


@pytest.fixture
def own(monkeypatch):
    """No definition may be fallen back to."""

    def refuse(op: str) -> None:
        raise AssertionError(f"the definition of {op} was asked for")

    monkeypatch.setattr(sys.modules["hubtool.backends"], "lookup", refuse)


@pytest.fixture
def fallen_back(monkeypatch):
    """The operators whose definition was asked for, in order."""
    seen = []
    lookup = sys.modules["hubtool.backends"].lookup
    monkeypatch.setattr(
        sys.modules["hubtool.backends"], "lookup", lambda op: (seen.append(op), lookup(op))[1]
    )
    return seen


# Operators


@pytest.mark.parametrize("index", range(0, len(CONVS), 3))
def test_conv_is_what_its_definition_says(index, own):
    inputs, attrs = CONVS[index]
    check(alone("Conv", inputs, **attrs), {"X": inputs["X"]})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_conv_is_what_its_definition_says(activation, own):
    residuals = [None, (2, 4, 5, 5), (4, 1, 1), (3, 2, 4, 5, 5)]
    inputs = {"X": draw(2, 3, 5, 5), "W": draw(4, 3, 3, 3), "B": draw(4)}
    attrs: dict[str, Any] = {"activation": activation} if activation else {}
    if ACTIVATIONS[activation]:
        attrs["activation_params"] = ACTIVATIONS[activation]
    for residual in residuals:
        if residual is not None:
            inputs["Z"] = draw(*residual, seed=1)
        graph = alone("com.microsoft.FusedConv", inputs, pads=[1, 1, 1, 1], **attrs)
        check(graph, {"X": inputs["X"]})


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 2], "pads": [0, 1, 2, 0], "dilations": [2, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},
        {"strides": [2, 2], "output_shape": [12, 12]},
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        {"group": 2, "strides": [2, 1]},
    ],
    ids=str,
)
def test_conv_transpose_is_what_its_definition_says(attrs, own):
    inputs = {"X": draw(2, 4, 5, 5), "W": draw(4, 3, 3, 3)}
    inputs["B"] = draw(3 * attrs.get("group", 1))
    check(alone("ConvTranspose", inputs, **attrs), {"X": inputs["X"]})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("index", range(0, len(POOLS), 5))
def test_a_pool_is_what_its_definition_says(op, index, own):
    X = draw(2, 3, 8, 7)
    more = {"count_include_pad": index % 2} if op == "AveragePool" else {}
    check(alone(op, {"X": X}, **more, **POOLS[index]), {"X": X})


def test_a_pool_of_integers_or_with_indices_falls_back(fallen_back):
    X = np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4) - 8
    check(alone("MaxPool", {"X": X}, kernel_shape=[2, 2], pads=[1, 1, 1, 1]), {"X": X})
    X = draw(1, 2, 4, 4)
    check(alone("MaxPool", {"X": X}, outputs=2, kernel_shape=[2, 2]), {"X": X}, 0)
    assert fallen_back == ["MaxPool"] * 2


def test_what_does_not_fit_is_said_in_the_words_of_the_definition():
    graph = alone("Conv", {"X": draw(1, 5, 4, 4), "W": draw(4, 3, 3, 3)})
    with pytest.raises(RunError, match=r"while running Conv 'layer_y0' .* X has 5 channels"):
        backend.prepare(graph).run({"X": draw(1, 5, 4, 4)})


def test_erf_is_xlas_own():
    x = draw(3, 4)
    check(alone("Erf", {"input": x}), {"input": x}, 1e-6)


# Numbers


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_rounded_between_layers_and_only_there(dtype):
    """XLA would leave out the rounding of what is widened again at once."""
    x = draw(4, 64).astype(numpy_dtype(dtype))
    graph = Graph(
        layers=[
            layer("Mul", {"A": "x", "B": "x"}, "square"),
            layer("Mul", {"A": "square", "B": "x"}, "cube"),
            layer("Cast", {"input": "cube"}, "y", to=NUMBERS["float32"]),
        ],
        inputs={"x": Value("tensor", dtype, (4, 64))},
        outputs={"y": floats(4, 64)},
    )
    wide = x.astype(np.float32)
    square = (wide * wide).astype(x.dtype).astype(np.float32)
    wanted = (square * wide).astype(x.dtype).astype(np.float32)
    np.testing.assert_array_equal(backend.prepare(graph).run({"x": x})["y"], wanted)


SMALL_FLOATS = [d for d in NUMBERS if d.startswith("float8") or d in ("bfloat16", "float16")]


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_every_value_of_a_small_float_comes_and_goes(dtype):
    space = backend.XlaSpace("cpu")
    every = np.arange(2 ** BITS[dtype], dtype=f"uint{BITS[dtype]}").view(numpy_dtype(dtype))
    with space.settings():
        array = space.put(every)
        assert space.dtype_of(array) == dtype
        assert space.get(array).tobytes() == every.tobytes()
        wide = space.get(space.cast(array, "float32"))
        np.testing.assert_array_equal(wide, every.astype(np.float32))
        back = space.get(space.cast(space.put(wide), dtype))
    assert back.dtype == every.dtype
    np.testing.assert_array_equal(back.astype(np.float32), wide)


@pytest.mark.parametrize("dtype", [*SMALL_FLOATS, *CARRIERS])
def test_casts_to_few_bits_round_as_ml_dtypes_does(dtype):
    space = backend.XlaSpace("cpu")
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    if "int" in dtype:  # beyond their range, and of a fraction, the operator decides
        x = np.arange(-128, 128, dtype=np.int8)
    with np.errstate(all="ignore"):
        wanted = x.astype(numpy_dtype(dtype))
    with space.settings():
        given = space.get(space.cast(space.put(x), dtype))
    assert given.dtype == wanted.dtype
    np.testing.assert_array_equal(given.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("dtype", CARRIERS)
def test_what_xla_is_not_shown_is_carried_from_layer_to_layer(dtype):
    x = np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
    graph = Graph(
        layers=[
            layer("Cast", {"input": "x"}, "small", to=NUMBERS[dtype], saturate=1, round_mode="up"),
            layer("Transpose", {"data": "small"}, "turned", perm=[1, 0]),
            layer("Concat", {"inputs": ["turned", "w"]}, "y", axis=0),
            layer("Cast", {"input": "y"}, "z", to=1, saturate=1, round_mode="up"),
        ],
        inputs={"x": floats(2, 4)},
        outputs={name: Value("tensor", "", None) for name in ("small", "y", "z")},
        tensors={"w": Tensor.of(np.asarray([[0, 1]], numpy_dtype(dtype)))},
    )
    made = backend.prepare(graph).run({"x": x})
    small = x.astype(np.int8).astype(numpy_dtype(dtype))
    found = {name: value.dtype.name for name, value in made.items()}
    assert found == {"small": dtype, "y": dtype, "z": "float32"}
    np.testing.assert_array_equal(made["small"], small)
    np.testing.assert_array_equal(made["z"][:4], small.T.astype(np.float32))


def test_integers_of_64_bits_stay_so():
    x = np.asarray([2**40 + 1, -1], np.int64)
    graph = alone("Add", {"A": x, "B": x})
    np.testing.assert_array_equal(backend.prepare(graph).run({"A": x})["y0"], 2 * x)
    y = np.asarray([1 + 2**-40])
    graph = alone("Mul", {"A": y, "B": y})
    np.testing.assert_array_equal(backend.prepare(graph).run({"A": y})["y0"], y * y)


# Settings


def every_setting() -> dict[str, Any]:
    return {**jax.config.values, "enable_x64": jax.numpy.arange(3).dtype.name}


def test_nothing_of_jaxs_is_set_for_the_process():
    before = every_setting()
    graph = residual_net()
    runner = backend.prepare(graph)
    runner.run({"data": draw(2, 4, 6, 6)}, keep=True)
    backend.put(draw(3).astype(np.float64))
    assert every_setting() == before
    assert before["enable_x64"] == "int32"


def test_nor_by_a_run_that_fails():
    before = every_setting()
    with pytest.raises(RunError):
        test_layer = alone("Conv", {"X": draw(1, 5, 4, 4), "W": draw(4, 3, 3, 3)})
        backend.prepare(test_layer).run({"X": draw(1, 5, 4, 4)})
    assert every_setting() == before


def test_what_a_user_has_set_does_not_change_a_run():
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    with (
        jax.default_matmul_precision("bfloat16"),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.transfer_guard("disallow"),
        jax.debug_nans(True),
    ):
        made = backend.prepare(graph).run(feeds)
    assert_close(made, defined(graph, feeds), 1e-5)


# Parts


def found_and_counted() -> Graph:
    """Two things to compile, what XLA cannot between them, and a shape."""
    return Graph(
        layers=[
            layer("Relu", {"X": "x"}, "r", name="before"),
            layer("NonZero", {"X": "r"}, "at", name="search"),
            layer("Neg", {"X": "x"}, "n", name="beside"),
            layer("Shape", {"data": "at"}, "dims", name="dims", start=0),
            layer("Reshape", {"data": "at", "shape": "dims"}, "back", name="after", allowzero=0),
            layer("Add", {"A": "back", "B": "back"}, "twice", name="twice"),
        ],
        inputs={"x": floats(None, None)},
        outputs={
            **{name: Value("tensor", "int64", None) for name in ("twice", "dims")},
            "n": floats(None, None),
        },
    )


def test_a_layer_that_cannot_be_compiled_runs_between_parts_and_is_named():
    graph = found_and_counted()
    runner = backend.prepare(graph)
    assert runner.notes == ["NonZero 'search': how much it gives depends on the elements"]
    kinds = [[each.name for each in part.program.graph.layers] for part in runner.parts]
    assert kinds == [["before", "beside"], ["search"], ["dims", "after", "twice"]]
    for seed in range(2):
        feeds = {"x": draw(3, 4, seed=seed)}
        assert_close(runner.run(feeds), defined(graph, feeds), 0)


def test_prepare_says_why_for_every_kind():
    body = Graph(
        layers=[
            layer("Identity", {"input": "c"}, "c2"),
            layer("Add", {"A": "v", "B": "v"}, "v2"),
        ],
        inputs={
            "i": Value("tensor", "int64", ()),
            "c": Value("tensor", "bool", ()),
            "v": floats(3),
        },
        outputs={"c2": Value("tensor", "bool", ()), "v2": floats(3)},
    )
    branch = Graph(layers=[layer("Neg", {"X": "x"}, "b")], inputs={}, outputs={"b": floats(3)})
    graph = Graph(
        layers=[
            layer("RandomNormalLike", {"input": "x"}, "noise", name="dice"),
            layer("Greater", {"A": "x", "B": "x"}, "more"),
            layer("Loop", {"M": "m", "v_initial": ["x"]}, "looped", name="turns", body=body),
            layer("ReduceSum", {"data": "x"}, "sum", keepdims=0, noop_with_empty_axes=0),
            layer("Cast", {"input": "sum"}, "yes", to=NUMBERS["bool"]),
            layer(
                *("If", {"cond": "yes"}, "either"),
                **{"name": "choice", "then_branch": branch, "else_branch": branch},
            ),
            layer("Unique", {"X": "x"}, "unique", name="alike", sorted=1),
            layer("StringConcat", {"X": "text", "Y": "text"}, "texts", name="words"),
        ],
        inputs={"x": floats(3), "text": Value("tensor", "string", (2,))},
        outputs={
            name: Value("tensor", "", None)
            for name in ("noise", "more", "looped", "either", "unique", "texts")
        },
        tensors={"m": Tensor.of(np.asarray(3))},
    )
    assert backend.prepare(graph).notes == [
        "RandomNormalLike 'dice': random numbers are drawn on the host",
        "Loop 'turns': it goes round, turn by turn",
        "If 'choice': it wants the elements of 'yes'",
        "Unique 'alike': it runs in numpy, as on every backend",
        "StringConcat 'words': it works on text or maps",
    ]


def test_random_numbers_are_others_at_every_run():
    runner = backend.prepare(alone("RandomNormalLike", {"input": draw(8)}))
    one, two = (runner.run({"input": draw(8)})["y0"] for _ in range(2))
    assert (one != two).any()


def test_a_shape_that_is_fed_is_compiled_in():
    graph = Graph(
        layers=[
            layer("Cast", {"input": "s"}, "wide", to=NUMBERS["int64"]),
            layer("Reshape", {"data": "x", "shape": "wide"}, "y", allowzero=0),
        ],
        inputs={"x": floats(6), "s": Value("tensor", "int32", (2,))},
        outputs={"y": floats(None, None)},
    )
    runner = backend.prepare(graph)
    assert (runner.notes, runner.static) == ([], {"s"})
    x = draw(6)
    for shape in (np.int32([2, 3]), jax.numpy.asarray([3, 2]), np.int32([2, 3])):
        made = runner.run({"x": x, "s": shape})["y"]
        np.testing.assert_array_equal(made, x.reshape(*np.asarray(shape)))
    assert len(runner.parts[0].programs) == 2


def test_integers_that_are_data_are_not_compiled_in():
    graph = Graph(
        layers=[layer("Gather", {"data": "w", "indices": "tokens"}, "y", axis=0)],
        inputs={"tokens": Value("tensor", "int64", (4,))},
        outputs={"y": floats(4, 2)},
        tensors={"w": Tensor.of(draw(9, 2))},
    )
    runner = backend.prepare(graph)
    for tokens in ([0, 1, 2, 3], [8, 8, 8, 8]):
        made = runner.run({"tokens": np.asarray(tokens)})["y"]
        np.testing.assert_array_equal(made, draw(9, 2)[tokens])
    assert len(runner.parts[0].programs) == 1


def test_a_part_is_compiled_once_for_each_shape(monkeypatch):
    runner = backend.prepare(residual_net())
    traced = []
    own = xla_compiled.Compiled._compiled
    monkeypatch.setattr(
        xla_compiled.Compiled,
        "_compiled",
        lambda self, weights, given, fixed: (
            traced.append(given["data"].shape),
            own(self, weights, given, fixed),
        )[1],
    )
    for batch in (1, 2, 1, 2):
        runner.run({"data": draw(batch, 4, 6, 6)})
    assert traced == [(1, 4, 6, 6), (2, 4, 6, 6)]


def test_programs_of_a_part_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(xla_compiled, "PROGRAMS", 2)
    runner = backend.prepare(alone("Neg", {"X": draw(1)}), options={"disk_cache": False})
    for size in (1, 2, 3, 1):
        np.testing.assert_array_equal(runner.run({"X": draw(size)})["y0"], -draw(size))
    assert len(runner.parts[0].programs) == 2


def test_weights_are_arguments_of_a_program_and_no_constants_in_it():
    runner = backend.prepare(residual_net())
    (part,) = runner.parts
    assert {*part.weights} == {*runner.graph.tensors}
    kernels = {name: W for name, W in runner.graph.tensors.items() if len(W.shape) == 4}
    assert part.turned == {*kernels}
    for name, W in kernels.items():
        np.testing.assert_array_equal(part.weights[name], W.array.transpose(2, 3, 1, 0))


# Runs


@pytest.mark.parametrize("graph", [residual_net(), *map(random_net, range(5))])
def test_a_prepared_net_computes_what_the_net_says(graph):
    feeds = {"data": draw(2, 4, 6, 6)}
    runner = backend.prepare(graph)
    assert runner.notes == []
    assert_close(runner.run(feeds), defined(graph, feeds), 1e-5)


def test_a_model_may_be_run_from_several_threads_at_once():
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    runner, made = backend.prepare(graph), []
    threads = [threading.Thread(target=lambda: made.append(runner.run(feeds))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for each in made:
        assert_close(each, defined(graph, feeds), 1e-5)


def test_a_second_process_finds_what_the_first_compiled(monkeypatch):
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    first = backend.prepare(graph).run(feeds)
    kept = [*xla_cache.folder().iterdir()]
    assert len(kept) == 1
    assert xla_cache.folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(xla_cache, "_save", lambda path, made: pytest.fail("compiled anew"))
    assert_close(backend.prepare(graph).run(feeds), first, 0)


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_spoilt_file_in_the_cache_is_replaced(content):
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    first = backend.prepare(graph).run(feeds)
    (path,) = xla_cache.folder().iterdir()
    whole = len(path.read_bytes())
    path.write_bytes(content)
    assert_close(backend.prepare(graph).run(feeds), first, 0)
    assert len(path.read_bytes()) == whole


@pytest.mark.parametrize("open_to_others", ["file", "folder"])
def test_what_others_may_have_written_is_not_run(open_to_others, monkeypatch):
    graph, feeds = residual_net(), {"data": draw(2, 4, 6, 6)}
    backend.prepare(graph).run(feeds)
    (path,) = xla_cache.folder().iterdir()
    (path if open_to_others == "file" else path.parent).chmod(0o777)
    saved = []
    monkeypatch.setattr(xla_cache, "_save", lambda path, made: saved.append(path))
    backend.prepare(graph).run(feeds)
    assert saved == [path]


def test_the_cache_keeps_within_its_limit_and_may_be_left_out(monkeypatch):
    monkeypatch.setattr(xla_cache, "LIMIT", 0)
    backend.prepare(alone("Neg", {"X": draw(1)})).run({"X": draw(1)})
    assert [*xla_cache.folder().iterdir()] == []
    xla_cache.folder().rmdir()
    runner = backend.prepare(alone("Neg", {"X": draw(1)}), options={"disk_cache": False})
    runner.run({"X": draw(1)})
    assert not xla_cache.folder().exists()


# Memory


def page(shape: tuple[int, ...], tmp_path: Path) -> np.ndarray:
    """An array that lies as XLA wants it."""
    return np.memmap(tmp_path / "page", np.float32, "w+", shape=shape)


def test_an_array_and_jaxs_are_one_memory(tmp_path):
    array = page((3, 4), tmp_path)
    assert backend.put(array).unsafe_buffer_pointer() == array.ctypes.data
    tensor = torch.from_numpy(array)
    assert backend.put(tensor).unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.parametrize("keep", [False, True])
def test_results_are_the_callers_own(keep, tmp_path):
    x = page((3, 4), tmp_path)
    x[:] = draw(3, 4)
    made = backend.prepare(alone("Identity", {"input": x})).run({"input": x}, keep)["y0"]
    x[:] = 0
    np.testing.assert_array_equal(np.asarray(made), draw(3, 4))
    assert isinstance(made, jax.Array if keep else np.ndarray)


def test_results_that_stay_go_into_the_next_model():
    graph, x = residual_net(), draw(2, 4, 6, 6)
    model = Model(graph, backend="xla")
    (name,) = graph.outputs
    kept = model.run({"data": x}, returns="device")[name]
    assert isinstance(kept, jax.Array)
    np.testing.assert_array_equal(np.asarray(kept), model.run({"data": x})[name])
    relu = Model(alone("Relu", {"X": np.asarray(kept)}), backend="xla")
    np.testing.assert_array_equal(relu(kept), np.maximum(np.asarray(kept), 0))


def test_text_has_no_place_in_jax():
    with pytest.raises(InputError, match="text has no place"):
        transfer(np.asarray(["a"], object), "xla")


# Devices


TWO = """
import numpy as np, jax
from hubtool import Model, transfer
from hubtool.backends import xla
from hubtool.errors import InputError
from passes.builders import residual_net

assert xla.devices() == ["cpu", "cpu:1"], xla.devices()
x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
graph = residual_net()
(name,) = graph.outputs
first = Model(graph, backend="xla", device="cpu")
second = first.to("xla", "cpu:1")
third = second.to("xla", "cpu")
made = [model.run({"data": x})[name] for model in (first, second, third)]
np.testing.assert_array_equal(made[0], made[1])
np.testing.assert_array_equal(made[0], made[2])
kept = second.run({"data": x}, returns="device")[name]
assert kept.devices() == {jax.devices()[1]}, kept.devices()
assert second.device == "cpu:1"
here = transfer(x, "xla", "cpu")
there = transfer(here, "xla", "cpu:1")
assert there.devices() == {jax.devices()[1]}
for model, wrong, right in ((first, there, here), (second, here, there)):
    try:
        model.run({"data": wrong})
    except InputError as error:
        call = f"hubtool.transfer(data, 'xla', '{model.device}') moves it"
        assert call in str(error), error
    else:
        raise AssertionError("data on another device were taken")
    np.testing.assert_array_equal(model.run({"data": right})[name], made[0])
"""


def test_a_second_device_is_another_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    code = textwrap.dedent(TWO)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_device_is_refused_with_those_there_are():
    assert backend.devices() == ["cpu"]
    for device in ("cuda", "cpu:7"):
        with pytest.raises(BackendError, match=rf"no device '{device}' here\nDevices: cpu\."):
            backend.prepare(residual_net(), device)


def test_the_first_of_a_kind_is_meant_by_its_name(monkeypatch):
    place = object()
    monkeypatch.setattr(backend, "_devices", lambda: {"cpu": place, "cuda:0": place})
    assert [backend._device(name) for name in ("cpu", "cpu:0", "cuda")] == ["cpu", "cpu", "cuda:0"]


def test_tf32_is_offered_where_products_have_it_and_strict_is_the_default():
    assert backend.precisions("cpu") == ["float32"]
    assert backend.precisions("cuda:0") == ["float32", "tf32"]
    space = backend.XlaSpace("cpu", backend.PRECISIONS["tf32"])
    with space.settings():
        assert jax.config.jax_default_matmul_precision == "tensorfloat32"
    with backend.XlaSpace("cpu").settings():
        assert jax.config.jax_default_matmul_precision == "highest"


def test_what_hubtool_has_not_is_named_with_its_layer():
    graph = residual_net()
    graph.layers[3].op = "Frobnicate"
    with pytest.raises(UnsupportedError, match="no operator Frobnicate"):
        backend.prepare(graph)


def test_looking_whether_jax_is_there_does_not_import_it(monkeypatch):
    code = (
        "import sys; from hubtool.backends import xla; "
        "assert xla.available() is None and xla.version(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "pip install 'hubtool[xla]'" in str(backend.available())


def test_small_types_go_through_jit_like_arrays():
    space = backend.XlaSpace("cpu")
    carried = space.put(np.asarray([1, -2], ml_dtypes.int4))
    assert isinstance(carried, registered(jax))
    assert [leaf.dtype.name for leaf in jax.tree_util.tree_leaves(carried)] == ["int8"]
