"""The layer table of a model's page: the model's own, and unharmed by a graph.json of any kind."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import hubtool
from hub.conftest import convolution
from hubtool import inspect
from hubtool.formats import native
from hubtool.hub.server.web import layers
from hubtool.hub.server.web.layers import Row, layer_table

from .conftest import Repo, file
from .page_tree import get
from .xss import CORPUS


def table_of(tmp_path: Path, document: Any) -> layers.LayerTable | None:
    """The table of a graph.json; bytes are written as they stand."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    path = tmp_path / f"{hash(data):x}.json"
    path.write_bytes(data)
    return layer_table(path)


def test_the_table_is_that_of_hubtool_info(tmp_path: Path) -> None:
    folder = convolution(tmp_path / "convolution")
    ours, table = layer_table(folder / native.GRAPH), inspect.layer_table(hubtool.read(folder))
    assert ours is not None
    assert [(row.name, row.op, row.shape, row.parameters) for row in ours.rows] == [
        (row.name, row.op, row.shape, row.parameters) for row in table.rows
    ]
    assert (ours.layers, ours.parameters) == (2, table.parameters)
    assert ours.inputs == tuple(f"{name} {value}" for name, value in table.inputs.items())
    assert ours.outputs == tuple(f"{name} {value}" for name, value in table.outputs.items())


def test_the_page_of_a_native_folder_shows_the_table_and_how_to_load_it(
    repo: Repo, tmp_path: Path
) -> None:
    folder = convolution(tmp_path / "convolution")
    graph = (folder / native.GRAPH).read_bytes()
    repo.commit(file("graph.json", graph), file("README.md", "---\ntags: [Axon]\n---\n"))
    page = get(repo.url, f"/{repo.name}")
    cells = [one.text for one in page.all("td")]
    assert cells[:4] == ["conv", "Conv", "float32[N,64,8,8]", "36,864"]
    said = page.one("main").text
    assert "2 layers, 36,864 parameters" in said and "x float32[N,64,8,8]" in said
    assert f'hubtool.load("{repo.name}", hub="{repo.url}")' in said
    assert f'AxonHub.download("{repo.name}", endpoint: "{repo.url}")' in said
    assert f"hubtool pull {repo.name} --hub {repo.url}" in said


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": NaN}', b"[" * 100_000),
        *({}, {"format": 1}, {"format": "1", "layers": [{}]}, {"format": 1, "layers": {}}),
        *({"format": 1, "layers": [1, None, "x", []]}, {"layers": [{"name": "a"}]}),
        b'{"format": 1, "format": 1, "layers": [{}]}',
        b'{"format": 1, "layers": [{"name": "\\ud800"}]}',
        b'{"format": 1, "layers": [{}], "x": ' + b"9" * 5000 + b"}",
        b'{"format": 1, "layers": [{}]}' + b" " * layers.LONGEST,
    ],
)
def test_what_is_no_graph_has_no_table(tmp_path: Path, document: Any) -> None:
    assert table_of(tmp_path, document) is None


@pytest.mark.parametrize(
    "wrong",
    [None, 1, 1.5, True, "x", [], {}, [[]], [None], [{}], {"a": None}, {"a": {}}, {"a": [1]}],
)
def test_a_part_that_is_not_as_it_should_be_is_passed_over(tmp_path: Path, wrong: Any) -> None:
    good: dict[str, Any] = {
        "format": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", None, 3]}],
        "layers": [{"name": "a", "op": "Gemm", "inputs": {"A": "x", "B": "w"}, "outputs": ["y"]}],
        "tensors": {"w": {"dtype": "float32", "shape": [2, 3]}},
        "values": {"v": {"dtype": "float32", "shape": [1]}},
    }
    first = table_of(tmp_path, good)
    assert first is not None and first.rows == (Row("a", "Gemm", "float32[N,?,3]", 6),)
    for key in ("inputs", "outputs", "tensors", "values"):
        found = table_of(tmp_path, {**good, key: wrong})
        assert found is not None and found.rows[0].name == "a"
    for key in good["layers"][0]:
        found = table_of(tmp_path, {**good, "layers": [{**good["layers"][0], key: wrong}]})
        assert found is not None and found.layers == 1
    for key in ("dtype", "shape"):
        tensors = {"w": {"dtype": "float32", "shape": [2, 3], key: wrong}}
        found = table_of(tmp_path, {**good, "tensors": tensors})
        assert found is not None and found.parameters in (0, 1, 6)
        output = {"name": "y", "dtype": "float32", "shape": [1], key: wrong}
        found = table_of(tmp_path, {**good, "outputs": [output]})
        assert found is not None and found.rows[0].parameters == 6


def test_sizes_beyond_all_measure_count_for_nothing(tmp_path: Path) -> None:
    for shape in ([2**52] * 32, [2] * 33, [-1, 5], [1.5], ["N"], [True, 2**54]):
        found = table_of(
            tmp_path,
            {
                "format": 1,
                "layers": [{"name": "a", "inputs": {"X": "w", "Y": ["w", "w"]}}],
                "tensors": {"w": {"dtype": "float32", "shape": shape}},
            },
        )
        assert found is None or found.parameters == 0


def test_only_the_first_layers_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    names = [f"l{number}" for number in range(layers.ROWS + 7)]
    found = table_of(
        tmp_path,
        {
            "format": 1,
            "layers": [{"name": name, "inputs": {"X": name, "Y": "shared"}} for name in names],
            "tensors": {name: {"dtype": "float32", "shape": [2]} for name in [*names, "shared"]},
        },
    )
    assert found is not None
    assert (len(found.rows), found.layers) == (layers.ROWS, layers.ROWS + 7)
    assert [row.parameters for row in found.rows[:3]] == [4, 2, 2]
    assert found.parameters == 2 * (layers.ROWS + 7) + 2


@pytest.mark.parametrize(
    "layer",
    [
        b"{},",
        b'{"name":"","outputs":["y","y","y","y","y","y","y","y"]},',
        b'{"inputs":{"X":["a","b"]}},',
    ],
)
def test_the_worst_that_fits_takes_a_bounded_amount_of_memory(
    tmp_path: Path, layer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LONGEST", 1 << 18)
    head = b'{"format":1,"values":{"y":{"dtype":"d","shape":["%s"]}},"layers":[' % (b"N" * 99_999)
    count = (layers.LONGEST - len(head) - 10) // len(layer)
    tracemalloc.start()
    try:
        assert table_of(tmp_path, head + (layer * count)[:-1] + b"]}") is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * layers.LONGEST


def test_hostile_names_in_a_graph_are_text(repo: Repo) -> None:
    document = {
        "format": 1,
        "inputs": [{"name": vector, "dtype": vector, "shape": [vector]} for vector in CORPUS],
        "layers": [
            {"name": vector, "op": vector, "inputs": {"X": vector}, "outputs": [vector]}
            for vector in CORPUS
        ],
        "values": {
            vector: {"dtype": vector, "shape": [vector], "kind": vector} for vector in CORPUS
        },
    }
    repo.commit(file("graph.json", json.dumps(document)))
    page = get(repo.url, f"/{repo.name}")
    assert len(page.all("tr")) == len(CORPUS) + 1
