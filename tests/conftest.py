"""What all tests share. In CI a skipped test is a failed one: everything needed is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hubtool import zoo

# The machine may be busy, and in CI the same commit must meet the same examples.
settings.register_profile("hubtool", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("hubtool")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[Any]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs, such as compiled programs, is kept apart from the user's own; and
    the native backend chooses its algorithms by rule, not by timing on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        if "HUBTOOL_HOME" not in os.environ:
            patch.setenv("HUBTOOL_HOME", str(tmp_path_factory.mktemp("home")))
        if "HUBTOOL_NATIVE_TUNE" not in os.environ:
            patch.setenv("HUBTOOL_NATIVE_TUNE", "0")
        yield


@pytest.fixture(scope="session")
def sketch18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sketch of resnet18-v1 as an ONNX file; not to be written to."""
    path = tmp_path_factory.mktemp("sketch") / "resnet18-v1.onnx"
    zoo.sketch("resnet18-v1", path)
    return path
