"""Writes docs/operators.md: every operator, its family, and the cases that each backend passes.

The figures follow from onnx's suite and the files of known failures, which the tests hold to be
true: nothing is run here.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conformance.known import BACKENDS, known_failures, runs  # noqa: E402
from conformance.suite import cases  # noqa: E402

from hubtool.formats.axon.lower import load_lowered  # noqa: E402
from hubtool.ops import FAMILIES, OPSETS, Op, load_ops  # noqa: E402

__all__ = ["render"]

HEAD = """# Operators

Every operator that hubtool knows, with the cases of ONNX's backend test suite in which it occurs,
and how many of those each backend passes. All are defined once, in `hubtool/ops`, by their family;
*array API* is array_api_strict running those definitions, where its dtypes allow a case. An
operator without a case has its own tests against ONNX Runtime. *Elixir*: a notebook or module can
say it (docs/elixir.md). What fails, and why, stands in tests/conformance/known_failures.
(`python docs/make_operators.py` writes this page.)
"""

TITLES = {
    "numpy": "numpy",
    "native": "native",
    "torch": "torch",
    "xla": "XLA",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "strict": "array API",
}


def render() -> str:
    """The whole page."""
    parts = [HEAD, _totals(), _families()]
    for domain, opset in OPSETS.items():
        known = [op for name, op in sorted(load_ops().items()) if name.rpartition(".")[0] == domain]
        parts += [f"## {domain or 'ai.onnx'}, opset {opset}\n", _table(known)]
    return "\n".join(parts)


def _totals() -> str:
    rows = ["| backend | cases passed | run |", "|---|--:|--:|"]
    for backend in BACKENDS:
        run = [name for name, case in cases().items() if runs(backend, case)]
        passed = len(run) - len(known_failures(backend))
        rows.append(f"| {TITLES[backend]} | {passed:,} | {len(run):,} |")
    return "\n".join([*rows, ""])


def _families() -> str:
    operators = Counter(_family(op) for op in load_ops().values())
    rows = ["## Families\n", "| family | operators |", "|---|--:|"]
    rows += [f"| {family} | {operators[family]} |" for family in FAMILIES]
    return "\n".join([*rows, ""])


def _table(operators: list[Op]) -> str:
    titles = " | ".join(TITLES[backend] for backend in BACKENDS)
    rows = [
        f"| operator | family | cases | {titles} | Elixir |",
        f"|---|---|--:|{'--:|' * len(BACKENDS)}---|",
    ]
    found = {backend: _passed(backend) for backend in BACKENDS}
    total = Counter(op for case in cases().values() for op in case.operators)
    for op in operators:
        figures = " | ".join(str(found[backend][op.name] or "") for backend in BACKENDS)
        name = op.name.removeprefix("com.microsoft.").removeprefix("ai.onnx.ml.")
        elixir = "yes" if op.name in load_lowered() else ""
        count = total[op.name] or ""
        rows.append(f"| {name} | {_family(op)} | {count} | {figures} | {elixir} |")
    return "\n".join([*rows, ""])


def _passed(backend: str) -> Counter[str]:
    failures = known_failures(backend)
    return Counter(
        op
        for name, case in cases().items()
        if name not in failures and runs(backend, case)
        for op in case.operators
    )


def _family(op: Op) -> str:
    return op.function.__module__.rpartition(".")[2]


if __name__ == "__main__":
    Path(__file__).with_name("operators.md").write_text(render(), encoding="utf-8")
