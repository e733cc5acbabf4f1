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
from pathlib import Path
from typing import Any

from hubtool.errors import ReadError

__all__ = ["Worker", "main"]

SECONDS = 120
BYTES = 4 << 30
ROOT = Path(__file__).parents[3]
START = "import sys; sys.path.insert(0, sys.argv[1]); from hubtool.formats.onnx import worker; worker.main()"


class Worker:
    """One worker process. Start it early: while it imports onnx, so can the caller."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def lift(self, data: bytes, label: str) -> tuple[bytes, dict[str, Any]]:
        """The lifted skeleton, and {opset, ir_version, notes}. Raises ReadError with what is wrong
        with the model, or what became of the worker."""
        try:
            out, err = self.process.communicate(data, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            raise ReadError(
                f"{label}: onnx was still converting it after {SECONDS} s, and was stopped",
                hint="The file is damaged or hostile; `isolated=False` reads it without limits.",
            ) from None
        head, _, body = out.partition(b"\n")
        if self.process.returncode != 0 or not head:
            raise ReadError(
                f"{label}: onnx {_fate(self.process.returncode, err)} while converting it",
                hint="The file is damaged or hostile, or larger than the worker's limits allow.",
            )
        facts: dict[str, Any] = json.loads(head)
        if "error" in facts:
            raise ReadError(f"{label} cannot be read: {facts['error']}")
        return body, facts

    def close(self) -> None:
        """Stop the worker, whatever it is doing."""
        self.process.kill()
        self.process.communicate()


def _fate(code: int, err: bytes) -> str:
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    lines = err.decode(errors="replace").strip().splitlines()
    return f"failed ({lines[-1] if lines else f'exit {code}'})"


def main() -> None:
    """The worker's own side."""
    data = sys.stdin.buffer.read()
    _limit(len(data))
    from google.protobuf.message import DecodeError

    from hubtool.formats.onnx.lift import lift

    out = sys.stdout.buffer
    try:
        lifted = lift(data)
        body = lifted.model.SerializeToString()
        facts = {"opset": lifted.opset, "ir_version": lifted.ir_version, "notes": lifted.notes}
    except DecodeError:
        body, facts = b"", {"error": "it is no ONNX model (protobuf cannot parse it)"}
    except MemoryError:
        body, facts = b"", {"error": "converting it takes more memory than the limit"}
    except Exception as error:
        body, facts = b"", {"error": str(error).strip() or type(error).__name__}
    out.write(json.dumps(facts).encode() + b"\n" + body)
    out.flush()


def _limit(size: int) -> None:
    """No more than SECONDS of processor time, BYTES of memory, and no core file."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the time-out of the caller remains.
        return
    room = BYTES + 32 * size
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, room),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        ceiling = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (ceiling, ceiling))
