"""A small version of `make soak`: servers that die at named points, and many clients at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[3] / "benchmarks" / "soak.py"


def test_nothing_acknowledged_is_lost_when_servers_die_or_many_commit_at_once() -> None:
    command = [sys.executable, str(SOAK), "--kills", "6", "--committers", "16", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = re.search(r"kills: 6 at 6 points .* (\d+) commits acknowledged", done.stdout)
    assert kills and int(kills[1]) > 0
    assert "16 on no parent all landed" in done.stdout
    assert "1 landed and 15 got 412" in done.stdout
    assert done.stdout.endswith("wrong: 0\n")
