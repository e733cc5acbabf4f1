"""Plans on the engine itself: every instruction set of this machine computes what numpy does."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from backends.native_nets import Net, random_net, resnet
from hubtool.backends.native import library
from hubtool.backends.native.lower import Choice, Lowered, fill, lower
from hubtool.errors import BackendError
from hubtool.interpreter import HOST, Program
from hubtool.passes import prepare

Array = np.ndarray[Any, Any]

ISAS = library.isas()
_pool: list[library.Pool] = []


def pool() -> library.Pool:
    """One pool of two threads for all."""
    if not _pool:
        _pool.append(library.Pool(2))
    return _pool[0]


def planned(net: Net, isa: str, **options: Any) -> tuple[Lowered, library.Plan]:
    graph = prepare(net.graph)
    shapes = {name: net.arrays[name].shape for name in net.graph.inputs}
    lowered = lower(graph, shapes, isa=isa, **options)
    room = np.zeros(lowered.blob + 64, np.uint8)
    start = -room.ctypes.data % 64
    blob = room[start : start + lowered.blob]
    fill(lowered, graph, isa, blob, 2)
    return lowered, library.Plan(isa, lowered.steps, lowered.arena, blob, pool())


def ran(net: Net, lowered: Lowered, plan: library.Plan) -> list[Array]:
    outputs = [np.full(shape, np.nan, np.float32) for _, shape in lowered.outputs]
    plan.run([net.arrays[name] for name in lowered.inputs], outputs)
    return outputs


def check(net: Net, isa: str, tolerance: float = 3e-5, **options: Any) -> None:
    """The largest difference is small beside the largest number of each output; in bfloat16 the
    difference as a whole beside the output as a whole, since a Sigmoid makes much of a little."""
    made = ran(net, *planned(net, isa, **options))
    expected = Program(net.graph, HOST).run({name: net.arrays[name] for name in net.graph.inputs})
    measure: Any = np.linalg.norm if "precision" in options else np.abs
    for got, wanted in zip(made, expected.values(), strict=True):
        assert np.array_equal(np.isfinite(got), np.isfinite(wanted))
        finite = np.isfinite(wanted)
        error = measure((got - wanted)[finite].astype(np.float64))
        size = measure(wanted[finite].astype(np.float64))
        assert np.max(error, initial=0) <= tolerance * np.max(size, initial=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(36))
def test_random_nets(seed: int, isa: str) -> None:
    check(random_net(seed), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", [{}, {"exact": True}])
def test_a_residual_net(isa: str, options: dict[str, Any]) -> None:
    check(resnet((1, 1), 33, 16), isa, **options)


def odd_net() -> Net:
    """Odd channels, groups of odd sizes, matrices of which both are computed."""
    net = Net(1, data=(2, 5, 6, 6))
    net.conv(9)
    net.one("Relu")
    net.conv(15, 3)
    net.conv(30, 3, group=3)
    a = net.one("Softplus")
    net.two("MatMul", a, net.one("Abs"))
    net.two("Add", net.last, a)
    net.one("Flatten", "input")
    net.two("MatMul", net.last, net.weight(30 * 36, 7))
    return net.returns()


@pytest.mark.parametrize("isa", ISAS)
def test_odd_channels_and_groups(isa: str) -> None:
    check(odd_net(), isa)


def test_nets_in_bfloat16_where_there_is_such_a_product() -> None:
    """Seven bits of mantissa are 0.4 %; fourteen layers, with gates among them, make up to 5 %."""
    for isa in filter(library.has_bf16, ISAS):
        for seed in range(36):
            check(random_net(seed), isa, 0.05, precision="bfloat16")
        check(resnet((1, 1), 33, 16), isa, 0.05, precision="bfloat16")
        check(odd_net(), isa, 0.05, precision="bfloat16")


@pytest.mark.parametrize("isa", ISAS)
def test_every_choice_that_is_offered_computes_the_same(isa: str) -> None:
    net = Net(0, data=(2, 20, 13, 11))
    net.conv(36)
    net.returns()
    lowered, _ = planned(net, isa)
    ((name, choices),) = lowered.choices.items()
    assert {choice.algorithm for choice in choices} == {"direct", "winograd2", "winograd4"}
    for choice in [*choices, Choice("winograd4"), Choice("winograd2")]:
        check(net, isa, 2e-5, choices={name: choice})


def test_one_plan_runs_in_several_threads_and_tells_its_times() -> None:
    net = resnet((1, 1), 33, 16)
    lowered, plan = planned(net, ISAS[0])
    expected = ran(net, lowered, plan)
    results: list[list[Array]] = []
    threads = [
        threading.Thread(target=lambda: results.append(ran(net, lowered, plan))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(made[0], expected[0]) for made in results) and len(results) == 4
    seconds = np.zeros(len(lowered.steps))
    output = np.empty(lowered.outputs[0][1], np.float32)
    plan.run([net.arrays["data"]], [output], seconds)
    assert (seconds > 0).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    net = resnet((1,), 17, 16)
    _, plan = planned(net, ISAS[0])
    data, output = net.arrays["data"], np.empty((1, 10), np.float32)
    for inputs, outputs in (
        ([], [output]),
        ([data.astype(np.float64)], [output]),
        ([data[:, :2]], [output]),
        ([data], [output[:, :5]]),
    ):
        with pytest.raises(ValueError, match=r"wanted|must be"):
            plan.run(inputs, outputs)


def test_an_instruction_set_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in ISAS:
        monkeypatch.setenv("HUBTOOL_NATIVE_ISA", isa)
        assert library.isa() == isa
    monkeypatch.setenv("HUBTOOL_NATIVE_ISA", "mmx")
    with pytest.raises(BackendError, match="mmx"):
        library.isa()


def test_a_library_that_cannot_be_used_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "engine.so").write_bytes(b"no library")
    monkeypatch.setenv("HUBTOOL_NATIVE_LIBRARY", str(tmp_path / "engine.so"))
    assert "cannot be loaded" in str(library.reason())
    with pytest.raises(BackendError, match="cannot be loaded"):
        library.isas()
    monkeypatch.setenv("HUBTOOL_NATIVE_LIBRARY", "")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert "not built" in str(library.reason())
