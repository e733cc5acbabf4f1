"""A signature is the schema: every operator against onnx's and ONNX Runtime's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from hubtool.dtypes import NUMBERS
from hubtool.ops import OPSETS, REQUIRED, Op, load_ops

OURS = load_ops()
MICROSOFT = [name for name in OURS if name.startswith("com.microsoft.")]
ONNX = [name for name in OURS if name not in MICROSOFT]
RUNTIME = {s.name: s for s in get_all_operator_schema() if s.domain == "com.microsoft"}


def schema_of(name: str) -> Any:
    if name in ONNX:
        domain, _, op = name.rpartition(".")
        return onnx.defs.get_schema(op, OPSETS[domain], domain)
    return RUNTIME[name.removeprefix("com.microsoft.")]


def option_of(formal: Any) -> str:
    return str(formal.option).rpartition(".")[2]


def default_of(attribute: Any) -> Any:
    """The schema's default; None where there is none, REQUIRED where the attribute must be."""
    if attribute.required:
        return REQUIRED
    if hasattr(attribute, "_default_value"):  # ONNX Runtime's, a serialised AttributeProto
        proto = onnx.AttributeProto.FromString(attribute._default_value)
    else:
        proto = attribute.default_value
    value = onnx.helper.get_attribute_value(proto) if proto.type else None
    if isinstance(value, list):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value.decode() if isinstance(value, bytes) else value


def comparable(default: Any) -> Any:
    if isinstance(default, float):
        return np.float32(default)
    return list(default) if isinstance(default, tuple | list) else default


def test_every_operator_belongs_to_a_pinned_domain():
    assert {name.rpartition(".")[0] for name in OURS} == set(OPSETS)
    assert len(ONNX) > 100


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "ai.onnx.preview"])
def test_every_operator_of_the_domain_is_there(domain):
    """Constant is none: reading makes a tensor of it."""
    newest: dict[str, Any] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == domain and schema.since_version <= OPSETS[domain]:
            known = newest.setdefault(schema.name, schema)
            if schema.since_version > known.since_version:
                newest[schema.name] = schema
    wanted = {name for name, schema in newest.items() if not schema.deprecated} - {"Constant"}
    ours = {n.removeprefix(f"{domain}.") for n in OURS if n.rpartition(".")[0] == domain}
    assert ours == wanted


@pytest.mark.parametrize("name", OURS)
def test_inputs_are_the_schemas_formal_inputs(name):
    ours = [(f.name, f.optional, f.variadic) for f in OURS[name].inputs]
    theirs = [
        (f.name, option_of(f) == "Optional", option_of(f) == "Variadic")
        for f in schema_of(name).inputs
    ]
    assert ours == theirs


@pytest.mark.parametrize("name", OURS)
def test_attributes_and_defaults_are_the_schemas(name):
    ours = {key: comparable(default) for key, default in OURS[name].attrs.items()}
    attributes = schema_of(name).attributes
    assert ours == {key: comparable(default_of(entry)) for key, entry in attributes.items()}


@pytest.mark.parametrize("name", OURS)
def test_outputs_have_the_dtypes_of_the_type_constraints(name):
    known, schema = OURS[name], schema_of(name)
    assert len(known.returns) <= len(schema.outputs)
    for place, output in enumerate(schema.outputs):
        rule = known.returns[min(place, len(known.returns) - 1)]
        mixed = option_of(output) == "Variadic" and not homogeneous(output) and not rule
        followed = mixed or follows(known, schema, rule, type_of(output))
        assert followed, f"{output.name} is not {rule!r}"


def homogeneous(formal: Any) -> bool:
    """Whether all values of a variadic formal have one type."""
    return getattr(formal, "is_homogeneous", None) or getattr(formal, "isHomogeneous", False)


def type_of(formal: Any) -> str:
    return formal.type_str if hasattr(formal, "type_str") else formal.typeStr


def follows(known: Op, schema: Any, rule: str, wanted: str) -> bool:
    """Whether an output of the type `wanted` (a constraint or a type) has the dtype of the rule."""
    types = {f.name: type_of(f) for f in schema.inputs}
    if rule in types:
        return types[rule] == wanted
    if rule in known.attrs or not rule:
        return wanted not in types.values()
    constraints = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
    type_name = {"float32": "float", "float64": "double"}.get(rule, rule)
    return rule in NUMBERS and constraints.get(wanted, [wanted]) == [f"tensor({type_name})"]


@pytest.mark.parametrize("name", OURS)
def test_host_inputs_are_formal_inputs(name):
    assert OURS[name].host <= {formal.name for formal in OURS[name].inputs}
