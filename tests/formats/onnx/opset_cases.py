"""Reads opset_cases.txt: models of every operator of ai.onnx at every opset that issued it anew.

lines()    the table, a Line for each operator and form
built      the model of a line at an opset
missing    the issues of operators of which no line tells
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hubtool.formats.onnx.walk import every_graph

RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def single(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def scalar(number: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(number, dtype)


def bits(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 2, shape).astype(bool)


def bytes_of(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 255, shape).astype(np.uint8)


ARRAYS: dict[str, Any] = {
    "A": floats(2, 3, 4),
    "B": floats(2, 3, 4),
    "F": floats(4),
    "H": floats(2, 3, 4).astype(np.float16),
    "D": floats(2, 3, 4).astype(np.float64),
    "P": np.abs(floats(2, 3, 4)) + np.float32(0.1),
    "U": np.tanh(floats(2, 3, 4)),
    "N": RANDOM.integers(-5, 5, (2, 3, 4)).astype(np.int64),
    "Q": bytes_of(2, 3, 4),
    "T": bits(2, 3, 4),
    "K": np.array(True),
    "I": floats(1, 2, 6, 6),
    "G": floats(1, 4, 4, 4),
    "V": floats(3, 3),
    "L": floats(5, 2, 3),
    "C": floats(1, 8, 1),
    "R": floats(2, 3, 4, 2),
    "Z": np.array(["a", "b", "monday", "c"], dtype=object),
    "E": np.array([[0, -0.0, np.nan, np.inf], [-np.inf, 1, -1, 0.5]], np.float32),
    "J": np.array([0, 2, 1], np.int64),
    "O": scalar(3, np.int64),
    "b3": single(10, 20, 30),
    "b34": floats(3, 4),
    "dconv": floats(3, 1, 2),
    "p34": np.abs(floats(3, 4)) + np.float32(0.1),
    "b4": floats(4),
    "b1": single(7),
    "b0": scalar(2),
    "t4": bits(4),
    "t3": bits(3),
    "w": floats(3, 2, 3, 3),
    "wt": floats(2, 3, 3, 3),
    "m": floats(4, 5),
    "m25": floats(2, 5),
    "m1": floats(1),
    "m0": scalar(1.5),
    "bscale": floats(3),
    "bbias": floats(3),
    "bmean": floats(3),
    "bvar": np.abs(floats(3)) + np.float32(0.5),
    "i0": scalar(0, np.int64),
    "i1": scalar(1, np.int64),
    "v0": ints(0),
    "v1": ints(1),
    "v2": ints(2),
    "v3": ints(3),
    "v12": ints(1, 2),
    "v01": ints(0, 1),
    "v04": ints(0, 4),
    "v13": ints(1, 3),
    "v34": ints(3, 4),
    "v31": ints(3, 1),
    "m72": floats(72, 4),
    "L0": floats(5, 3),
    "L2": floats(5, 2),
    "v234": ints(2, 3, 4),
    "vm1": ints(-1),
    "v0m1": ints(0, -1),
    "v46": ints(4, 6),
    "v2134": ints(2, 1, 3, 4),
    "vempty": ints(),
    "vpads": ints(0, 0, 1, 0, 0, 1),
    "vpad2": ints(1, 2),
    "lo": scalar(-0.5),
    "hi": scalar(0.5),
    "scale0": scalar(0.05),
    "scale3": single(0.05, 0.1, 0.2),
    "zero0": scalar(100, np.uint8),
    "zero3": np.array([1, 2, 3], np.uint8),
    "zero8": scalar(-3, np.int8),
    "zero16": scalar(30000, np.uint16),
    "ratio": scalar(0.25),
    "up2": single(1, 1, 2, 2),
    "up15": single(1, 1, 1.5, 2.5),
    "down": single(1, 1, 0.5, 0.6),
    "same": single(1, 1, 1, 1),
    "none": single(),
    "roi8": single(0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9),
    "sizes": ints(1, 2, 9, 4),
    "gw": floats(2, 6, 3),
    "gr": floats(2, 6, 2),
    "gb": floats(2, 12),
    "lw": floats(1, 8, 3),
    "lr": floats(1, 8, 2),
    "lb": floats(1, 16),
    "lp": floats(1, 6),
    "rw": floats(1, 2, 3),
    "rr": floats(1, 2, 2),
    "rb": floats(1, 4),
    "lens": np.array([5, 3], np.int32),
    "h0": floats(1, 2, 2),
    "h20": floats(2, 2, 2),
    "grid": np.tanh(floats(1, 3, 3, 2)) * np.float32(1.2),
    "rois": single(0, 0, 3, 3, 1, 1, 4.5, 3).reshape(2, 4),
    "rois5": single(0, 0, 0, 3, 3, 0, 1, 1, 5, 5).reshape(2, 5),
    "rb0": ints(0, 0),
    "ids3": RANDOM.integers(0, 3, (2, 2, 4)),
    "upd": floats(2, 2, 4),
    "nd": ints(0, 1, 1, 2).reshape(2, 2),
    "ndupd": floats(2, 4),
    "hot": ints(-1, 0, 2, 5),
    "hotp": ints(0, 2, 5),
    "depth": scalar(3, np.int64),
    "offon": single(-1, 2),
    "tile": ints(1, 2, 1),
    "tilesf": scalar(2),
    "axisf": scalar(1),
    "seq": np.array([2, 3], np.int64),
    "cond3": np.array([True, False, True]),
    "boxes": single(0, 0, 1, 1, 0, 0.1, 1, 1.1, 0, 10, 1, 11).reshape(1, 3, 4),
    "scores": single(0.9, 0.75, 0.6).reshape(1, 1, 3),
    "ten": scalar(10, np.int64),
    "half": scalar(0.5),
    "gs2": single(0.5, 2),
    "gb2": single(1, -1),
    "gs4": single(1, 2, 3, 4),
    "gb4": single(0, 1, 2, 3),
    "unpool": np.array([[[[5, 7], [13, 15]], [[5, 7], [13, 15]]]], np.int64),
    "pooled": floats(1, 2, 2, 2),
    "labels": ints(0, 2),
    "logits": floats(2, 3),
    "wts": single(0.2, 0.3, 0.5),
    "qx": bytes_of(1, 2, 5, 5),
    "qw": bytes_of(3, 2, 3, 3),
    "qa": bytes_of(2, 4),
    "qb": bytes_of(4, 3),
    "sh": np.array([1, 3, 2], np.uint8).reshape(1, 3, 1),
    "txt": np.array(["1.5", "2", "-inf", "1e-5"], dtype=object),
    "q4": floats(1, 2, 4, 8),
    "k4": floats(1, 2, 6, 8),
    "v4": floats(1, 2, 6, 8),
    "mask": floats(4, 6),
    "past": floats(1, 2, 3, 8),
    "cos": floats(4, 4),
    "sin": floats(4, 4),
    "pos": ints(0, 1, 2, 3).reshape(1, 4),
    "one4": np.ones(4, np.float32),
    "ts": ints(1),
    "cache": floats(1, 2, 5, 8),
    "newv": floats(1, 2, 2, 8),
    "offset": floats(1, 18, 4, 4) * np.float32(0.3),
    "dw": floats(3, 2, 3, 3),
    "theta": floats(1, 2, 3),
    "tsize": ints(1, 2, 4, 5),
    "c2i": floats(1, 4, 4),
    "c2is": ints(3, 3),
    "c2ib": ints(2, 2),
    "sig": floats(1, 16, 1),
    "step": scalar(4, np.int64),
    "win8": np.abs(floats(8)),
    "mel0": scalar(8, np.int64),
    "mel1": scalar(16, np.int64),
    "mel2": scalar(8000, np.int64),
    "melf0": scalar(10),
    "melf1": scalar(3000),
    "start": scalar(1, np.int64),
    "limit": scalar(9, np.int64),
    "delta": scalar(3, np.int64),
    "fstart": scalar(1.5),
    "flimit": scalar(9),
    "fdelta": scalar(2.5),
    "m54": floats(5, 4),
    "m4": floats(4),
    "A2": floats(3, 4),
    "M64": RANDOM.integers(0, 9, (2, 3, 4)),
    "uids": ints(0, 2).reshape(1, 2, 1) + np.zeros((2, 2, 4), np.int64),
    "ridx3": ints(1, 0).reshape(1, 2, 1),
    "upd3": floats(1, 2, 1),
    "up23": single(1, 1, 2, 3),
    "s0m2": ints(0, -2),
    "e1k": ints(1, 1000),
    "s1m1": ints(1, -1),
    "em19": ints(-1, 9),
    "a20": ints(2, 0),
    "vmax": ints(-(2**62)),
    "n3": ints(1, 2, 3),
    "n4": ints(-1, 0, 2, 3),
}
"""What the models of opset_cases.txt are fed, and their weights."""


@dataclass(frozen=True)
class Line:
    """One operator in one form: from which opset to which, and what it means today."""

    op: str
    first: int
    last: int
    text: str
    today: str
    opsets: tuple[int, ...] = ()


@cache
def issued() -> dict[str, dict[int, Any]]:
    """The opsets at which an operator was issued, to be used, and what it took and gave there."""
    issues: dict[str, dict[int, Any]] = defaultdict(dict)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            attributes = {key: str(a.default_value) for key, a in schema.attributes.items()}
            names = [(each.name, each.option) for each in (*schema.inputs, *schema.outputs)]
            issues[schema.name][schema.since_version] = names, attributes
    return {op: dict(sorted(issues[op].items())) for op in issues}


@cache
def lines() -> list[Line]:
    """The table, a Line for each operator of a line, with the opsets to test it at: the first, and
    those that issued the operator anew. An issue that changed no more than types is tested once."""
    table = Path(__file__).with_suffix(".txt").read_text()
    rows = [row for row in table.splitlines() if row and not row.startswith("#")]
    tested: set[tuple[str, int]] = set()
    found: list[Line] = []
    for line in (line for row in rows for line in _lines(row)):
        issues = issued().get(line.op, {})
        before = dict(zip(issues, [None, *issues.values()], strict=False))
        opsets = {line.first} | {
            opset
            for opset in issues
            if line.first <= opset <= line.last
            and (issues[opset] != before[opset] or (line.op, opset) not in tested)
        }
        tested.update((line.op, opset) for opset in opsets)
        found.append(replace(line, opsets=tuple(sorted(opsets))))
    return found


def _lines(row: str) -> Iterator[Line]:
    head, text, *today = (part.strip() for part in row.split(" | "))
    ops, span = head.split()
    first, last = map(int, span.split("-"))
    for op in ops.split(","):
        words = [re.sub(r"\bOP\b", op, part) for part in (text, *today)]
        yield Line(op, first, last, words[0], words[-1])


def missing() -> set[tuple[str, int]]:
    """The issues of operators of which no line tells."""
    told = {(line.op, opset) for line in lines() for opset in line.opsets}
    return {(op, opset) for op, issues in issued().items() for opset in issues} - told


def built(
    text: str,
    opset: int,
    *,
    shapes: bool | None = True,
    outputs: dict[str, np.ndarray] | None = None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model of a line's text, and what it is fed. The shapes of inputs are told (True), only
    their ranks (False), or nothing (None); the types of outputs where they are known."""
    graph = onnx.parser.parse_graph(f"g () => () {{ {text} }}")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    graph = model.graph
    model.ir_version = 3 if opset < 9 else 7 if opset < 19 else 10 if opset < 24 else 13
    nodes = [node for each in every_graph(model) for node in each.node]
    made = {name for node in nodes for name in node.output}
    feeds: dict[str, Any] = {}
    for name in sorted({name for node in nodes for name in node.input if name in ARRAYS} - made):
        array = ARRAYS[name]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        told = {True: array.shape, False: [None] * array.ndim, None: None}[shapes]
        if name[0].isupper():
            feeds[name] = array
            graph.input.append(helper.make_tensor_value_info(name, kind, told))
            continue
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        if model.ir_version < 4:
            graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    for name in (name for node in graph.node for name in node.output):
        if re.fullmatch(r"Y\d*", name):
            graph.output.append(_output(name, (outputs or {}).get(name)))
    return model, feeds


def _output(name: str, array: np.ndarray | None) -> onnx.ValueInfoProto:
    if array is None:
        return onnx.ValueInfoProto(name=name)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)
