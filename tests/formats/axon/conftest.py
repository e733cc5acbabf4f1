"""Elixir, and the stand-ins for Nx and Axon that what hubtool wrote is run against."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "stub"

Facts = dict[str, list[str]]
Run = Callable[..., Facts]


@pytest.fixture(scope="session")
def elixir() -> str:
    """The program; a test that needs it is skipped where it is not installed."""
    found = shutil.which("elixir")
    if found is None:
        pytest.skip("Elixir is not installed")
    return found


@pytest.fixture(scope="session")
def ebin(elixir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins, compiled."""
    folder = tmp_path_factory.mktemp("ebin")
    sources = sorted(STUB.glob("*.ex"))
    done = subprocess.run(
        ["elixirc", "-o", folder, *sources], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is fetched is kept."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def outcome(elixir: str, ebin: Path, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs run.exs with these arguments, and says how that ended."""

    def run(
        *args: str | Path, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [elixir, "-pa", ebin, STUB / "run.exs", *args]
        system = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            **env,
        }
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=system, check=False
        )

    return run


@pytest.fixture
def run(outcome: Callable[..., subprocess.CompletedProcess[str]]) -> Run:
    """Runs run.exs, which must end well and without a warning; what it says, by its first word."""

    def facts(*args: str | Path, **options: str | Path) -> Facts:
        done = outcome(*args, **options)
        assert (done.returncode, done.stderr) == (0, "")
        found: Facts = {}
        for line in done.stdout.splitlines():
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
        return found

    return facts
