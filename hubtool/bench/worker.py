"""One combination in a process of its own: what it holds, and how it is spoken to.

The parent writes a word a line ("run", "finish") and reads a line of JSON. Between the words the
worker is stopped (SIGSTOP): thread pools that spin for a while after a run would take the cores of
whoever runs next. It dies with its parent, however that ends, and is in a process group of its
own, so that Ctrl-C reaches the parent only, which kills it.

`threads` is told to the backend, and to the libraries that read it from the environment when they
are loaded: BLAS (numpy) and XLA (jax). A benchmark brings what is no backend of ours by naming a
function of its own, `Job.opener`, which is called in the worker and sets up what is timed there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hubtool.errors import BackendError, HubtoolError

__all__ = ["Job", "Worker", "WorkerError", "main"]

ROOT = Path(__file__).parents[2]
START = """
import sys
root, job, outputs = sys.argv[1:]
sys.path.insert(0, root)
from hubtool.bench import worker
worker.main(job, outputs)
"""
POOLS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NPROC")
"""What tells a library its number of threads; XLA reads the last."""

SPAN = 0.2
"""A round lasts so many seconds, and at least one run."""

DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Job:
    """What a worker is to hold.

    source: a native folder; for a peer, which reads it by itself, an ONNX file.
    inputs: name, dtype and shape of each.
    options: the backend's own. environment: what the process is told besides.
    opener: "path/of/file.py:function", for what is neither a backend nor a peer that one knows:
    function(job, feeds) returns what is timed, which returns the outputs by name.
    """

    backend: str
    peer: bool
    source: str
    device: str
    precision: str
    threads: int | None
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    seed: int
    opener: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class WorkerError(Exception):
    """What a worker could not do. absent: because this machine has it not."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


class Worker:
    """A worker as its parent holds it; a context manager that ends it."""

    def __init__(self, job: Job, place: Path) -> None:
        environment = dict(os.environ)
        if job.threads is not None:
            environment.update(dict.fromkeys(POOLS, str(job.threads)))
        environment.update(job.environment)
        own = Path(tempfile.mkdtemp(dir=place))
        self.errors, self.outputs = own / "errors", own / "outputs"
        command = [sys.executable, "-P", "-c", START]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, str(ROOT), json.dumps(asdict(job)), str(self.outputs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                process_group=0,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *what: object) -> None:
        self.process.kill()
        self.process.communicate()

    def begin(self) -> float:
        """Seconds from the start of loading to the first result. Raises WorkerError."""
        return float(self._answer()["seconds"])

    def run(self) -> float:
        """Seconds that a run takes, this round. Raises WorkerError."""
        return float(self._ask("run")["seconds"])

    def finish(self) -> tuple[int, dict[str, Any]]:
        """The peak of its memory in bytes, and the outputs of its last run. Raises WorkerError."""
        peak = int(self._ask("finish")["peak"])
        with self.outputs.open("rb") as stream:
            return peak, pickle.load(stream)

    def _ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{word}\n".encode())
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._fate())
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "reason" in answer:
            raise WorkerError(answer["reason"], absent=answer["absent"])
        return answer

    def _fate(self) -> str:
        code = self.process.wait()
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"its process was ended by {known.get(-code, f'signal {-code}')}"
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return f"its process failed: {lines[-1][:200] if lines else f'exit {code}'}"


def main(described: str, outputs: str) -> None:
    """The worker's own side."""
    _die_with_parent()
    job = Job(**json.loads(described))
    # Whatever a library prints must not end up in the answers.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(**facts: Any) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        try:
            _serve(job, Path(outputs), answer)
        except BackendError as error:
            answer(reason=_short(error), absent=True)
        except Exception as error:
            answer(reason=_short(error), absent=False)


def _serve(job: Job, outputs: Path, answer: Callable[..., None]) -> None:
    """Load, run once, and then what the parent says."""
    from hubtool.graph import Graph, Value
    from hubtool.verify import seeded_inputs

    inputs = {name: Value("tensor", dtype, tuple(shape)) for name, dtype, shape in job.inputs}
    feeds = seeded_inputs(Graph([], inputs, {}, {}, meta={}), job.seed)
    started = time.perf_counter()
    call = _loaded(job, feeds)
    made = call()
    answer(seconds=time.perf_counter() - started)
    warm = False
    for line in sys.stdin:
        if line.strip() == "run":
            if not warm:  # what is done anew once more, such as native's tuning
                warm, made = True, call()
            taken: list[float] = []
            while not taken or sum(taken) < SPAN:
                started = time.perf_counter()
                made = call()
                taken.append(time.perf_counter() - started)
            # The first finds the caches as another process left them.
            answer(seconds=statistics.median(taken[1:] or taken))
        else:
            peak = _peak()
            with outputs.open("wb") as stream:
                pickle.dump(made, stream)
            answer(peak=peak)


def _loaded(job: Job, feeds: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """What runs the model on these feeds: outputs by name."""
    from hubtool.backends import PRECISIONS, get

    if job.opener:
        return _opener(job.opener)(job, feeds)
    if job.peer:
        if job.device != "cpu":
            raise BackendError(f"this peer is not measured on {job.device}")
        peer: Any = get(job.backend)
        precision = PRECISIONS.get(job.precision, job.precision)
        run: Callable[[dict[str, Any]], dict[str, Any]]
        run = peer.open_file(job.source, job.threads, precision)
        return lambda: run(feeds)
    from hubtool.formats import native
    from hubtool.model import Model

    model = Model(
        native.read(Path(job.source)),
        backend=job.backend,
        device=job.device,
        threads=job.threads,
        precision=job.precision,
        options=job.options,
    )
    return lambda: model.run(feeds)


def _opener(named: str) -> Callable[[Job, dict[str, Any]], Callable[[], dict[str, Any]]]:
    """The function "path/of/file.py:function"."""
    path, _, function = named.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Job, dict[str, Any]], Callable[[], dict[str, Any]]] = getattr(module, function)
    return found


def _short(error: Exception) -> str:
    """The message, with the first problems, on one line."""
    if isinstance(error, HubtoolError):
        return " ".join([error.message, "; ".join(error.problems[:3])]).strip()[:300]
    return f"{type(error).__name__}: {error}"[:300].replace("\n", " ")


def _peak() -> int:
    """The most memory that this process ever held, in bytes. What getrusage says begins, on Linux,
    with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _die_with_parent() -> None:
    """Stopped, it would not see that its parent is gone: Linux kills it then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
