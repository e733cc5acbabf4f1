"""The C++ engine, built in ways of its own for tests: watched by a sanitizer, or portable only.

Each way has a folder under build/, so that a second time only what has changed is compiled. What
is built for the package itself (`make engine`, or pip) is never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = [
    "ENGINE",
    "ROOT",
    "build",
    "cmake",
    "needs_compiler",
    "objects",
    "preloaded",
    "run",
]

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "hubtool" / "backends" / "native" / "engine"

COMPILER = os.environ.get("CXX", "c++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:strict_init_order=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
"""Python leaks by design."""


def cmake() -> str:
    """The environment's own cmake, else the machine's."""
    found = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    assert found, "no cmake: `make test` brings one along"
    return found


def run(
    *command: object, cwd: Path | None = None, limit: float = 600, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command with these variables, its output kept; limit: seconds."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=limit,
    )


def build(name: str, *targets: str, **defines: str) -> Path:
    """The folder build/<name> with these targets of the engine, built with these definitions."""
    folder = ROOT / "build" / name
    given = [f"-D{key}={value}" for key, value in defines.items()]
    wanted = ["--target", *targets] if targets else []
    for step in (
        ["-S", ENGINE, "-B", folder, "--log-level=WARNING", *given],
        ["--build", folder, "--parallel", 4, *wanted],
    ):
        done = run(cmake(), *step)
        assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return folder


def objects(folder: Path) -> dict[str, Path]:
    """The compiled files of a build, by the names of their sources."""
    found = (folder / "CMakeFiles" / "_engine.dir").glob("*.cpp.o")
    return {path.name.removesuffix(".cpp.o"): path for path in sorted(found)}


def preloaded(library: Path, *runtimes: str) -> dict[str, str]:
    """The environment in which a plain Python loads a watched engine.

    Sanitizers have to be there before everything else; the C++ library comes with them, so that
    they find what it throws.
    """
    files = [run(COMPILER, f"-print-file-name={name}.so") for name in (*runtimes, "libstdc++")]
    paths = [done.stdout.strip() for done in files]
    missing = [path for path in paths if not Path(path).is_absolute()]
    assert not missing, f"{COMPILER} has no {', '.join(missing)}"
    return {**OPTIONS, "LD_PRELOAD": " ".join(paths), "HUBTOOL_NATIVE_LIBRARY": str(library)}
