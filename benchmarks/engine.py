"""Our own CPU engine beside its peers at their best settings: `make bench`.

    python benchmarks/engine.py [--only fp32,nets,bf16,start,product,loaded] [--rounds 7]
        [--models resnet50-v1,vgg16] [--batch 1,8,32] [--threads 1,2] [--all-peers] [--quick]
        [--json FILE]

Every variant has a process of its own, loaded and warmed up once and stopped (SIGSTOP) while
another one runs, since a thread pool that spins would take the cores of whoever runs next
(`hubtool/bench/worker.py`). All variants of a cell (model, batch, threads) are there at once and
take turns: A B C, A B C, …; a turn is as many runs as fit into a fifth of a second, at least one,
and counts with their median. Quoted is the median of the turns, and a ratio is the median of the
ratios within each round. `fastest / native` is the fastest peer's time over native's.

A run goes from the caller's arrays to outputs on the host. What each peer is told is in `peers.py`.
Every output is compared with that of our numpy backend in float64, on the first 8 pictures: an
error is the largest difference as a part of the largest value. A peer that takes twice the time of
the fastest one in two rounds is not asked again, and marked *; torch and jax are measured on batch
1 and 8 (--all-peers: on all). Native's cache is a fresh one: it chooses its kernels within this
run, before the first round.

    fp32     ResNet-18, 34, 50 v1 (the zoo's sketches)
    nets     networks of four other families with generated weights (`nets.py`): ONNX Runtime and
             OpenVINO
    bf16     native in bfloat16 and OpenVINO as it comes; then what bfloat16 changes in trained
             models (`agreement.py`)
    start    from the start of a process to its first result, and its peak memory; the first round,
             in which caches are filled, does not count
    product  {10000, 784} x {784, 10}
    loaded   ResNet-50 beside ONNX Runtime: quiet, and with another process that keeps a core busy

All of it takes about twenty minutes on two cores, a third of that torch.compile's compiling.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import core
import numpy as np
from cells import NATIVE, Cell, line, table

import hubtool
from hubtool import zoo
from hubtool.bench import Row
from hubtool.bench.machine import facts, sentence
from hubtool.bench.worker import Job, Worker, WorkerError
from hubtool.verify import compare

__all__ = ["SECTIONS", "Bench", "Variant"]

HERE = Path(__file__).parent
RESNETS = ("resnet18-v1", "resnet34-v1", "resnet50-v1")
OTHERS = ("mobilenet-v2", "vgg16", "densenet121", "squeezenet1.1")
PRODUCT = "product"
SHAPES = {"A": (10_000, 784), "B": (784, 10)}
JUDGED = 8
HOPELESS = 2.0
SKIPPED = "two rounds only"
QUIET, LOADED = "quiet", "one core busy"


@dataclass(frozen=True)
class Variant:
    """Something to be measured: a backend of ours, or a function of `peers.py`, which reads the
    ONNX file or our folder. slow: of the batches, only the small ones are measured."""

    name: str
    backend: str = ""
    opener: str = ""
    file: bool = False
    precision: str = "fp32"
    options: dict[str, Any] = field(default_factory=dict)
    slow: bool = False


OURS = Variant(NATIVE, NATIVE)
ONNX_RUNTIME = (
    Variant("ONNX Runtime", opener="onnxruntime", file=True),
    Variant("ONNX Runtime, tuned", opener="onnxruntime", file=True, options={"tuned": True}),
)
RUNTIMES = (*ONNX_RUNTIME, Variant("OpenVINO f32", opener="openvino", file=True))
LIBRARIES = (
    Variant("torch.compile", opener="torch_compiled", slow=True),
    Variant("torch, oneDNN graph", opener="torch_traced", slow=True),
    Variant("jax", "xla", slow=True),
)
NARROW = (
    Variant(NATIVE, NATIVE, precision="bf16"),
    Variant("OpenVINO", opener="openvino", file=True, precision="bf16"),
)
PRODUCTS = (
    OURS,
    Variant("numpy", opener="numpy_product"),
    Variant("torch A @ B", opener="torch_product"),
    Variant("torch linear", opener="torch_linear"),
    Variant("jax", opener="jax_product"),
    *ONNX_RUNTIME,
)


# How it is measured.


@dataclass
class Bench:
    """What a run shares: its options, its folder of models, and what it found."""

    given: argparse.Namespace
    place: Path

    def tell(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def model(self, name: str) -> Path:
        """The folder of model.onnx and the native folder `model`."""
        folder = self.place / name
        if not folder.exists():
            self.tell(f"{name}: making it")
            apart(_make, name, folder)
        return folder

    def job(self, variant: Variant, model: str, batch: int, threads: int) -> Job:
        folder = self.model(model)
        source = folder / ("model.onnx" if variant.file else "model")
        opener = f"{HERE / 'peers.py'}:{variant.opener}" if variant.opener else ""
        return Job(
            variant.backend,
            False,
            str(source),
            "cpu",
            variant.precision,
            threads,
            _inputs(model, batch),
            0,
            opener,
            variant.options,
        )

    @contextmanager
    def held(
        self, variants: Sequence[Variant], model: str, batch: int, threads: int
    ) -> Iterator[list[Held]]:
        """The variants, each loaded in its worker."""
        with ExitStack() as stack:
            held = []
            for variant in variants:
                self.tell(f"{model}, batch {batch}, threads {threads}: {variant.name}: loading")
                name, backend, how = variant.name, variant.backend, variant.precision
                row = Row(name, backend, not backend, "cpu", how, batch, threads)
                worker = Worker(self.job(variant, model, batch, threads), self.place)
                held.append(Held(row, stack.enter_context(worker)))
                row.first = held[-1].attempt(worker.begin)
            yield held

    def cell(self, variants: Sequence[Variant], model: str, batch: int, threads: int) -> Cell:
        """Measure one cell."""
        rounds = self.given.rounds
        with self.held(variants, model, batch, threads) as held:
            for count in range(rounds):
                self.tell(f"{model}, batch {batch}, threads {threads}: {count + 1} of {rounds}")
                for each in held:
                    if each.row.reason != SKIPPED:
                        each.turn(each.row)
                if count == 1:
                    give_up_on([each.row for each in held])
            self.tell(f"{model}, batch {batch}, threads {threads}: comparing")
            expected = reference(str(self.model(model)), model, batch)
            for each in held:
                done = each.attempt(each.worker.finish)
                if done is not None:
                    each.row.peak, made = done
                    judged = (output[: _judged(model)] for output in made.values())
                    found = compare(dict(zip(expected, judged, strict=True)), expected)
                    each.row.difference = found[0]
        self.tell("")
        return Cell(model, batch, threads, [each.row for each in held])


@dataclass
class Held:
    """A variant's row, and the worker that has it loaded; one that failed once is left alone."""

    row: Row
    worker: Worker

    def attempt(self, action: Callable[[], Any]) -> Any:
        """What the worker does; None where it cannot, which the row says."""
        if self.row.status != "measured":
            return None
        try:
            return action()
        except WorkerError as error:
            self.row.status = "not measured" if error.absent else "failed"
            self.row.reason = str(error)
            return None

    def turn(self, row: Row) -> None:
        """One turn, whose time goes to this row."""
        taken = self.attempt(self.worker.run)
        if taken is not None:
            row.seconds.append(taken)


def give_up_on(rows: Sequence[Row]) -> None:
    """After two rounds: the peers that are hopelessly slow beside the fastest one are not asked
    again. By the better round, since one alone may have been disturbed."""
    peers = [row for row in rows if row.name != NATIVE and row.seconds]
    fastest = min((min(row.seconds) for row in peers), default=0.0)
    for row in peers:
        if min(row.seconds) > HOPELESS * fastest:
            row.reason = SKIPPED


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a process of its own: this one stays small, since the peak of a
    child's memory begins with that of its parent, and has no thread pools."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _inputs(model: str, batch: int) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    if model == PRODUCT:
        return tuple((name, "float32", shape) for name, shape in SHAPES.items())
    return (("data", "float32", (batch, 3, 224, 224)),)


def _judged(model: str) -> int | None:
    return None if model == PRODUCT else JUDGED


def _make(name: str, folder: Path) -> None:
    """Write model.onnx and model/."""
    folder.mkdir()
    if name == PRODUCT:
        from hubtool import Graph, Layer, Value

        layer = Layer("product", "MatMul", {"A": "A", "B": "B"}, ["Y"])
        inputs = {key: Value("tensor", "float32", shape) for key, shape in SHAPES.items()}
        graph = Graph([layer], inputs, {"Y": Value("tensor", "float32", (10_000, 10))})
        hubtool.save(graph, folder / "model")
        hubtool.export(folder / "model", folder / "model.onnx")
        return
    if name in OTHERS:
        import nets

        (folder / "model.onnx").write_bytes(nets.net(name).SerializeToString())
    else:
        zoo.sketch(name, folder / "model.onnx")
    hubtool.convert(folder / "model.onnx", folder / "model", verify=False)


@cache
def reference(folder: str, model: str, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs in float64, of the first pictures."""
    found: dict[str, np.ndarray[Any, Any]] = apart(in_float64, folder, model, _inputs(model, batch))
    return found


def in_float64(folder: str, model: str, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What a worker feeds, through our numpy backend in float64."""
    from hubtool import Graph, Tensor, Value
    from hubtool.verify import seeded_inputs

    values = {name: Value("tensor", dtype, shape) for name, dtype, shape in inputs}
    feeds = seeded_inputs(Graph([], values, {}, {}, meta={}), 0)
    graph = hubtool.read(Path(folder) / "model").copy()
    graph.values.clear()
    for known in (graph.inputs, graph.outputs):
        known.update({k: Value("tensor", "float64", v.shape) for k, v in known.items()})
    for name, tensor in graph.tensors.items():
        if tensor.dtype == "float32":
            graph.tensors[name] = Tensor.of(tensor.array.astype(np.float64))
    wide = {name: array[: _judged(model)].astype(np.float64) for name, array in feeds.items()}
    return hubtool.load(graph, backend="numpy").run(wide)


# The sections.


def measured(bench: Bench, variants: Sequence[Variant], models: Sequence[str]) -> list[Cell]:
    given = bench.given
    cells = []
    for model in models:
        for batch in given.batch:
            for threads in given.threads:
                wanted = [v for v in variants if given.all_peers or not v.slow or batch <= 8]
                wanted = [v for v in wanted if not (v.slow and given.quick)]
                cells.append(bench.cell(wanted, model, batch, threads))
    return cells


def _chosen(bench: Bench, models: Sequence[str]) -> list[str]:
    return [name for name in models if not bench.given.models or name in bench.given.models]


def show(title: str, cells: Sequence[Cell], variants: Sequence[Variant]) -> None:
    tried = {row.name for cell in cells for row in cell.rows}
    names = [variant.name for variant in variants if variant.name in tried]
    print(f"### {title}: median ms\n\n{table(cells, names)}")


def fp32(bench: Bench) -> Any:
    variants = [OURS, *RUNTIMES, *LIBRARIES]
    cells = measured(bench, variants, _chosen(bench, RESNETS))
    show("ResNets v1, float32", cells, variants)
    return cells


def nets(bench: Bench) -> Any:
    cells = measured(bench, [OURS, *RUNTIMES], _chosen(bench, OTHERS))
    show("Networks of other families, float32", cells, [OURS, *RUNTIMES])
    return cells


def bf16(bench: Bench) -> Any:
    cells = measured(bench, NARROW, _chosen(bench, RESNETS))
    show("bfloat16", cells, NARROW)
    if bench.given.quick:
        return cells
    bench.tell("training on digits")
    command = [sys.executable, str(HERE / "agreement.py"), str(bench.place / "agreement")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    bench.tell("")
    print("\n| trained model | pictures | bfloat16 on | same class as float32 | largest error |")
    print("|---|--:|---|--:|--:|")
    for row in rows:
        same = f"{row['same']:.1%}" if "same" in row else "not measured"
        error = f"{row['error']:.0e}" if "error" in row else "-"
        print(line([row["model"], row["pictures"], row["backend"], same, error]))
    return {"cells": cells, "agreement": rows}


# It ends there: what a library does at the end of its process is not asked.
END = """
print(time.perf_counter() - started, flush=True)
import os
os._exit(0)"""
FIRST = "x = numpy.zeros((1, 3, 224, 224), numpy.float32)\n"
OPENVINO = """import numpy, openvino
core = openvino.Core()
{cache}model = core.read_model('model.onnx')
compiled = core.compile_model(model, 'CPU', {{'INFERENCE_PRECISION_HINT': 'f32'}})
compiled([numpy.zeros((1, 3, 224, 224), numpy.float32)]){end}"""
STARTS = (
    core.Variant(
        "ONNX Runtime, from the ONNX file",
        "",
        f"import numpy, onnxruntime\n{FIRST}"
        "session = onnxruntime.InferenceSession('model.onnx')\nsession.run(None, {'data': x})"
        f"{END}",
    ),
    core.Variant("OpenVINO f32, from the ONNX file", "", OPENVINO.format(cache="", end=END)),
    core.Variant(
        "OpenVINO f32, from its cache",
        "",
        OPENVINO.format(cache="core.set_property({'CACHE_DIR': 'cache'})\n", end=END),
    ),
    core.Variant(
        NATIVE,
        "",
        f"import numpy, hubtool\n{FIRST}hubtool.load('model', backend='native')(x){END}",
    ),
)


def start(bench: Bench) -> Any:
    lacking = apart(absence)
    variants = [variant for variant in STARTS if variant.name != NATIVE or lacking is None]
    title = "ResNet-50 v1, batch 1: from the start of a process to its first result"
    told = core.compare(
        title, variants, STARTS[0].name, "process", bench.model("resnet50-v1"), bench.given.rounds
    )
    told += f"\n{NATIVE}: {lacking}" if lacking else ""
    print(told)
    return told


def absence() -> str | None:
    """Why native is not here, if it is not."""
    known = {row["name"]: row for row in hubtool.backends()}
    if NATIVE not in known:
        return "there is no such backend"
    return None if known[NATIVE]["available"] else str(known[NATIVE]["reason"])


def product(bench: Bench) -> Any:
    cells = [bench.cell(PRODUCTS, PRODUCT, 10_000, threads) for threads in bench.given.threads]
    show("{10000, 784} x {784, 10}", cells, PRODUCTS)
    return cells


BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))"""


def loaded(bench: Bench) -> Any:
    """ResNet-50, batch 1, on two threads: each round first quiet, then beside a busy process."""
    model, threads, rounds = "resnet50-v1", 2, 2 * bench.given.rounds
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    cells = {}
    try:
        busy.send_signal(SIGSTOP)
        with bench.held([OURS, *ONNX_RUNTIME], model, 1, threads) as held:
            for where in (QUIET, LOADED):
                rows = [replace(each.row, seconds=[]) for each in held]
                cells[where] = Cell(f"{model}, {where}", 1, threads, rows)
            for count in range(rounds):
                bench.tell(f"{model}, one core busy: {count + 1} of {rounds}")
                for where, number in ((QUIET, SIGSTOP), (LOADED, SIGCONT)):
                    busy.send_signal(number)
                    for row, each in zip(cells[where].rows, held, strict=True):
                        each.turn(row)
                busy.send_signal(SIGSTOP)
            for cell in cells.values():
                for row, each in zip(cell.rows, held, strict=True):
                    row.status, row.reason = each.row.status, each.row.reason
    finally:
        busy.kill()
        busy.wait()
    bench.tell("")
    show("Beside a process that keeps one core busy", [*cells.values()], [OURS, *ONNX_RUNTIME])
    return [*cells.values()]


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "fp32": fp32,
    "nets": nets,
    "bf16": bf16,
    "start": start,
    PRODUCT: product,
    "loaded": loaded,
}


def _options() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    def numbers(text: str) -> list[int]:
        return [int(word) for word in words(text)]

    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=words, default=[*SECTIONS], help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=int, help="7; with --quick 3")
    parser.add_argument("--models", type=words, help="of fp32, nets and bf16; all by default")
    parser.add_argument("--batch", type=numbers, help="1,8,32; for nets 1,8")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--all-peers", action="store_true", help="torch and jax everywhere")
    parser.add_argument("--quick", action="store_true", help="a few minutes: batch 1, no torch")
    parser.add_argument("--json", type=Path, help="where to write all samples, too")
    given = parser.parse_args()
    wrong = [name for name in given.only if name not in SECTIONS]
    wrong += [name for name in given.models or () if name not in (*RESNETS, *OTHERS)]
    if wrong:
        parser.error(f"there is no {', '.join(wrong)}")
    given.rounds = given.rounds or (3 if given.quick else 7)
    return given


def main() -> None:
    given = _options()
    machine = facts()
    print(f"{sentence(machine)}\nmedians of {given.rounds} interleaved rounds\n")
    asked = given.batch
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as name:
        os.environ["HUBTOOL_HOME"] = str(Path(name) / "home")
        for section in given.only:
            most = [1] if given.quick else [1, 8] if section == "nets" else [1, 8, 32]
            given.batch = asked or most
            found[section] = SECTIONS[section](Bench(given, Path(name)))
            print(flush=True)
    if given.json:
        told = {"machine": machine, "rounds": given.rounds, **found}
        given.json.write_text(json.dumps(told, default=vars, indent=2) + "\n")


if __name__ == "__main__":
    main()
