"""Nothing that is sent makes the hub fail, for as long as one likes: part of `make soak`.

    python benchmarks/soak_fuzz.py [--minutes 10] [--seed 0]

What tests/hub/server/test_fuzz.py does with fixed seeds goes on here with ever others: schemathesis
over every operation of the hub's document, on an open hub, as a user and as nobody; and hypothesis
over commits, small bodies, cards, addresses, uploads, Xet and HTTP itself. The law is in
tests/hub/server/fuzz.py: no 5xx, a request id in every answer, a printable reason in every refusal;
at the end the servers live, have stayed small, their folders are in order, tmp/ is empty.

Exit 1 where any of that is broken, after the smallest example and its seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub.server.fuzz import Target, guarded, look_at
from hub.server.fuzz_http import CAMPAIGNS
from hub.server.fuzz_inputs import run
from hub.server.fuzz_schema import attack, operations
from hub.server.servers import Served

BY_DOCUMENT, BY_CHANCE = 10, 100
"""Examples of one operation, and of one campaign, in a turn."""


def campaign(minutes: float, seed: int, wrong: list[str]) -> None:
    """Turns with ever other seeds until the time is over; at least one."""
    statuses: Counter[int] = Counter()
    failed: set[str] = set()
    turns = 0
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "open").mkdir()
        headers = guarded(root / "guarded")
        served = [stack.enter_context(Served(root / name)) for name in ("open", "guarded")]
        anybody = Target(served[0].url)
        user, nobody = Target(served[1].url, headers), Target(served[1].url)

        def by_document(target: Target, number: int, operation: object) -> None:
            statuses.update(attack(target, operation, BY_DOCUMENT, number, edges=turns == 0))

        def attempt(name: str, target: Target, work: Callable[[], None]) -> None:
            if name in failed:
                return  # it is told once
            try:
                (user if target is nobody else target).prepare()
                work()
            except Exception as error:
                failed.add(name)
                notes = "\n".join(getattr(error, "__notes__", []))
                wrong.append(f"{name}, seed {seed + turns}: {notes}\n{traceback.format_exc()}")

        began = time.monotonic()
        while turns == 0 or time.monotonic() - began < 60 * minutes:
            number = seed + turns
            for operation in operations():
                for who, target in (("open", anybody), ("user", user), ("nobody", nobody)):
                    work = partial(by_document, target, number, operation)
                    attempt(f"{operation.label} ({who})", target, work)
            for each in CAMPAIGNS:
                for who, target in (("open", anybody), ("user", user)):
                    work = partial(run, each, target, BY_CHANCE, number)
                    attempt(f"{each.name} ({who})", target, work)
            turns += 1
        peaks = [one.peak_mb() for one in served]
        for one, name in zip(served, ("open", "guarded"), strict=True):
            try:
                look_at(root / name, one)
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
    sent = anybody.sent + user.sent + nobody.sent
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(
        f"fuzzing: {turns} turns from seed {seed}, {sum(statuses.values()):,} requests by the"
        f" document ({told}), {sent:,} others; {max(peaks):.0f} MB at the most;"
        f" {time.monotonic() - began:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong: list[str] = []
    campaign(given.minutes, given.seed, wrong)
    for told in wrong:
        print(f"WRONG: {told}", file=sys.stderr)
    print(f"wrong: {len(wrong)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
