"""The engine's steps, done by numpy over the same bytes: slow, and plain enough to be believed.

What a plan computes here shows that the plan is right, whatever the kernels do. The memory starts
as NaN, halos are zeroed as the engine does it, and where a kernel may write whole vectors NaN are
written behind the channels: whoever reads what nobody wrote finds NaN in the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hubtool
from hubtool.interpreter import HOST, Context
from hubtool.ops.activation import BARE, elu, gelu, hard_sigmoid, leaky_relu, sigmoid, softmax
from hubtool.ops.elementwise import clip, erf
from hubtool.ops.norm import lrn
from hubtool.ops.window import average_pool, conv, max_pool

Array = np.ndarray[Any, Any]

HEADER = Path(hubtool.__file__).parent / "backends" / "native" / "engine" / "plan.h"
CTX = Context(HOST, (True,))


def layout() -> dict[str, Any]:
    """What `hubtool_layout` says, read from plan.h itself."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)

    def names(macro: str) -> list[str]:
        found = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*)", text)
        assert found is not None, macro
        return re.findall(r"X\((\w+)\)", found[1])

    def enum(name: str) -> list[str]:
        found = re.search(rf"enum {name} : int64_t {{([^}}]*)}}", text)
        assert found is not None, name
        return [each.strip().lower() for each in found[1].split(",")]

    made = {
        "version": 1,
        "view": names("HUBTOOL_VIEW"),
        "step": names("HUBTOOL_STEP"),
        "kinds": names("HUBTOOL_KINDS"),
        "algorithms": names("HUBTOOL_ALGORITHMS"),
        "activations": names("HUBTOOL_ACTIVATIONS"),
        "binaries": names("HUBTOOL_BINARIES"),
        "spreads": names("HUBTOOL_SPREADS"),
        "where": enum("Where"),
        "types": enum("Type"),
    }
    parsed: dict[str, Any] = json.loads(json.dumps(made))
    return parsed


ACTIVATIONS: dict[str, Callable[[Array, float, float], Any]] = {
    "none": lambda x, a, b: x,
    "relu": lambda x, a, b: np.maximum(x, 0),
    "clip": lambda x, a, b: clip(CTX, x, np.float32(a), np.float32(b)),
    "leaky_relu": lambda x, a, b: leaky_relu(CTX, x, alpha=a),
    "sigmoid": lambda x, a, b: sigmoid(CTX, x),
    "tanh": lambda x, a, b: np.tanh(x),
    "hard_sigmoid": lambda x, a, b: hard_sigmoid(CTX, x, alpha=a, beta=b),
    "hard_swish": lambda x, a, b: BARE["HardSwish"](CTX, x),
    "silu": lambda x, a, b: x * sigmoid(CTX, x),
    "elu": lambda x, a, b: elu(CTX, x, alpha=a),
    "gelu": lambda x, a, b: gelu(CTX, x),
    "exp": lambda x, a, b: np.exp(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "neg": lambda x, a, b: -x,
    "abs": lambda x, a, b: np.abs(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "softplus": lambda x, a, b: BARE["Softplus"](CTX, x),
    "mish": lambda x, a, b: BARE["Mish"](CTX, x),
    "erf": lambda x, a, b: erf(CTX, x),
    "gelu_tanh": lambda x, a, b: gelu(CTX, x, approximate="tanh"),
}

BINARIES: dict[str, Callable[[Array, Array], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


class Machine:
    """The memory of one run, and the steps done in it."""

    def __init__(self, steps: Array, arena: int, weights: Array) -> None:
        self.steps = steps
        self.layout = layout()
        self.arena = np.full(-(-arena // 4), np.nan, np.float32)
        self.weights = weights.view(np.float32)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Do all steps."""
        self.inputs, self.outputs = inputs, outputs
        with np.errstate(all="ignore"):
            for step in self.steps:
                self.zero_halo(step["y"])
                kind = self.layout["kinds"][step["kind"]]
                getattr(self, kind)(step)
                self.spoil(step["y"])

    def memory(self, view: Any) -> Array:
        """The floats that a view lies in, from its first pixel on."""
        where = self.layout["where"][view["where"]]
        assert view["type"] == 0, "this machine knows float32 alone"
        callers = self.inputs if where == "input" else self.outputs
        if where in ("arena", "weights"):
            array: Array = self.arena if where == "arena" else self.weights
        else:
            array = callers[view["index"]].reshape(-1)
        assert view["offset"] % 4 == 0 and view["offset"] >= 0
        if where != "weights":
            self.check_bounds(view, array.size)
        rest: Array = array[int(view["offset"]) // 4 :]
        return rest

    @staticmethod
    def check_bounds(view: Any, size: int) -> None:
        first = view["offset"] // 4 - view["top"] * view["row"] - view["left"] * view["pixel"]
        last = (
            view["offset"] // 4
            + (view["n"] - 1) * view["image"]
            + (view["h"] - 1 + view["bottom"]) * view["row"]
            + (view["w"] - 1 + view["right"]) * view["pixel"]
            + view["c"]
        )
        assert first >= 0 and last <= size, (first, last, size)

    def pixels(self, view: Any, halo: bool = False) -> Array:
        """A view as [n, h, w, c], that can be written to; with its halo, if so asked."""
        pixel, row, image = (int(view[name]) for name in ("pixel", "row", "image"))
        n, h, w, c = (int(view[name]) for name in "nhwc")
        start = 0
        if halo:
            start = -int(view["top"]) * row - int(view["left"]) * pixel
            h += int(view["top"] + view["bottom"])
            w += int(view["left"] + view["right"])
        where = self.layout["where"][view["where"]]
        if start:
            assert where == "arena"
            base = self.arena[int(view["offset"]) // 4 + start :]
        else:
            base = self.memory(view)
        strides = tuple(4 * s for s in (image, row, pixel, 1))
        return np.lib.stride_tricks.as_strided(base, (n, h, w, c), strides)

    def zero_halo(self, view: Any) -> None:
        top, left, h, w = (int(view[name]) for name in ("top", "left", "h", "w"))
        if not any(view[name] for name in ("top", "left", "bottom", "right")):
            return
        wide = view.copy()
        few = view["c"] < 16 and view["pixel"] == view["c"]
        wide["c"] = view["c"] if few else -(-view["c"] // 16) * 16
        whole = self.pixels(wide, halo=True)
        inside = np.zeros(whole.shape[1:3], bool)
        inside[top : top + h, left : left + w] = True
        whole[:, ~inside, :] = 0

    def spoil(self, view: Any) -> None:
        """NaN behind the channels, where a kernel may write whole vectors."""
        rounded = -(-int(view["c"]) // 16) * 16
        wide = view.copy()
        wide["c"] = rounded
        if self.layout["where"][view["where"]] == "arena" and view["pixel"] >= rounded:
            self.pixels(wide)[..., int(view["c"]) :] = np.nan

    def nchw(self, view: Any, halo: bool = False) -> Array:
        return self.pixels(view, halo).transpose(0, 3, 1, 2).copy()

    def put(self, step: Any, y: Array) -> None:
        """Write a result [n, c, h, w], activated."""
        act = self.layout["activations"][step["act"]]
        made = ACTIVATIONS[act](y.astype(np.float32), float(step["a"]), float(step["b"]))
        target = self.pixels(step["y"])
        assert made.shape == target.transpose(0, 3, 1, 2).shape
        target[...] = made.transpose(0, 2, 3, 1)

    def bias(self, step: Any, field: str = "bias") -> Array | float:
        if step[field] < 0:
            return 0.0
        c = int(step["y"]["c"])
        padded = self.weights[int(step[field]) // 4 :][: -(-c // 32) * 32]
        assert not padded[c:].any()
        return padded[:c].reshape(1, c, 1, 1)

    def conv(self, step: Any) -> None:
        x, y = step["x"], step["y"]
        top, left = (int(x[name]) - int(step[name]) for name in ("top", "left"))
        assert top >= 0 and left >= 0, "the halo is too small"
        kh, kw, sh, sw, dh, dw = (int(step[k]) for k in ("kh", "kw", "sh", "sw", "dh", "dw"))
        down = (int(y["h"]) - 1) * sh + (kh - 1) * dh + 1
        across = (int(y["w"]) - 1) * sw + (kw - 1) * dw + 1
        padded = self.nchw(x, halo=True)[:, :, top : top + down, left : left + across]
        assert padded.shape[2:] == (down, across), "the halo is too small"
        M, share = int(y["c"]), int(x["c"] // step["groups"])
        W = self.weights[int(step["weights"]) // 4 :][: M * share * kh * kw]
        result = conv(
            CTX,
            padded,
            W.reshape(M, share, kh, kw),
            strides=(sh, sw),
            dilations=(dh, dw),
            group=int(step["groups"]),
        )
        z = self.nchw(step["z"]) if step["z"]["where"] else 0.0
        self.put(step, result + self.bias(step) + z)

    depthwise = conv

    def matmul(self, step: Any) -> None:
        x, z = self.pixels(step["x"])[:, 0], self.pixels(step["z"])[:, 0]
        self.put(step, np.matmul(x, z).transpose(0, 2, 1)[:, :, None] + self.bias(step))

    def _pool(self, step: Any, pool: Callable[..., Any], **more: Any) -> None:
        x, y = step["x"], step["y"]
        top, left = int(step["top"]), int(step["left"])
        attrs = {
            "kernel_shape": (int(step["kh"]), int(step["kw"])),
            "strides": (int(step["sh"]), int(step["sw"])),
            "dilations": (int(step["dh"]), int(step["dw"])),
            "pads": (top, left, int(step["bottom"]), int(step["right"])),
        }
        results = []
        for ceil_mode in (0, 1):
            made = pool(CTX, self.nchw(x), **attrs, ceil_mode=ceil_mode, **more)
            made = made[0] if isinstance(made, tuple) else made
            results += [made] if made.shape[2:] == (y["h"], y["w"]) else []
        self.put(step, results[0])

    def max_pool(self, step: Any) -> None:
        self._pool(step, max_pool)

    def average_pool(self, step: Any) -> None:
        self._pool(step, average_pool, count_include_pad=int(step["count_pads"]))

    def global_average(self, step: Any) -> None:
        self.put(step, self.nchw(step["x"]).mean(axis=(2, 3), keepdims=True))

    def global_max(self, step: Any) -> None:
        self.put(step, self.nchw(step["x"]).max(axis=(2, 3), keepdims=True))

    def binary(self, step: Any) -> None:
        x, z = self.nchw(step["x"]), self.nchw(step["z"])
        n, c, h, w = x.shape
        wanted = {
            "same": x.shape,
            "channels": (1, c, 1, 1),
            "image": (n, c, 1, 1),
            "pixels": (n, 1, h, w),
            "number": (1, 1, 1, 1),
        }[self.layout["spreads"][step["spread"]]]
        assert z.shape == wanted
        op = BINARIES[self.layout["binaries"][step["op"]]]
        self.put(step, op(z, x) if step["flip"] else op(x, z))

    def affine(self, step: Any) -> None:
        scale = self.bias(step, "weights")
        self.put(step, self.nchw(step["x"]) * scale + self.bias(step))

    def unary(self, step: Any) -> None:
        self.put(step, self.nchw(step["x"]))

    copy = unary

    def from_nchw(self, step: Any) -> None:
        x, shape = step["x"], tuple(int(step["y"][name]) for name in "nchw")
        self.put(step, self.memory(x)[: np.prod(shape)].reshape(shape).copy())

    def to_nchw(self, step: Any) -> None:
        x = self.nchw(step["x"])
        self.memory(step["y"])[: x.size] = x.reshape(-1)

    def softmax(self, step: Any) -> None:
        result = softmax(CTX, self.nchw(step["x"]), axis=1)
        self.put(step, np.log(result) if step["op"] == 1 else result)

    def lrn(self, step: Any) -> None:
        result = lrn(
            CTX,
            self.nchw(step["x"]),
            alpha=float(step["a"]),
            beta=float(step["b"]),
            bias=float(step["d"]),
            size=int(step["kh"]),
        )
        self.pixels(step["y"])[...] = result.transpose(0, 2, 3, 1)

    def upsample(self, step: Any) -> None:
        x = self.nchw(step["x"])
        self.put(step, x.repeat(int(step["kh"]), axis=2).repeat(int(step["kw"]), axis=3))
