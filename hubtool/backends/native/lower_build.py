"""What a plan is while it is made: values, the buffers that hold them, drafts of steps.

An ONNX value is a sequence of elements in row-major order, a `Flat`, with a shape; what only
reshapes makes another shape of the same Flat. A Flat can lie in memory in several forms, each made
when it is first wanted:

    (n, h, w, c)   a picture [n, c, h, w], channels last, with a halo where a reader wants one
    (n, 1, 1, c)   a matrix [.., c]; for [n, c, 1, 1] both are the same
    plain          as ONNX has it: the caller's arrays, and the bridge between all other forms

Buffers have no place yet: a Concat may still take one into its own, a reader may still widen its
halo. `lower_layout` gives them strides and offsets when all is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hubtool.graph import Graph, Layer, Tensor
from hubtool.passes.rewriting import constant

__all__ = [
    "FEW",
    "Buffer",
    "Builder",
    "Choice",
    "Draft",
    "Facts",
    "Flat",
    "Key",
    "Ref",
    "Turns",
    "Unlowerable",
    "Weights",
    "picture_key",
    "rows_key",
]

Array = np.ndarray[Any, Any]
Key = tuple[int, int, int, int]
Shape = tuple[int, ...]

FEW = 16
"""Pictures with fewer channels than this may lie without gaps between their pixels."""

CARRIES = frozenset({"conv", "depthwise", "matmul", "binary", "affine"})
"""The kinds of steps that can apply an activation at their end."""


class Unlowerable(Exception):
    """These layers cannot be lowered for these shapes; the message says why."""


@dataclass(frozen=True)
class Choice:
    """How a convolution is done: the engine's name of the algorithm, and its variant."""

    algorithm: str = "direct"
    variant: int = 0


@dataclass(eq=False)
class Buffer:
    """Memory of a plan: n images of h rows of w pixels of c channels.

    exact: the elements lie next to each other, and a view of it may have any shape.
    imported: written by from_nchw alone. few: pixels without gaps. spilled: copies may write up
    to 15 elements past its last channel. single: float32 in every precision.
    halo: top, left, bottom, right.
    parent, channel: the buffer of which this is a range of channels, and where that starts.
    content: the elements, where they are weights. whole: it holds the batch, while the steps that
    use it see some images at a time.
    """

    n: int
    h: int
    w: int
    c: int
    where: str = "arena"
    index: int = 0
    type: str = "f32"
    exact: bool = False
    imported: bool = False
    few: bool = False
    spilled: bool = False
    single: bool = False
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    parent: Buffer | None = None
    channel: int = 0
    children: int = 0
    content: Array | None = None
    whole: bool = False
    pixel: int = 0
    row: int = 0
    image: int = 0
    offset: int = 0

    def root(self) -> tuple[Buffer, int]:
        """The buffer that this one lies in, and the channel where it starts there."""
        buffer, channel = self, 0
        while buffer.parent is not None:
            channel += buffer.channel
            buffer = buffer.parent
        return buffer, channel

    def widen(self, halo: tuple[int, int, int, int]) -> None:
        """Let the halo be at least this wide."""
        root, _ = self.root()
        top, left, bottom, right = map(max, root.halo, halo)
        root.halo = (top, left, bottom, right)


@dataclass(frozen=True)
class Ref:
    """A part of a buffer, from row `top` and column `left` on; batch: the rows of a matrix seen as
    so many images of one row each, as a product of matrices wants them."""

    buffer: Buffer
    n: int
    h: int
    w: int
    c: int
    top: int = 0
    left: int = 0
    channel: int = 0
    batch: int = 0


@dataclass(eq=False)
class Flat:
    """The elements of a value, and the forms in which they lie in memory so far."""

    name: str
    forms: dict[Key, Ref] = field(default_factory=dict)
    plain: Buffer | None = None


@dataclass(frozen=True)
class Weights:
    """Where weights come from: a key that is equal where they are, and the array itself."""

    key: tuple[Any, ...]
    load: Callable[[], Array]


@dataclass(eq=False)
class Draft:
    """A step in the making."""

    kind: str
    label: str
    layer: str
    x: Ref
    y: Ref
    z: Ref | None = None
    fields: dict[str, int] = field(default_factory=dict)
    act: str = "none"
    a: float = 0.0
    b: float = 0.0
    d: float = 0.0
    W: Weights | None = None
    bias: Weights | None = None
    turns: Turns | None = None

    def operands(self) -> list[Ref]:
        """What it reads and writes."""
        return [ref for ref in (self.x, self.y, self.z) if ref is not None]


@dataclass(frozen=True)
class Turns:
    """Steps `first` to `last` go through the batch in turns, `images` at a time."""

    number: int
    first: int
    last: int
    images: int
    count: int


def picture_key(shape: Shape) -> Key:
    """The form of [N, C], [N, C, L] or [N, C, H, W] with the channels last."""
    if not 2 <= len(shape) <= 4:
        raise Unlowerable(f"a value of rank {len(shape)} is no picture")
    h, w = (1, 1, *shape[2:])[-2:]
    return (shape[0], h, w, shape[1])


def rows_key(shape: Shape) -> Key:
    """The form of [.., C] as a matrix."""
    return (math.prod(shape[:-1]), 1, 1, shape[-1] if shape else 1)


@dataclass(frozen=True)
class Facts:
    """What is known before there are shapes."""

    graph: Graph
    dtypes: Mapping[str, str]

    def constant(self, layer: Layer, formal: str) -> Tensor | None:
        """The weight that a layer reads there, if it is one."""
        return constant(self.graph, layer.inputs.get(formal))

    def shape(self, name: str | list[str] | None) -> tuple[int | str | None, ...] | None:
        """The shape as far as it is known: sizes may be symbols, and None says nothing is."""
        known = self.graph.known(name) if isinstance(name, str) else None
        return None if known is None else known.shape

    def rank(self, name: str | list[str] | None) -> int | None:
        """The rank, if it is known."""
        shape = self.shape(name)
        return None if shape is None else len(shape)


class Builder:
    """The plan of one graph in the making: its values, and the drafts of its steps."""

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape], type: str) -> None:
        self.graph = graph
        self.type = type
        self.facts = Facts(graph, {})
        self.drafts: list[Draft] = []
        self.values: dict[str, tuple[Flat, Shape]] = {}
        self.makers: dict[str, Draft] = {}
        self.padded: dict[str, tuple[str, tuple[int, int, int, int]]] = {}
        self.silu: dict[str, str] = {}
        self.users = graph.users()
        self.pictures = _wished(graph)
        self.inputs = [name for name in graph.inputs if name in self.users or name in graph.outputs]
        for index, name in enumerate(self.inputs):
            if name not in shapes:
                raise Unlowerable(f"the shape of '{name}' is not known")
            shape = tuple(shapes[name])
            if 0 in shape:
                raise Unlowerable(f"'{name}' is empty")
            plain = Buffer(*rows_key(shape), where="input", index=index, exact=True)
            self.values[name] = (Flat(name, {}, plain), shape)

    def value(self, name: str | list[str] | None) -> tuple[Flat, Shape]:
        """A computed value and its shape."""
        if not isinstance(name, str) or name not in self.values:
            raise Unlowerable(f"'{name}' is not computed here")
        return self.values[name]

    def shape(self, name: str | list[str] | None) -> Shape:
        """The shape of a computed value or of a weight."""
        if isinstance(name, str) and name in self.values:
            return self.values[name][1]
        tensor = constant(self.graph, name)
        if tensor is None:
            raise Unlowerable(f"'{name}' is not computed here")
        return tensor.shape

    def constant(self, layer: Layer, formal: str) -> Tensor | None:
        """The weight that a layer reads there, if it is one."""
        return self.facts.constant(layer, formal)

    def numbers(self, layer: Layer, formal: str) -> list[int] | None:
        """The numbers of a small weight, such as a shape or axes."""
        tensor = self.constant(layer, formal)
        return None if tensor is None else [int(number) for number in tensor.array.reshape(-1)]

    def buffer(self, key: Key) -> Buffer:
        """A buffer in the arena."""
        return Buffer(*key, type=self.type)

    def whole(self, buffer: Buffer) -> Ref:
        """All of a buffer."""
        return Ref(buffer, buffer.n, buffer.h, buffer.w, buffer.c)

    def step(self, kind: str, label: str, x: Ref, y: Ref, **more: Any) -> Draft:
        """Add a step that serves no single layer."""
        draft = Draft(kind, label, "", x, y, **more)
        self.drafts.append(draft)
        return draft

    def make(self, layer: Layer, kind: str, x: Ref, key: Key, shape: Shape, **more: Any) -> Draft:
        """Add the step that makes a layer's first output, in the form `key`."""
        name = layer.outputs[0]
        y = self.whole(self.buffer(key))
        draft = Draft(kind, f"{layer.op} '{layer.name}'", layer.name, x, y, **more)
        self.drafts.append(draft)
        self.values[name] = (Flat(name, {key: y}), shape)
        self.makers[name] = draft
        return draft

    def add(self, layer: Layer, buffer: Buffer, shape: Shape) -> None:
        """Let a layer's output be all of a buffer, which steps of its own have filled."""
        y = self.whole(buffer)
        key = (y.n, y.h, y.w, y.c)
        self.values[layer.outputs[0]] = (Flat(layer.outputs[0], {key: y}), shape)

    def alias(self, layer: Layer, flat: Flat, shape: Shape) -> None:
        """Let a layer's output be the same elements in another shape."""
        self.values[layer.outputs[0]] = (flat, shape)

    def maker(self, name: str, readers: int = 1) -> Draft | None:
        """The step that made a value which only the layer at hand reads, `readers` times."""
        alone = len(self.users.get(name, ())) == readers and name not in self.graph.outputs
        return self.makers.get(name) if alone else None

    def carrier(self, name: str, readers: int = 1) -> Draft | None:
        """The step that made such a value and can still apply an activation."""
        draft = self.maker(name, readers)
        return draft if draft and draft.kind in CARRIES and draft.act == "none" else None

    def rename(self, layer: Layer, name: str) -> None:
        """Let a layer's output be what a step makes that has been told to do its work too."""
        flat, shape = self.values[name]
        self.values[layer.outputs[0]] = (flat, shape)
        self.makers[layer.outputs[0]] = self.makers[name]

    def need(self, flat: Flat, key: Key, halo: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Ref:
        """A value in the form `key`, with a halo; it is made now if it is not there."""
        _, h, w, _ = key
        ref = flat.forms.get(key)
        if ref is None:
            plain = self.plain(flat)
            ref = Ref(plain, *key)
            if h * w > 1:
                kind = "import" if plain.where == "input" else "arrange"
                buffer = self.buffer(key)
                buffer.imported = True
                self.step("from_nchw", f"{kind} '{flat.name}'", ref, self.whole(buffer))
                ref = self.whole(buffer)
            flat.forms[key] = ref
        if any(halo):
            if ref.buffer.exact:
                copy = self.whole(self.buffer(key))
                self.step("copy", f"arrange '{flat.name}'", ref, copy)
                ref = flat.forms[key] = copy
            ref.buffer.widen(halo)
        return ref

    def plain(self, flat: Flat) -> Buffer:
        """A value as ONNX has it, row-major without gaps."""
        if flat.plain is None:
            key, ref = min(flat.forms.items(), key=lambda form: form[0][1] * form[0][2])
            buffer = Buffer(*key, exact=True)
            kind = "copy" if key[1] * key[2] == 1 else "to_nchw"
            self.step(kind, f"arrange '{flat.name}'", ref, Ref(buffer, *key))
            flat.plain = buffer
        return flat.plain

    def weights(self, array: Array, key: Key) -> Ref:
        """A weight as an operand: [n, c, h, w] elements in any shape that has them in this order,
        laid as a view of the form `key` is."""
        n, h, w, c = key
        pixel = 1 if c == 1 else -(-c // 16) * 16
        content = np.zeros((n, h, w, pixel), np.float32)
        content[..., :c] = array.reshape(n, c, h, w).transpose(0, 2, 3, 1)
        buffer = Buffer(*key, where="weights", content=content)
        return self.whole(buffer)

    def wishes_picture(self, name: str) -> bool:
        """Whether a value of rank 3 or 4 lies, or had best lie, with its axis 1 last."""
        flat, shape = self.value(name)
        if len(shape) not in (3, 4):
            return len(shape) == 2
        if picture_key(shape) in flat.forms:
            return True
        return rows_key(shape) not in flat.forms and name in self.pictures


PICTURE = frozenset(
    {
        "Conv",
        "com.microsoft.FusedConv",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "BatchNormalization",
        "LRN",
        "Resize",
        "Pad",
        "ReduceMean",
    }
)
"""The operators for which axis 1 holds the channels."""

MATRIX = frozenset({"MatMul", "Gemm", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""The operators for which it does not, or which do not care: no wish goes through them."""


def _wished(graph: Graph) -> set[str]:
    """The values that are read as pictures, directly or after what keeps the form."""
    wished: set[str] = set()
    for layer in reversed(graph.layers):
        through = layer.op not in MATRIX and not wished.isdisjoint(layer.outputs)
        if layer.op in PICTURE or through or (layer.op == "Concat" and layer.attrs["axis"] == 1):
            wished.update(layer.reads())
    return wished
