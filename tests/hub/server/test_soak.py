"""A small version of `make soak`: servers that die, many clients at once, many models.

What of it is fuzzing is in test_fuzz.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[3] / "benchmarks" / "soak.py"


def test_nothing_acknowledged_is_lost_when_servers_die_or_many_commit_at_once() -> None:
    campaigns = ["kills", "committers", "--kills", "6", "--committers", "16", "--seed", "7"]
    command = [sys.executable, str(SOAK), *campaigns]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = re.search(r"kills: 6 at 6 points .* (\d+) commits acknowledged", done.stdout)
    assert kills and int(kills[1]) > 0
    assert "16 on no parent all landed" in done.stdout
    assert "1 landed and 15 got 412" in done.stdout
    assert done.stdout.endswith("wrong: 0\n")


def test_every_search_and_every_care_of_a_filled_hub_is_held_against_a_plain_look() -> None:
    command = [sys.executable, str(SOAK), "scale", "--models", "2000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"searches: (\d+), (\d+) of them found something", done.stdout)
    assert found and int(found[2]) > int(found[1]) / 2
    assert done.stdout.count("| fsck --quick |") == 3
    assert "| reindex --hub |" in done.stdout and "| backup --link |" in done.stdout
    assert done.stdout.endswith("wrong: 0\n")


def test_a_campaign_that_does_not_exist_is_refused() -> None:
    done = subprocess.run([sys.executable, str(SOAK), "frost"], capture_output=True, text=True)
    assert done.returncode == 2 and "no campaign: frost" in done.stderr
