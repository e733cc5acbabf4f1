"""How the C++ engine is built: for every machine of the platform, and so that nothing needs it."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from builds import ROOT, build, needs_compiler, objects, run

from hubtool.backends.native import library

# What isa_avx512.cpp and its like define runs where those instructions are: nobody else may use it.
NARROWER = {
    "isa_avx512bf16": {"isa_avx512bf16"},
    "isa_avx512": {"isa_avx512", "isa_avx512bf16"},
    "isa_avx2": {"isa_avx2", "isa_avx512", "isa_avx512bf16"},
}


def symbols(path: Path, *options: str) -> dict[str, str]:
    """What an object defines, and of which kind it is (nm's letter)."""
    done = run("nm", "--defined-only", "--format=posix", *options, path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: kind for name, kind, *_ in lines}


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, str]]:
    """What each file of the engine defines, compiled as for the package."""
    found = objects(build("engine"))
    assert {"abi", "plan", "pool", "isa_portable"} <= {*found}
    return {name: symbols(path) for name, path in found.items()}


@needs_compiler
def test_no_function_of_an_instruction_set_is_anothers_too(compiled):
    """Of an inline function that several files hold the linker keeps one: it must run anywhere."""
    shared = []
    for isa, fellows in NARROWER.items():
        for name, kind in compiled.get(isa, {}).items():
            if kind in "Wu":
                holders = [
                    each for each in compiled if each not in fellows and name in compiled[each]
                ]
                shared += [f"{name} of {isa} is in {holders} too"] * bool(holders)
    assert not shared


@needs_compiler
def test_loading_the_library_runs_nothing_of_an_instruction_set(compiled):
    """A table of kernels that had to be made at loading would be made by the wrong machine too."""
    made = [
        (isa, name)
        for isa in NARROWER
        for name in compiled.get(isa, {})
        if name.startswith(("_GLOBAL__sub_I", "__static_initialization"))
    ]
    assert not made


def test_nothing_but_the_interface_is_seen_from_outside():
    file = library.path()
    assert file is not None, library.reason()
    assert {*symbols(file, "--dynamic")} == {*library.FUNCTIONS}


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path):
    """A wheel for any platform, with all of Python in it and nothing of the engine."""
    made = "import sys, scikit_build_core.build as b; b.build_wheel(sys.argv[1])"
    done = run(sys.executable, "-c", made, tmp_path, cwd=ROOT, CC="/bin/false", CXX="/bin/false")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    assert "hubtool/backends/native/library.py" in names
    assert not [name for name in names if "_engine" in name or "/engine/" in name]
    listed = "import json, hubtool; print(json.dumps([hubtool.__file__, hubtool.backends()]))"
    site = str(tmp_path / "site")
    # -S: without what leads this environment's imports to the sources.
    places = os.pathsep.join([site, sysconfig.get_path("purelib")])
    done = run(sys.executable, "-S", "-c", listed, cwd=tmp_path, PYTHONPATH=places)
    assert done.returncode == 0, done.stderr
    file, backends = json.loads(done.stdout)
    assert file.startswith(site)
    told = {row["name"]: row.get("reason", "") for row in backends}
    assert "is not built" in told["native"]
    assert told["numpy"] == ""
