"""docs/format.md is the contract; what it states as fact is checked here against the code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hubtool.dtypes import BITS, DTYPES, numpy_dtype
from hubtool.formats import native
from hubtool.formats.native_elements import STORED, stored_shape
from hubtool.formats.native_encode import SECTIONS
from hubtool.formats.safetensors import ITEMSIZE
from hubtool.graph import Graph, Layer, Tensor, Value

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def rows(head: str) -> Iterator[list[str]]:
    """The cells of the table that begins with `head`."""
    table = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    for line in table:
        yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def example() -> Graph:
    gemm = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return Graph(
        layers=[
            Layer("dense", "Gemm", {"A": "x", "B": "W"}, ["h"], gemm),
            Layer("act", "LeakyRelu", {"X": "h"}, ["y"], {"alpha": 0.01}),
        ],
        inputs={"x": Value("tensor", "float32", ("N", 2))},
        outputs={"y": Value("tensor", "float32", ("N", 1))},
        tensors={
            "W": Tensor.of(np.array([[1.5], [-2]], np.float32)),
            "q": Tensor.of(np.array([1, -2, 7]).astype(numpy_dtype("int4"))),
            "t": Tensor.of(np.array(["a", "né"], object)),
        },
        meta={"name": "example"},
    )


def test_the_example_is_what_is_written(tmp_path: Path) -> None:
    native.write(example(), tmp_path / "m")
    (graph_json,) = blocks("json")
    assert (tmp_path / "m/graph.json").read_text(encoding="utf-8") == graph_json
    length, data = (bytes.fromhex(block) for block in blocks("hex"))
    (header,) = blocks("header")
    text = header.strip().encode()
    assert (len(text), len(data)) == (264, 38)
    whole = length + text + b" " * 48 + data
    assert (tmp_path / "m/model.safetensors").read_bytes() == whole
    assert json.loads(graph_json)["weights"][0]["size"] == len(whole) == 358


def test_the_sections_are_those_of_the_page() -> None:
    assert [row[0] for row in rows("| key | content |\n|---|---|\n| `format`")] == list(SECTIONS)


def test_the_table_of_element_types_is_true() -> None:
    shapes = {
        "as it is": lambda n: (n,),
        "with a last axis of 2": lambda n: (n, 2),
        "[⌈n/2⌉]": lambda n: (-(-n // 2),),
        "[⌈n/4⌉]": lambda n: (-(-n // 4),),
    }
    table = list(rows("| number | dtype"))
    assert {int(number): dtype for number, dtype, *_ in table} == DTYPES
    for _, dtype, stored, shape, bits, _ in table:
        assert stored == STORED[dtype]
        if dtype != "string":
            assert int(bits) == BITS[dtype]
            for n in range(10):
                assert stored_shape(dtype, (n,)) == shapes[shape](n)


def test_the_stored_types_are_those_of_the_page() -> None:
    sentence = re.search(r"these occur: (.*?)\n\n", PAGE, re.DOTALL)
    assert sentence
    sizes = {
        name: int(size)
        for names, size in re.findall(r"`([A-Z0-9_ ]+)`\s\((\d)", sentence[1])
        for name in names.split()
    }
    assert sizes == ITEMSIZE


FLOATS = list(rows("| dtype | sign"))


@pytest.mark.parametrize("row", FLOATS, ids=[row[0] for row in FLOATS])
def test_the_bits_of_small_floats_are_as_described(row: list[str]) -> None:
    dtype, exceptions = row[0], row[5]
    sign, exponent, mantissa, bias = map(int, row[1:5])
    width = sign + exponent + mantissa
    assert width == BITS[dtype]
    nans = re.findall("[0-9a-f]{2}", exceptions.split(" NaN")[0]) if "` " in exceptions else []
    numbers = []
    for bits in range(2**width):
        e, m = bits >> mantissa & (2**exponent - 1), bits & (2**mantissa - 1)
        number = 2.0 ** (e - bias) * (1 + m / 2**mantissa)
        if e == 0 and dtype != "float8_e8m0fnu":
            number = 2.0 ** (1 - bias) * m / 2**mantissa
        if exceptions.startswith(f"e = {e}:"):
            number = math.nan if m else math.inf
        if f"{bits:02x}" in nans:
            number = math.nan
        numbers.append(-number if sign and bits >> (width - 1) else number)
    raw = np.arange(2**width, dtype=np.uint8 if width <= 8 else np.uint16)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        actual = raw.view(numpy_dtype(dtype)).astype(np.float64)
    np.testing.assert_array_equal(actual, numbers)
    finite = np.isfinite(numbers)
    np.testing.assert_array_equal(np.signbit(actual)[finite], np.signbit(numbers)[finite])
