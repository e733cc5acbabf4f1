from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from hubtool import read, zoo
from hubtool.errors import UnsupportedError
from hubtool.formats import safetensors
from hubtool.formats.axon import module, notebook
from hubtool.formats.axon.lower import lower
from hubtool.formats.axon.lower_data import Input
from hubtool.formats.axon.notebook_picture import takes_pictures
from hubtool.graph import Graph, Tensor

from .graphs import FAMILIES, PREPROCESSING, Net, classifier, residual, saved
from .hostile import MARK, hostile

GOLDEN = Path(__file__).parent / "golden"

HEADINGS = [
    "What this is",
    "The weights",
    "The model",
    "The parameters",
    "Try it",
    "A look inside",
    "Backends",
]


def written(graph: Graph, folder: Path, title: str = "A model", **options: str | None) -> Path:
    """The graph's folder with the notebook in it."""
    where = {"repository": None, "revision": None, "hub": None, **options}
    text = notebook(graph, title=title, weights=saved(graph, folder), **where)
    (folder / "notebook.livemd").write_text(text, encoding="utf-8")
    return folder / "notebook.livemd"


def hollow(graph: Graph) -> Graph:
    """The graph with weights of the same shapes that are quick to write: for the stand-ins, which
    read their header alone."""
    light = graph.copy()
    zeros = {k: np.zeros(t.shape, t.array.dtype) for k, t in graph.tensors.items() if t.size > 64}
    light.tensors.update({name: Tensor.of(array) for name, array in zeros.items()})
    return light


def test_the_notebook_of_a_residual_net_is_the_golden_one(tmp_path) -> None:
    text = written(residual(), tmp_path / "m", "tiny").read_text(encoding="utf-8")
    assert text == (GOLDEN / "residual.livemd").read_text(encoding="utf-8")


def test_the_module_of_a_residual_net_is_the_golden_one(tmp_path) -> None:
    graph = residual()
    text = module(graph, name="Tiny", title="tiny", weights=saved(graph, tmp_path / "m"))
    assert text == (GOLDEN / "residual.ex").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_notebook_and_module_parse_run_and_are_formatted(family: str, run, tmp_path) -> None:
    graph = FAMILIES[family]()
    notebook_path, module_path = written(graph, tmp_path / "m"), tmp_path / "some_model.ex"
    weights = [{"file": "model.safetensors", "sha256": _sha256(tmp_path / "m/model.safetensors")}]
    text = module(graph, name="Some.Model", title=family, weights=weights)
    assert "Mix.install" not in text
    module_path.write_text(text, encoding="utf-8")
    facts = run("notebook", notebook_path, "--", "module", module_path, tmp_path / "m")
    lowered = lower(graph)
    assert facts["layers"] == [str(len(lowered.steps))] * 2
    assert facts["parameters"] == [str(len([*lowered.parameters]))] * 2
    # The cell of the labels holds as many a line as there is room for.
    assert len(facts.get("unformatted", [])) == ("labels" in graph.meta)
    assert family in facts["doc"][0]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("version", [1, 2])
def test_the_sketches_of_the_zoo_run(depth: int, version: int, run, tmp_path) -> None:
    name = f"resnet{depth}-v{version}"
    zoo.sketch(name, tmp_path / "model.onnx")
    graph = hollow(read(tmp_path / "model.onnx"))
    facts = run("notebook", written(graph, tmp_path / "m", name))
    assert facts["layers"] == [str(len(graph.layers))]
    headings = re.findall(r"^### (.*)$", (tmp_path / "m/notebook.livemd").read_text(), re.M)
    assert headings[-2:] == ["Stage 5: 7 × 7", "The head"] or version == 2
    assert len(headings) in (6, 7)


def test_the_sections_stand_in_their_order(tmp_path) -> None:
    text = written(classifier(), tmp_path / "m").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == [*HEADINGS, "Fine-tuning"]
    assert re.findall(r"^# (.*)$", text, re.M)[0] == "A model"


def test_a_model_without_a_head_has_no_section_on_fine_tuning(tmp_path) -> None:
    text = written(residual(), tmp_path / "m").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS


@pytest.mark.parametrize(
    ("repository", "revision", "hub", "url"),
    [
        (None, None, None, "nil"),
        ("a/b", None, None, "nil"),
        ("a/b", None, "https://hub.example/", '"https://hub.example/a/b/resolve/main/"'),
        ("a/b", "v1", "https://hub.example", '"https://hub.example/a/b/resolve/v1/"'),
    ],
)
def test_the_weights_come_from_the_hub_that_is_named(
    repository, revision, hub, url, tmp_path
) -> None:
    where = {"repository": repository, "revision": revision, "hub": hub}
    text = written(residual(), tmp_path / "m", **where).read_text(encoding="utf-8")
    assert f"\nurl = {url}\n" in text


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A hub, as far as a download sees it: the files below tmp_path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_weights_are_fetched_once_checked_and_kept(web: str, outcome, home, tmp_path) -> None:
    where = {"repository": "a/b", "revision": "v1", "hub": web}
    graph = residual()
    remote = tmp_path / "a/b/resolve/v1"
    remote.parent.mkdir(parents=True)
    (tmp_path / "notebook.livemd").write_text(
        notebook(graph, title="x", weights=saved(graph, remote), **where), encoding="utf-8"
    )
    weights = remote / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    damaged = outcome("notebook", tmp_path / "notebook.livemd")
    assert (damaged.returncode, "it is another file" in damaged.stderr) == (1, True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
    weights.write_bytes(whole)
    assert outcome("notebook", tmp_path / "notebook.livemd").returncode == 0
    (kept,) = (path for path in home.rglob("*") if path.is_file())
    assert kept.read_bytes() == whole
    weights.unlink()
    assert outcome("notebook", tmp_path / "notebook.livemd").returncode == 0
    kept.unlink()
    gone = outcome("notebook", tmp_path / "notebook.livemd")
    assert (gone.returncode, "cannot fetch http://127.0.0.1" in gone.stderr) == (1, True)


def test_tensors_are_called_by_their_keys_in_the_file(run, tmp_path) -> None:
    graph = residual()
    graph.tensors["__metadata__"] = graph.tensors.pop("stem.conv.weight")
    graph.tensors["idle"] = Tensor.of(np.array(["a", "b"], object))
    graph.layers[0].inputs["W"] = "__metadata__"
    path = written(graph, tmp_path / "m")
    assert '{"stem.conv", "kernel", "__metadata__~2",' in path.read_text(encoding="utf-8")
    assert 'unused = ["idle", "idle/offsets"]' in path.read_text(encoding="utf-8")
    assert run("notebook", path)["parameters"] == ["7"]


def test_a_picture_goes_through_the_preprocessing(run, tmp_path) -> None:
    (tmp_path / "picture").write_bytes(bytes(range(18)))
    path = written(classifier(), tmp_path / "m")
    assert run("notebook", path, STUB_PICTURE=str(tmp_path / "picture"))["output"] == ['"one"']


@pytest.mark.parametrize(
    ("interpolation", "channels", "layout"),
    [
        ("nearest", "RGB", "NCHW"),
        ("box", "L", "NCHW"),
        ("bilinear", "BGR", "NHWC"),
        ("bicubic", "L", "NHWC"),
        ("lanczos", "RGB", "NHWC"),
    ],
)
def test_every_preprocessing_can_be_said(interpolation, channels, layout, run, tmp_path) -> None:
    numbers = [0.5] if channels == "L" else [0.5, 0.25, 0.125]
    spec = {**PREPROCESSING, "channels": channels, "layout": layout, "range": [-1, 1]}
    spec |= {"interpolation": interpolation, "mean": numbers, "std": numbers}
    count = len(numbers)
    shape = ("N", count, 8, 8) if layout == "NCHW" else ("N", 8, 8, count)
    net = Net(x=("float32", shape))
    net.relu()
    path = written(net.returns(preprocessing=spec), tmp_path / "m")
    assert "unformatted" not in run("notebook", path)
    text = path.read_text(encoding="utf-8")
    assert "picture_input" in text
    assert ("axes: [1, 2, 0]" in text) == (layout == "NHWC")
    assert ("0.299" in text) == (channels == "L")
    assert ("Nx.reverse(picture" in text) == (channels == "BGR")


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": '"); System.halt(1); ("'},
        {"mean": [0.5, 0.5]},
        {"std": [1.0, 1.0, float("nan")]},
        {"crop": 9},
        {"crop": True},
        {"channels": ["RGB"]},
        {"range": "01"},
    ],
)
def test_a_preprocessing_that_is_not_whole_or_does_not_fit_is_left_out(change, tmp_path) -> None:
    given = Input("x", "x", "float32", (None, 3, 8, 8))
    assert takes_pictures(given, PREPROCESSING)
    assert not takes_pictures(given, {**PREPROCESSING, **change})
    assert not takes_pictures(given, {k: v for k, v in PREPROCESSING.items() if k not in change})


def test_labels_that_do_not_fit_are_left_out(tmp_path) -> None:
    text = written(classifier(labels=["only one"]), tmp_path / "m").read_text(encoding="utf-8")
    assert "labels = %{}" in text
    assert "only one" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.bias"), "fc.bias is missing"),
        (lambda t: t.update(extra=t["fc.bias"]), "extra belongs to no layer"),
        (
            lambda t: t.update({"fc.weight": Tensor.of(np.zeros((4, 3), np.float32))}),
            "fc.weight is {{4, 3}, {:f, 32}}, it should be {{3, 4}, {:f, 32}}",
        ),
        (
            lambda t: t.update({"fc.bias": Tensor.of(np.zeros(3, np.float64))}),
            "fc.bias is {{3}, {:f, 64}}, it should be {{3}, {:f, 32}}",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["notebook", "module"])
def test_weights_that_do_not_fit_are_refused(kind, change, message, outcome, tmp_path) -> None:
    graph = classifier()
    saved(graph, tmp_path / "right")
    wrong = graph.copy()
    change(wrong.tensors)
    folder = tmp_path / "wrong"
    folder.mkdir()
    parts = [
        safetensors.Part(name, {"float64": "F64"}.get(t.dtype, "F32"), t.shape, _bytes_of(t))
        for name, t in wrong.tensors.items()
    ]
    sha256, size = safetensors.write(folder / "model.safetensors", parts, {})
    weights = [{"file": "model.safetensors", "sha256": sha256, "size": size}]
    if kind == "module":
        text = module(graph, name="Net", title="x", weights=weights)
        (folder / "net.ex").write_text(text, encoding="utf-8")
        done = outcome("module", folder / "net.ex", folder)
    else:
        nowhere = {"repository": None, "revision": None, "hub": None}
        text = notebook(graph, title="x", weights=weights, **nowhere)
        (folder / "net.livemd").write_text(text, encoding="utf-8")
        done = outcome("notebook", folder / "net.livemd")
    assert done.returncode == 1
    assert "these weights do not fit this model:" in done.stderr
    assert message in done.stderr


def _bytes_of(tensor: Tensor):
    return lambda: [tensor.array.tobytes()]


@pytest.mark.parametrize("kind", ["notebook", "module"])
def test_another_file_than_the_recorded_one_is_refused(kind, outcome, tmp_path) -> None:
    graph = residual()
    path = written(graph, tmp_path / "m")
    if kind == "module":
        weights = [{"file": "model.safetensors", "sha256": "0" * 64, "size": 1}]
        path = tmp_path / "net.ex"
        path.write_text(module(graph, name="Net", title="x", weights=weights), encoding="utf-8")
    else:
        with (tmp_path / "m/model.safetensors").open("ab") as stream:
            stream.write(b" ")
    done = outcome(kind, path, *([tmp_path / "m"] if kind == "module" else []))
    assert done.returncode == 1
    assert re.search(
        r"model.safetensors has SHA-256 [0-9a-f]{64}, and [0-9a-f]{64} is wanted", done.stderr
    )


def test_a_model_that_axon_cannot_say_is_refused_whole(tmp_path) -> None:
    graph = residual()
    graph.layers[2].op = "Unheard"
    for write in (
        lambda: notebook(graph, title="", weights=[], repository=None, revision=None, hub=None),
        lambda: module(graph, name="Net", title="", weights=[]),
    ):
        with pytest.raises(UnsupportedError, match="cannot be said in Axon") as caught:
            write()
        assert caught.value.problems == [
            "layer 'stem.relu' (Unheard): hubtool has no operator Unheard"
        ]


@pytest.mark.parametrize("name", ["lower", "A b", "A.b", "", 'A"', "A\nB"])
def test_a_module_bears_a_name_that_elixir_takes(name: str) -> None:
    with pytest.raises(UnsupportedError, match="no name of an Elixir module"):
        module(residual(), name=name, title="", weights=[])


def test_a_hostile_model_is_text_in_the_notebook(run, tmp_path) -> None:
    graph, harmless = hostile(), classifier()
    path = written(graph, tmp_path / "m", graph.meta["title"])
    text = path.read_text(encoding="utf-8")
    facts = run("notebook", path, cwd=tmp_path)
    assert [*tmp_path.rglob(f"*{MARK}*")] == []
    assert facts["cells"] == run("notebook", written(harmless, tmp_path / "h"))["cells"]
    assert facts["layers"] == [str(len(graph.layers))]
    names = bytes.fromhex(facts["names"][0])
    assert all(layer.name.encode() in names for layer in graph.layers)
    headings = re.findall(
        r"^#+ .*$", re.sub(r"^```elixir\n.*?^```$", "", text, flags=re.M | re.S), re.M
    )
    assert not [heading for heading in headings if "`" in heading.replace("\\`", "")]


def test_a_hostile_model_is_text_in_the_module(run, tmp_path) -> None:
    graph = hostile()
    weights = saved(graph, tmp_path / "m")
    text = module(graph, name="Net", title=graph.meta["title"], weights=weights)
    (tmp_path / "net.ex").write_text(text, encoding="utf-8")
    facts = run("module", tmp_path / "net.ex", tmp_path / "m", cwd=tmp_path)
    assert [*tmp_path.rglob(f"*{MARK}*")] == []
    assert facts["layers"] == [str(len(graph.layers))]
