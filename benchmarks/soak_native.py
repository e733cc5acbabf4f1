"""The C++ engine under sanitizers, for long: `make soak`, or `python benchmarks/soak_native.py`.

**Sanitize.** The engine is built once more with AddressSanitizer and UndefinedBehaviorSanitizer,
and a Python with them preloaded runs on it, for each instruction set that this machine has: the
models of tests/backends/watched.py, every test of the native backend, and the conformance cases
whose operators the engine knows.

**Races.** The engine built with ThreadSanitizer, and tests/native/races.cpp over it: many callers
of one plan, plans that share a pool, pools that come and go, and a fork.

Exit 1 where anything is found. The builds stay in build/, so a second time is quicker.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from builds import ROOT, build, preloaded, run

from hubtool.backends.native import library

CAMPAIGNS = ("sanitize", "races")
CASES = "Conv|Gemm|MatMul|Pool|Softmax|LRN|BatchNorm|Relu|Sigmoid|Add|Mul|Concat|Upsample|Resize"
"""Conformance cases, by a pattern of their names."""
TESTS = "tests/backends/test_native*.py"
LEFT_OUT = "not whole_resnet"
"""They read ONNX files in a worker whose memory is limited: too little for a sanitizer's map."""
HOURS = 4 * 3600
NOT_AGAIN = "test_native_sanitized.py"
"""It would build and watch within what is watched."""


def told(what: str, command: list[object], variables: Mapping[str, str]) -> bool:
    """Run it and say in a line how it went, at length where it went wrong; True if well."""
    began = time.perf_counter()
    done = run(*command, cwd=ROOT, limit=HOURS, **variables)
    lines = done.stdout.strip().splitlines() or [""]
    print(f"{what}: {lines[-1]}, {time.perf_counter() - began:.0f} s", flush=True)
    if done.returncode:
        print(f"WRONG: {what} ended with {done.returncode}\n{done.stdout[-8000:]}", file=sys.stderr)
        print(done.stderr[-8000:], file=sys.stderr, flush=True)
    return done.returncode == 0


def sanitize(isas: list[str], cases: str) -> int:
    """How many parts went wrong."""
    folder = build("sanitized", HUBTOOL_SANITIZE="address,undefined")
    watched = preloaded(folder / "_engine.so", "libasan", "libubsan")
    tests = [file for file in sorted(ROOT.glob(TESTS)) if file.name != NOT_AGAIN]
    wrong = 0
    for isa in isas:
        with tempfile.TemporaryDirectory() as home:
            variables = {
                **watched,
                "HUBTOOL_NATIVE_ISA": isa,
                "HUBTOOL_HOME": home,
                "PYTHONPATH": str(ROOT / "tests"),
            }
            python: list[object] = [sys.executable, "-m"]
            for what, command in {
                "models": [*python, "backends.watched"],
                "tests": [*python, "pytest", "-p", "no:cacheprovider", "-k", LEFT_OUT, *tests],
                "conformance": [*python, "tests.conformance", f"(?i){cases}", "native"],
            }.items():
                wrong += not told(f"{isa}, {what}", command, variables)
    return wrong


def races(rounds: int) -> int:
    folder = build("races", HUBTOOL_SANITIZE="thread", HUBTOOL_PORTABLE_ONLY="ON")
    return not told("races", [folder / "races", rounds], {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--isa", action="append", help="only this one; may be given again")
    parser.add_argument("--cases", default=CASES, help="conformance cases with such names")
    parser.add_argument("--rounds", type=int, default=2000, help="of the races")
    given = parser.parse_args()
    if unknown := set(given.campaigns) - set(CAMPAIGNS):
        parser.error(f"no campaign: {', '.join(sorted(unknown))}")
    os.environ.pop("HUBTOOL_NATIVE_ISA", None)
    wanted = given.campaigns or CAMPAIGNS
    wrong = 0
    if "sanitize" in wanted:
        wrong += sanitize(given.isa or library.isas(), given.cases)
    if "races" in wanted:
        wrong += races(given.rounds)
    print(f"wrong: {wrong}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
