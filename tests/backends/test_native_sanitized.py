"""The engine under AddressSanitizer and UndefinedBehaviorSanitizer, on every instruction set that
this machine has, and its threads under ThreadSanitizer. `make soak` does the same at length."""

from __future__ import annotations

import re
import sys

import pytest
from builds import ROOT, build, needs_compiler, preloaded, run

from hubtool.backends.native import library

pytestmark = needs_compiler
ISAS = ["portable"] if library.reason() else library.isas()


@pytest.fixture(scope="module")
def watched() -> dict[str, str]:
    """The environment in which Python loads an engine that is watched."""
    folder = build("sanitized", HUBTOOL_SANITIZE="address,undefined")
    return {
        **preloaded(folder / "_engine.so", "libasan", "libubsan"),
        "PYTHONPATH": str(ROOT / "tests"),
    }


@pytest.mark.parametrize("isa", ISAS)
def test_models_run_clean(isa, watched, tmp_path):
    home = {"HUBTOOL_NATIVE_ISA": isa, "HUBTOOL_HOME": str(tmp_path)}
    done = run(sys.executable, "-m", "backends.watched", cwd=ROOT, **watched, **home)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    compiled, of = map(
        int, re.findall(r"(\d+) of (\d+) models ran compiled on " + isa, done.stdout)[0]
    )
    assert compiled == of >= 30


def test_the_watch_is_kept(watched, tmp_path):
    """What is written behind an array does not go unseen."""
    home = {"HUBTOOL_HOME": str(tmp_path)}
    done = run(sys.executable, "-m", "backends.watched", "overrun", cwd=ROOT, **watched, **home)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-4000:]


def test_threads_do_not_race():
    """Portable kernels are enough: the pool and the plans are the same for all."""
    folder = build("races", HUBTOOL_SANITIZE="thread", HUBTOOL_PORTABLE_ONLY="ON")
    done = run(folder / "races", 40)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout == "40 rounds, 0 wrong\n"
