"""How fast each backend runs a model here, and whether all of them compute the same.

What is compared is measured in turn, so that whatever else the machine does meets all alike. A
cell is a batch and a number of threads; its combinations (backend, device, precision) each have a
process of their own, started once and warmed up, and stopped while another one runs:

    round 1   numpy  torch  onnxruntime  …      a round of one: the median of the runs
    round 2   numpy  torch  onnxruntime  …      that fit into a fifth of a second

Quoted are medians over the rounds, and ratios as the median of the ratios within each round. A run
is what a caller sees: arrays from the host in, arrays on the host out. float32 is compared with
float32, and the outputs with those of the reference, so that a fast wrong answer is seen.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

from hubtool.backends import BACKENDS, PRECISIONS, get
from hubtool.bench.machine import facts
from hubtool.bench.worker import Job, Worker, WorkerError
from hubtool.errors import BackendError, InputError
from hubtool.graph import Graph
from hubtool.verify import TOLERANCE, compare

__all__ = ["PEERS", "Bench", "Row", "bench", "fixed_inputs"]

PEERS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""The libraries that read an ONNX file themselves, by the backend that is their door. torch and jax
read none, so they have no peer but what they are fed by others."""

Tell = Callable[[str], None]
Fixed = tuple[str, tuple[int, ...]]


@dataclass
class Row:
    """One combination, and what was measured of it.

    seconds: one for each round. first: from the start of loading to the first result. peak: the
    largest resident memory of its process, in bytes. difference: the largest of the outputs from
    the reference's, as a part of that output's largest value. to_first, to_best: its time divided
    by that of the first, and of the fastest, of its cell and precision.
    status: "measured"; "not measured" (not here: backend, device or precision); "failed". Where it
    is not measured, or its outputs differ, reason says so.
    """

    name: str
    backend: str
    peer: bool
    device: str
    precision: str
    batch: int | None
    threads: int | None
    status: str = "measured"
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    first: float | None = None
    peak: int | None = None
    difference: float | None = None
    reference: bool = False
    to_first: float | None = None
    to_best: float | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.status == "measured" else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Between these lies half of the rounds."""
        if self.status != "measured":
            return None
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


Combination = tuple[Row, Job]


@dataclass
class Bench:
    """What was measured, of which model, on what machine."""

    model: str
    inputs: dict[str, str]
    rounds: int
    seed: int
    machine: dict[str, Any]
    rows: list[Row]

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.status == "measured"]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {**vars(row), "median": row.median, "quartiles": row.quartiles} for row in self.rows
        ]
        return {**vars(self), "rows": rows}

    def plot(self, path: Path) -> None:
        """Draw the medians as a picture: .png, .svg or .pdf. Raises BackendError where matplotlib
        is not installed, WriteError, InputError (nothing was measured)."""
        from hubtool.bench import picture

        picture.draw(self, Path(path))


def bench(
    graph: Graph,
    folder: Path | None = None,
    file: Path | None = None,
    *,
    backends: Sequence[str] = (),
    batch: Sequence[int] = (),
    threads: Sequence[int] = (),
    device: Sequence[str] = ("cpu",),
    precision: Sequence[str] = ("fp32",),
    rounds: int = 9,
    peers: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Bench:
    """Measure a graph on each combination of what is given; see `hubtool.api.bench`.

    folder: where it lies as a native folder; file: the ONNX file that it was read from, which the
    peers run. Where there is none, one is written for the while.
    Raises BackendError (a name that nobody has), InputError (the sizes of the inputs, no rounds).
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} measures nothing", hint="It is 1 or more.")
    names = [*(backends or BACKENDS)]
    _check_names(names, precision)
    inputs = [fixed_inputs(graph, shapes or {}, size) for size in batch or (None,)]
    combinations = [
        each
        for how in precision
        for each in (
            *((name, False, at, how) for at, name in product(device, names)),
            *((name, True, "cpu", how) for name in PEERS if peers),
        )
    ]
    machine = facts()  # before we are its load ourselves
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="hubtool-bench-") as name:
        place = Path(name)
        sources = (folder or _saved(graph, place), file)
        if peers and file is None:
            sources = (sources[0], _exported(graph, place))
        for fixed, count in product(inputs, threads or (None,)):
            cell = [
                _combination(sources[peer], name, peer, at, how, fixed, count, seed)
                for name, peer, at, how in combinations
            ]
            _measure(cell, rounds, place, tell or (lambda text: None))
            rows += (row for row, _ in cell)
    described = {name: str(value) for name, value in graph.free_inputs.items()}
    model = str(graph.meta.get("name", "model"))
    return Bench(model, described, rounds, seed, machine, rows)


def _check_names(names: Sequence[str], precisions: Sequence[str]) -> None:
    for name in names:
        if name not in BACKENDS:
            get(name)  # says which there are
    known = {*PRECISIONS, *PRECISIONS.values()}
    wrong = [precision for precision in precisions if precision not in known]
    if wrong:
        raise BackendError(
            f"there is no precision '{', '.join(wrong)}'", hint=f"There is {', '.join(PRECISIONS)}."
        )


def fixed_inputs(
    graph: Graph, shapes: Mapping[str, Sequence[int]], batch: int | None = None
) -> dict[str, Fixed]:
    """Every input's dtype and shape, with a number for each axis: the model's own; where it leaves
    one open, that of `shapes`, or `batch` for the first. Raises InputError with all that is wrong.
    """
    problems = [f"'{name}' is no input" for name in shapes if name not in graph.free_inputs]
    fixed: dict[str, Fixed] = {}
    sizes: dict[str, int] = {}
    for name, value in graph.free_inputs.items():
        if value.kind != "tensor" or value.shape is None or value.dtype in ("", "string"):
            problems.append(f"input '{name}' is {value}: no numbers can be drawn for it")
            continue
        given = shapes.get(name)
        if given is not None and len(given) != len(value.shape):
            problems.append(f"input '{name}' is {value}, and was given {len(given)} axes")
            continue
        shape = []
        for axis, own in enumerate(value.shape):
            said = given[axis] if given is not None else None
            if isinstance(own, int):
                size = own
                if said not in (None, own):
                    problems.append(f"axis {axis} of input '{name}' is always {own}, not {said}")
            else:
                known = sizes.get(own or "", 1 if axis == 0 else 0)
                size = batch if axis == 0 and batch is not None else known if said is None else said
                if not size:
                    problems.append(f"axis {axis} of input '{name}' {value} needs a size")
            if isinstance(own, str) and sizes.setdefault(own, size) != size:
                problems.append(f"input '{name}' has {size} for '{own}', which is {sizes[own]}")
            shape.append(size)
        fixed[name] = (value.dtype, tuple(shape))
    if batch is not None and all(shape[:1] != (batch,) for _, shape in fixed.values()):
        problems.append(f"no input's first axis is open: the batch cannot be {batch}")
    if problems:
        raise InputError(
            "the sizes of the inputs do not fit:",
            problems=problems,
            hint="--shape data=8x3x224x224 gives all sizes of an input, --batch the first.",
        )
    return fixed


def _saved(graph: Graph, place: Path) -> Path:
    from hubtool.formats import native

    native.write(graph, place / "model")
    return place / "model"


def _exported(graph: Graph, place: Path) -> Path:
    from hubtool.formats.onnx import write

    write.write(graph, place / "model.onnx")
    return place / "model.onnx"


def _combination(
    source: Path | None,
    name: str,
    peer: bool,
    device: str,
    precision: str,
    inputs: Mapping[str, Fixed],
    threads: int | None,
    seed: int,
) -> Combination:
    fixed = tuple((key, dtype, shape) for key, (dtype, shape) in inputs.items())
    batch = next((shape[0] for _, _, shape in fixed if shape), None)
    label = f"{PEERS[name]} itself" if peer else name
    row = Row(label, name, peer, device, precision, batch, threads)
    where = str(source.absolute()) if source else ""
    return row, Job(name, peer, where, device, precision, threads, fixed, seed)


def _measure(cell: Sequence[Combination], rounds: int, place: Path, tell: Tell) -> None:
    """Fill the rows of one cell: all workers are there at once, and take turns."""
    with ExitStack() as stack:
        workers: list[tuple[Row, Worker]] = []
        for row, job in cell:
            tell(f"{_about(row)}: loading")
            worker = stack.enter_context(Worker(job, place))
            with _failing(row):
                row.first = worker.begin()
                workers.append((row, worker))
        for count in range(rounds):
            for row, worker in workers:
                if row.status == "measured":
                    tell(f"{_about(row)}: round {count + 1} of {rounds}")
                    with _failing(row):
                        row.seconds.append(worker.run())
        outputs: list[tuple[Row, dict[str, Any]]] = []
        for row, worker in workers:
            if row.status == "measured":
                with _failing(row):
                    row.peak, made = worker.finish()
                    outputs.append((row, made))
    _compare(outputs)
    for _, alike in groupby((row for row, _ in outputs), lambda row: row.precision):
        _rank([*alike])


@contextmanager
def _failing(row: Row) -> Iterator[None]:
    """What a worker could not do becomes its row's reason."""
    try:
        yield
    except WorkerError as error:
        row.status = "not measured" if error.absent else "failed"
        row.reason = str(error)


def _compare(outputs: Sequence[tuple[Row, dict[str, Any]]]) -> None:
    """Each row's difference from the reference: numpy's in float32, else the first."""
    if not outputs:
        return
    exact = (each for each in outputs if each[0].name == "numpy" and not each[0].peer)
    judge, expected = next(exact, outputs[0])
    judge.reference = True
    for row, made in outputs:
        renamed = dict(zip(expected, made.values(), strict=True))
        row.difference, odd = compare(renamed, expected)
        strict = PRECISIONS.get(row.precision, row.precision) == "float32"
        if odd or (strict and row.difference > TOLERANCE):
            how = odd or f"differ by {row.difference:.1e} of the largest value"
            row.reason = f"its outputs are not those of {judge.name}: {how}"


def _rank(rows: Sequence[Row]) -> None:
    """Times as parts of the first row's and the fastest row's, round by round."""
    best = min(rows, key=lambda row: statistics.median(row.seconds))
    for row in rows:
        row.to_first, row.to_best = (
            statistics.median(
                ours / theirs for ours, theirs in zip(row.seconds, other.seconds, strict=True)
            )
            for other in (rows[0], best)
        )


def _about(row: Row) -> str:
    threads = f", threads {row.threads}" if row.threads else ""
    return f"{row.name} on {row.device}, {row.precision}, batch {row.batch}{threads}"
