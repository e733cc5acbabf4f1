"""{10000, 784} x {784, 10} on every backend and device, and what moving the data costs.

    python examples/matmul_backends.py [--rounds 15] [--plot matmul.svg]

The product that Nx shows its backends with: the same line of code, and only where it runs differs.
Here it is a graph of one MatMul. The operands are moved by `hubtool.transfer`, the result stays
where it was made (`returns="device"`) until it is moved back, and the three are timed apart. All
places are measured in one process, in turn, and the medians are told.

For honesty, the product as Nx.BinaryBackend computes it, element by element out of packed bytes,
in pure Python: on the first rows only, and extrapolated. At last the same numbers go from the CPU
to another device and back, in one process; where there is no other device, jax shows the CPU as two
of them, in a process of its own, because that must be said before jax is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import hubtool

Array = np.ndarray[Any, Any]

M, K, N = 10_000, 784, 10
SLICE = 20
PURE = "pure Python"

TOLERANCE = {"float32": 1e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}
"""What results may differ by, as a part of the largest element."""


@dataclass(frozen=True)
class Timed:
    """Median seconds on one device of one backend; difference: from numpy's result, as a part of
    its largest element."""

    backend: str
    device: str
    to_device: float
    product: float
    to_host: float
    difference: float


def product_graph() -> hubtool.Graph:
    """One layer: Y = A @ B."""
    return hubtool.Graph(
        layers=[hubtool.Layer("product", "MatMul", {"A": "A", "B": "B"}, ["Y"])],
        inputs={
            "A": hubtool.Value("tensor", "float32", (M, K)),
            "B": hubtool.Value("tensor", "float32", (K, N)),
        },
        outputs={"Y": hubtool.Value("tensor", "float32", (M, N))},
        tensors={},
    )


def operands(seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return (
        generator.standard_normal((M, K), np.float32),
        generator.standard_normal((K, N), np.float32),
    )


def places() -> list[tuple[str, str]]:
    """Every device of every backend that is there."""
    rows = [row for row in hubtool.backends() if row["available"]]
    return [(row["name"], device) for row in rows for device in row["devices"]]


def settled(array: Any) -> Any:
    """The array, once it is computed: a GPU works on after the call has returned."""
    if hasattr(array, "block_until_ready"):
        array.block_until_ready()
    elif getattr(array, "is_cuda", False):
        import torch

        torch.cuda.synchronize(array.device)
    return array


def once(model: hubtool.Model, A: Array, B: Array) -> tuple[tuple[float, float, float], Array]:
    """Seconds there, of the product, and back; and the result on the host."""
    clock = [time.perf_counter()]
    a, b = (settled(hubtool.transfer(x, model.backend, model.device)) for x in (A, B))
    clock.append(time.perf_counter())
    y = settled(model.run({"A": a, "B": b}, returns="device")["Y"])
    clock.append(time.perf_counter())
    result = hubtool.transfer(y, "numpy")
    clock.append(time.perf_counter())
    there, product, back = (end - start for start, end in pairwise(clock))
    return (there, product, back), result


def measure(rounds: int = 15) -> list[Timed]:
    """Every place, in turn, and pure Python between them."""
    A, B = operands()
    expected = A @ B
    largest = float(abs(expected).max())
    models = {
        place: hubtool.load(product_graph(), backend=place[0], device=place[1])
        for place in places()
    }
    taken: dict[tuple[str, str], list[tuple[float, float, float]]] = {place: [] for place in models}
    differences: dict[tuple[str, str], float] = {}
    slow = []
    for _ in range(rounds):
        for place, model in models.items():
            once(model, A, B)  # the caches are as another backend left them
            times, result = once(model, A, B)
            taken[place].append(times)
            differences[place] = float(abs(result - expected).max()) / largest
            time.sleep(0.02)  # some thread pools spin for a while before they sleep
        started = time.perf_counter()
        sliced = binary_dot(A[:SLICE].tobytes(), B.tobytes(), SLICE)
        slow.append((time.perf_counter() - started) * M / SLICE)
    rows = []
    for (backend, device), samples in taken.items():
        there, product, back = (statistics.median(each) for each in zip(*samples, strict=True))
        found = differences[backend, device]
        rows.append(Timed(backend, device, there, product, back, found))
    pure = np.frombuffer(sliced, np.float32).reshape(SLICE, N)
    difference = float(abs(pure - expected[:SLICE]).max()) / largest
    return [*rows, Timed(PURE, "cpu", 0.0, statistics.median(slow), 0.0, difference)]


def binary_dot(a: bytes, b: bytes, rows: int) -> bytes:
    """A @ B out of packed float32, as Nx.BinaryBackend goes about it: each element of the result is
    a walk through two binaries, a number at a time."""
    columns = [b"".join(b[4 * at : 4 * at + 4] for at in range(j, K * N, N)) for j in range(N)]
    made = []
    for i in range(rows):
        row = a[4 * K * i : 4 * K * (i + 1)]
        for column in columns:
            total = 0.0
            for (x,), (y,) in zip(
                struct.iter_unpack("=f", row), struct.iter_unpack("=f", column), strict=True
            ):
                total += x * y
            made.append(struct.pack("=f", total))
    return b"".join(made)


def table(rows: list[Timed]) -> str:
    """As Markdown, milliseconds."""
    best = min(row.product for row in rows)
    lines = [
        "| backend | device | host → device | product | device → host | / best | difference |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        there, product, back = (f"{1e3 * each:.3g}" for each in times(row))
        if row.backend == PURE:
            there, product, back = "-", f"{1e3 * row.product:,.0f}", "-"
        ratio = f"{row.product / best:.3g}" if row.backend != PURE else f"{row.product / best:,.0f}"
        lines.append(
            f"| {row.backend} | {row.device} | {there} | {product} | {back} | {ratio}"
            f" | {row.difference:.0e} |"
        )
    note = f"Pure Python: measured on {SLICE} of the {M:,} rows, times {M // SLICE}."
    return "\n".join([*lines, "", note])


KINDS = (
    ("host → device", ">", "#b8b8b8"),
    ("product", "o", "#4c78a8"),
    ("device → host", "<", "#e0a458"),
)


def times(row: Timed) -> tuple[float, float, float]:
    return row.to_device, row.product, row.to_host


class Picture:
    """An SVG file, as a notebook shows it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.text


def plot(rows: list[Timed], path: Path) -> None:
    """Draw the times on a logarithmic scale, to .svg or .png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = [f"{row.backend}, {row.device}" for row in rows]
    labels[-1] = f"{PURE}, extrapolated"
    with rc_context(
        {
            "axes.formatter.min_exponent": 6,
            "svg.fonttype": "none",
            "svg.hashsalt": "hubtool",
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(7.5, 0.36 * len(rows) + 1.3), layout="constrained")
        axis = figure.subplots()
        for at, (name, marker, color) in enumerate(KINDS):
            known = [(1e3 * times(row)[at], y) for y, row in enumerate(rows) if times(row)[at] > 0]
            size = 60 if name == "product" else 30
            x, place = zip(*known, strict=True)
            axis.scatter(x, place, s=size, marker=marker, color=color, label=name)
        for y, row in enumerate(rows):
            text = f"{1e3 * row.product:,.3g}" if row.product < 1 else f"{1e3 * row.product:,.0f}"
            at = (1e3 * row.product, y)
            axis.annotate(text, at, (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(right=axis.get_xlim()[1] * 2)
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.7)
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        axis.set_title(f"{{{M}, {K}}} x {{{K}, {N}}}, float32: median ms", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=160)


def there_and_back() -> dict[str, Any]:
    """CPU, another device, CPU: in this process if there is one, else in one where jax has two."""
    others = [place for place in places() if place[1] != "cpu"]
    if others:
        return switched(*others[0]) | {"stand_in": False}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags.strip()}
    command = [sys.executable, str(Path(__file__).resolve()), "--switch", "xla", "cpu:1"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told | {"stand_in": True}


def switched(backend: str, device: str) -> dict[str, Any]:
    """The product on the CPU, on that device in every precision that it has, and on the CPU again
    with operands that came back from there: the largest differences from the first."""
    A, B = operands()
    here = hubtool.load(product_graph(), backend=backend)
    first = here.run({"A": A, "B": B})["Y"]
    (row,) = (row for row in hubtool.backends() if row["name"] == backend)
    a, b = (hubtool.transfer(x, backend, device) for x in (A, B))
    differences = {}
    for precision in row["precisions"][device]:
        there = here.to(backend, device, precision=precision)
        y = there.run({"A": a, "B": b}, returns="device")["Y"]
        differences[precision] = difference(hubtool.transfer(y, "numpy"), first)
    back = {name: hubtool.transfer(x, backend, "cpu") for name, x in (("A", a), ("B", b))}
    again = difference(here.run(back)["Y"], first)
    return {"backend": backend, "device": device, "there": differences, "back": again}


def difference(array: Array, expected: Array) -> float:
    return float(abs(array - expected).max() / abs(expected).max())


def say(told: dict[str, Any]) -> str:
    """What `there_and_back` found, and whether it is within the tolerances."""
    lines = [f"{told['backend']}: cpu -> {told['device']} -> cpu, in one process"]
    if told["stand_in"]:
        lines.append("There is no second device here: jax shows the CPU as two, as a stand-in.")
    for precision, found in told["there"].items():
        verdict = "equal" if found <= TOLERANCE[precision] else "NOT EQUAL"
        lines.append(
            f"  there, {precision}: {verdict}: {found:.1e} of the largest element"
            f" ({TOLERANCE[precision]:.0e} allowed)"
        )
    lines.append(f"  back on the cpu: {'equal to the bit' if told['back'] == 0 else 'NOT EQUAL'}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> tuple[list[Timed], dict[str, Any]]:
    """Do it all: the measured rows, and what came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plot", type=Path, help="an .svg or .png to draw to")
    options = parser.parse_args(arguments)
    rows = measure(options.rounds)
    print(table(rows))
    if options.plot:
        plot(rows, options.plot)
    told = there_and_back()
    print(f"\n{say(told)}")
    return rows, told


if __name__ == "__main__":
    if sys.argv[1:2] == ["--switch"]:
        print(json.dumps(switched(*sys.argv[2:])))
    else:
        main()
