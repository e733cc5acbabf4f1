"""Runs `lift` in a process of its own, with limits.

onnx's shape inference and version converter are C++ that crafted files have crashed and hung
(onnx#8277, #8305, #8321, #8336). Here such a file costs one worker, not the program. The worker
reads a skeleton from its standard input and writes one line of JSON and the lifted model to its
standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hubtool.errors import ReadError

__all__ = ["Worker", "main"]

SECONDS = 120
BYTES = 4 << 30
ROOT = Path(__file__).parents[3]
START = """
import sys
root, seconds, most = sys.argv[1:]
sys.path.insert(0, root)
from hubtool.formats.onnx import worker
worker.main(int(seconds), int(most))
"""


class Worker:
    """One worker process. Start it early: while it imports onnx, so can the caller."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        # -P: a json.py in the folder that the program happens to run in must not be imported.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(ROOT), str(SECONDS), str(BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def lift(self, data: bytes, label: str) -> tuple[bytes, dict[str, Any]]:
        """The lifted skeleton, and what `lift.attempt` says of it. Raises ReadError with what
        became of the worker, if it did not come to an end."""
        try:
            out, err = self.process.communicate(data, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise ReadError(
                f"{label}: onnx was still converting it after {SECONDS} s, and was stopped",
                hint="The file is damaged or hostile; `isolated=False` reads it without limits.",
            ) from None
        head, _, body = out.partition(b"\n")
        facts: dict[str, Any] = {}
        with suppress(ValueError):
            facts = json.loads(head)
        if self.process.returncode != 0 or not facts:
            raise ReadError(
                f"{label}: onnx {_fate(self.process.returncode, err)} while converting it",
                hint="The file is damaged or hostile, or larger than the worker's limits allow.",
            )
        return body, facts

    def close(self) -> None:
        """Stop the worker, whatever it is doing."""
        self.process.kill()
        self.process.communicate()


def _fate(code: int, err: bytes) -> str:
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"crashed ({known.get(-code, f'signal {-code}')})"
    lines = err.decode(errors="replace").strip().splitlines()
    return f"failed ({lines[-1][:200] if lines else f'exit {code}'})"


def main(seconds: int, most: int) -> None:
    """The worker's own side, under limits on time and memory."""
    data = sys.stdin.buffer.read()
    _limit(seconds, most + 32 * len(data))
    # Whatever C++ prints must not end up in the answer.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        from hubtool.formats.onnx.lift import attempt

        model, facts = attempt(data)
        try:
            body = model.SerializeToString()
        except Exception as error:
            body, facts = b"", {"error": f"it is too large once it is converted: {error}"}
        out.write(json.dumps(facts).encode() + b"\n" + body)


def _limit(seconds: int, most: int) -> None:
    """No more than so many seconds of processor time and bytes of memory, and no core file."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the time-out of the caller remains.
        return
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        ceiling = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (ceiling, ceiling))
