"""What the native backend keeps on disk: used by the next start, never believed when changed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passes.builders import floats, layer, tensor

from hubtool import passes
from hubtool.backends import kept_files, prepare
from hubtool.backends.native import backend, kept, lower, runner
from hubtool.formats import native as folders
from hubtool.graph import Graph, Tensor

from .grids import draw


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth keeping, in a folder that begins empty."""
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(runner, "WORTH", 0.0)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function after whose call nothing may be rewritten, lowered or read of the weights."""

    def refuse() -> None:
        def fail(*args: Any, **more: Any) -> Any:
            pytest.fail("prepared anew")

        monkeypatch.setattr(passes, "prepare", fail)
        monkeypatch.setattr(lower, "lower", fail)

    return refuse


def net(seed: int = 0) -> Graph:
    return Graph(
        layers=[
            layer("Conv", {"X": "x", "W": "w"}, "c", pads=[1, 1, 1, 1]),
            layer("Relu", {"X": "c"}, "y"),
        ],
        inputs={"x": floats("N", 16, "H", "W")},
        outputs={"y": floats("N", 32, "H", "W")},
        tensors={"w": tensor((32, 16, 3, 3), seed)},
        values={"c": floats("N", 32, "H", "W")},
    )


X = draw(1, 16, 8, 8)


def run(graph: Graph, x: Any = X, *, tune: bool | str = False, **more: Any) -> Any:
    return backend.prepare(graph, options={"tune": tune}, **more).run({"x": x})["y"]


def wanted(graph: Graph, x: Any = X) -> Any:
    return prepare("numpy", graph).run({"x": x})["y"]


def right(found: Any, graph: Graph, x: Any = X) -> bool:
    return bool(abs(found - wanted(graph, x)).max() <= 2e-5 * abs(wanted(graph, x)).max())


def files(suffix: str = "") -> list[Path]:
    return sorted(kept.folder().glob(f"*{suffix}"))


# The second start


def test_a_second_start_rewrites_and_lowers_nothing(refused: Any) -> None:
    first = run(net())
    assert [path.suffix for path in files()].count(".plan") == len(files(".weights")) == 1
    assert right(first, net())
    refused()
    np.testing.assert_array_equal(run(net()), first)


def test_a_second_start_from_a_folder_touches_no_weight(refused: Any, tmp_path: Path) -> None:
    folders.write(net(), tmp_path / "model")
    first = run(folders.read(tmp_path / "model"))
    refused()
    graph = folders.read(tmp_path / "model")
    np.testing.assert_array_equal(run(graph), first)
    assert not any("array" in vars(each) for each in graph.tensors.values())


def test_choices_by_timing_are_kept(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBTOOL_NATIVE_TUNE", raising=False)
    first = run(net(), tune="first")
    refused()
    prepared = backend.prepare(net(), options={"tune": True})
    for _ in range(3):  # nothing is left to be tuned
        np.testing.assert_array_equal(prepared.run({"x": X})["y"], first)
    assert {*prepared.parts[0].choices} == {"layer_c"}


def test_a_plan_by_rule_is_kept_and_tuned_by_whoever_runs_it_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HUBTOOL_NATIVE_TUNE", raising=False)
    first = run(net(), tune=True)
    prepared = backend.prepare(net(), options={"tune": True})
    np.testing.assert_array_equal(prepared.run({"x": X})["y"], first)
    assert prepared.parts[0].tunings == 0
    prepared.run({"x": X})
    assert prepared.parts[0].tunings == 1
    again = backend.prepare(net(), options={"tune": True})
    again.run({"x": X}), again.run({"x": X})
    assert again.parts[0].tunings == 0
    assert {*again.parts[0].choices} == {"layer_c"}


def test_notes_and_parts_are_kept_too(refused: Any) -> None:
    graph = net()
    graph.layers.append(layer("CumSum", {"x": "y", "axis": "axis"}, "z", name="sums"))
    graph.tensors["axis"] = Tensor.of(np.array(1))
    graph.outputs = {"z": floats("N", 32, "H", "W")}
    first = backend.prepare(graph, options={"tune": False})
    z = first.run({"x": X})["z"]
    before = passes.prepare
    refused()
    second = backend.prepare(graph, options={"tune": False})
    assert second.notes == first.notes == ["CumSum 'sums': no kernel"]
    passes.prepare = before  # what numpy runs needs the weights
    np.testing.assert_array_equal(second.run({"x": X})["z"], z)


def test_what_takes_no_time_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WORTH", 1e9)
    run(net())
    assert not kept.folder().exists()
    monkeypatch.setattr(runner, "WORTH", 0.0)
    backend.prepare(net(), options={"tune": False, "disk_cache": False}).run({"x": X})
    assert not kept.folder().exists()


def test_plans_of_several_shapes_share_their_weights() -> None:
    run(net(), precision="exact")  # by rule, larger batches may take other algorithms
    larger = draw(8, 16, 8, 8)
    assert right(run(net(), larger, precision="exact"), net(), larger)
    assert len(files(".plan")) == 2
    assert len(files(".weights")) == 1
    one, other = (kept.load_plan(path.stem) for path in files(".plan"))
    assert one is not None and other is not None
    assert one.weights is other.weights


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.tensors.update(w=tensor((32, 16, 3, 3), 1)),
        lambda graph: graph.layers[0].attrs.update(pads=[0, 0, 0, 0]),
        lambda graph: graph.layers.__setitem__(1, layer("Sigmoid", {"X": "c"}, "y")),
    ],
    ids=["weights", "attribute", "layer"],
)
def test_a_model_that_is_another_has_another_key(change: Any) -> None:
    run(net())
    other = net()
    change(other)
    assert right(run(other), other)
    assert len(files(".plan")) == 2


def test_each_setting_has_plans_of_its_own() -> None:
    for more in ({}, {"threads": 1}, {"threads": 2}, {"precision": "exact"}):
        run(net(), **more)
    assert len(files(".plan")) in (3, 4)  # 4 where the default is neither 1 nor 2 threads


def test_weights_that_were_written_over_in_their_file_are_noticed(tmp_path: Path) -> None:
    for seed in (0, 1):
        folders.write(net(seed), tmp_path / "model", overwrite=bool(seed))
        assert right(run(folders.read(tmp_path / "model")), net(seed))
    place = tmp_path / "model" / "model.safetensors"
    with place.open("r+b") as file:  # in place, of the same size, with the time set back
        before = place.stat()
        file.seek(-4, 2)
        file.write(np.float32(100).tobytes())
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    graph = folders.read(tmp_path / "model")
    assert right(run(graph), graph)
    assert graph.tensors["w"].array.flat[-1] == 100


# Damage


@pytest.mark.parametrize("suffix", [".plan", ".model"])
def test_one_changed_byte_anywhere_makes_it_anew(suffix: str) -> None:
    first = run(net())
    (path,) = files(suffix)
    good = path.read_bytes()
    for at in sorted({*range(0, 60), *range(0, len(good), 97), len(good) - 1}):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
        assert kept._load(path.name) is None, at
    for cut in (0, 1, 31, 32, 40, len(good) - 1):
        path.write_bytes(good[:cut])
        assert kept._load(path.name) is None, cut
    np.testing.assert_array_equal(run(net()), first)
    assert kept._load(path.name) is not None  # written anew


def test_a_plan_under_the_name_of_another_is_refused() -> None:
    run(net())
    run(net(1))
    one, other = files(".plan")
    other.write_bytes(one.read_bytes())
    assert kept.load_plan(other.stem) is None
    assert right(run(net()), net()) and right(run(net(1)), net(1))


def test_packed_weights_that_were_changed_or_are_gone_are_made_anew() -> None:
    first = run(net())
    (path,) = files(".weights")
    good = path.read_bytes()
    for bad in (good[:-1], good[:-1] + b"\x7f", None):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
        np.testing.assert_array_equal(run(net()), first)
        assert path.read_bytes() == good


def test_a_damaged_file_of_weights_is_not_relied_on_by_another_plan() -> None:
    run(net())
    (path,) = files(".weights")
    good, status = path.read_bytes(), path.stat()
    path.write_bytes(b"\x7f" * len(good))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    larger = draw(3, 16, 8, 8)
    assert right(run(net(), larger), net(), larger)
    assert path.read_bytes() == good


# Who may write there


@pytest.mark.parametrize("suffix", ["", ".plan", ".model", ".weights"])
def test_what_others_can_write_is_not_read(suffix: str) -> None:
    first = run(net())
    path = files(suffix)[0] if suffix else kept.folder()
    assert kept.folder().stat().st_mode & 0o777 == 0o700
    path.chmod(path.stat().st_mode | 0o022)
    name = files(".plan")[0].stem if suffix != ".model" else files(".model")[0].stem
    load: Any = kept.load_outline if suffix == ".model" else kept.load_plan
    assert load(name) is None
    np.testing.assert_array_equal(run(net()), first)


def test_a_disk_that_cannot_be_written_to_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "file"))
    assert right(run(net()), net())


# Size


def test_what_was_used_least_recently_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        run(net(seed))
        for path in files():
            if path.stat().st_atime_ns > 10**15:
                os.utime(path, ns=(10**12 * (seed + 1), path.stat().st_mtime_ns))
    run(net(0))  # used now
    size = sum(path.stat().st_size for path in files())
    known = {path: path.stat().st_atime_ns for path in files()}
    oldest = {path for path, when in known.items() if when == 2 * 10**12}
    assert len(oldest) == 3
    monkeypatch.setattr(kept, "LIMIT", size)
    run(net(3))
    assert not oldest & {*files()}
    assert {path for path, when in known.items() if when > 10**15} <= {*files()}
    assert sum(path.stat().st_size for path in files()) <= size


def test_use_is_remembered_and_the_time_of_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, ns=(5, 7))
    kept_files.used(path)
    assert path.stat().st_mtime_ns == 7
    assert path.stat().st_atime_ns > 10**15
    kept_files.used(tmp_path / "missing")


# Several at once


def test_processes_that_write_at_once_leave_what_is_whole() -> None:
    code = """
import numpy as np
from backends.test_native_kept import X, net, right, run, runner
runner.WORTH = 0.0
assert right(run(net()), net())
"""
    here = str(Path(__file__).parents[1])
    env = os.environ | {"PYTHONPATH": here}
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, env=env) for _ in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert len(files(".weights")) == len(files(".model")) == 1
    assert kept.load_plan(files(".plan")[0].stem) is not None
    assert not [path for path in kept.folder().iterdir() if "tmp" in path.name]
