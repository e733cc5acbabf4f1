"""axon_hub.ex, compiled once, and a way to run lines of Elixir beside it.

Neither Nx nor Axon is needed for what is tested here: the readers, the strictness, the HTTP client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

SOURCE = Path(str(files("hubtool.formats") / "axon" / "axon_hub.ex"))
Run = Callable[..., str]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its modules. In CI Elixir must be there; elsewhere the tests are skipped."""
    if shutil.which("elixirc") is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Elixir here")
    folder = tmp_path_factory.mktemp("beams")
    done = subprocess.run(
        ["elixirc", "--warnings-as-errors", "-o", folder, SOURCE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    return folder


@pytest.fixture
def elixir(compiled: Path, tmp_path: Path) -> Run:
    """Run a script with arguments; what it prints."""

    def run(script: str, *args: object, fails: bool = False) -> str:
        path = tmp_path / "script.exs"
        path.write_text(script)
        done = subprocess.run(
            ["elixir", "-pa", compiled, path, *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return run
