"""How backends are named, found and chosen, and what the array backends share."""

import inspect
import mmap
import sys
import types

import numpy as np
import pytest
from passes.builders import residual_net

from hubtool.backends import (
    BACKENDS,
    build,
    default,
    get,
    module,
    numpy,
    prepare,
    torch_functions,
    xla_functions,
)
from hubtool.backends.arrays import host
from hubtool.errors import BackendError, UnsupportedError
from hubtool.interpreter import HOST
from hubtool.ops import lookup

OVERRIDES = [
    *(("numpy", op, function) for op, function in numpy.NumpySpace.overrides.items()),
    *(("torch", op, function) for op, function in torch_functions.OVERRIDES.items()),
    *(("xla", op, function) for op, function in xla_functions.OVERRIDES.items()),
]


@pytest.fixture
def stub(monkeypatch):
    """A backend 'native' that is there or not, as one says."""

    def make(reason: str | None) -> types.ModuleType:
        made = types.ModuleType("hubtool.backends.native.backend")
        made.available = lambda: reason
        monkeypatch.setitem(BACKENDS, "native", made.__name__)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return made

    return make


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_its_names_and_functions(name):
    backend = module(name)
    assert backend.name == name
    assert backend.available() is None
    assert get(name) is backend
    assert backend.version() and backend.library
    assert "cpu" in backend.devices()
    assert backend.precisions("cpu")[0] == "float32"
    assert {"float32", "int64", "bool"} <= {*backend.dtypes()}
    assert all(does for does in backend.OPTIONS.values())
    assert [*inspect.signature(backend.prepare).parameters] == [
        *("graph", "device", "threads", "precision", "options")
    ]


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_backend_puts_on_the_host_is_the_same_memory(name):
    array = np.frombuffer(mmap.mmap(-1, 24), np.float32)  # at the start of a page
    assert np.shares_memory(host(module(name).put(array)), array)


def test_a_precision_or_an_option_that_is_not_there_is_refused_with_what_there_is():
    with pytest.raises(BackendError, match=r"no precision 'fp8' on cpu\nIt has float32"):
        prepare("numpy", residual_net(), precision="fp8")
    with pytest.raises(BackendError, match=r"numpy backend has no option 'speed'\nIt has none"):
        prepare("numpy", residual_net(), options={"speed": 11})


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(BackendError) as caught:
        get("pytorch")
    assert str(caught.value) == (
        f"there is no backend 'pytorch'\nBackends: {', '.join(BACKENDS)}. Did you mean 'torch'?"
    )


def test_a_backend_that_is_not_there_says_why(stub):
    stub("it is not built; `make native` builds it")
    with pytest.raises(BackendError, match=r"native .*: it is not built; `make native` builds it"):
        get("native")


def test_the_fastest_that_is_there_is_the_default(stub, monkeypatch):
    assert default() == "native"
    stub("not built")
    assert default() == "onnxruntime"
    stub(None)
    assert default() == "native"
    monkeypatch.delitem(BACKENDS, "native")
    monkeypatch.delitem(BACKENDS, "onnxruntime")
    assert default() == "numpy"


def test_all_that_is_missing_is_said_at_once():
    with pytest.raises(UnsupportedError, match=r"the numpy backend .*\n  - this\n  - that\n"):
        build(residual_net(), HOST, lambda graph: ["this", "that"])


@pytest.mark.parametrize(
    ("name", "op", "override"), OVERRIDES, ids=[f"{name}-{op}" for name, op, _ in OVERRIDES]
)
def test_an_override_has_the_signature_of_its_operator(name, op, override):
    known = lookup(op)
    parameters = [*inspect.signature(override).parameters.values()][1:]
    inputs = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert inputs == [formal.name for formal in known.inputs][: len(inputs)]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    assert variadic or len(inputs) == len(known.inputs)
    attrs = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert attrs == {key: known.attrs[key] for key in attrs}
    assert attrs.keys() == known.attrs.keys() or any(p.kind is p.VAR_KEYWORD for p in parameters)
