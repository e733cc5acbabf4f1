"""Runs the suite's cases from the command line, and prints what failed and why.

python -m tests.conformance PATTERN [numpy | torch | onnxruntime | strict]
"""

from __future__ import annotations

import re
import sys
import traceback
import warnings

from .suite import cases, on


def main(pattern: str, backend: str = "numpy") -> int:
    """Run the cases whose names match; 1 where any failed."""
    chosen = [case for name, case in cases().items() if re.search(pattern, name)]
    failed = 0
    for case in chosen:
        try:
            case.check(on(backend))
        except Exception as error:
            failed += 1
            print(f"FAILED {case.name} {sorted(case.operators)}\n    {str(error)[:600].strip()}")
            if len(chosen) == 1:
                traceback.print_exc()
    print(f"{len(chosen) - failed} of {len(chosen)} passed on {backend}")
    return 1 if failed else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(*sys.argv[1:]))
