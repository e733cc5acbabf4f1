"""axon_hub.ex lists, fetches and verifies: from hubtool's own server, and from dishonest ones."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import hubtool
from hubtool.formats import native
from hubtool.graph import Graph, Layer, Tensor, Value
from hubtool.hub.server.run import Background

from .conftest import Run

COMMIT = "0123456789abcdef0123456789abcdef01234567"

DOWNLOAD = """
[url, cache | rest] = System.argv()
opts = case rest do
  [] -> []
  [token | files] -> [token: token] ++ if(files == [], do: [], else: [files: files])
end
try do
  IO.puts(AxonHub.download("axon/small", [endpoint: url, cache_dir: cache] ++ opts))
rescue
  error in AxonHub.Error -> IO.puts("refused: " <> Enum.join(error.problems, "; "))
end
"""


def model(folder: Path) -> Path:
    b = np.arange(20_000, dtype=np.float32)
    graph = Graph(
        [Layer("add", "Add", {"A": "x", "B": "b"}, ["y"])],
        {"x": Value("tensor", "float32", ("N", 20_000))},
        {"y": Value("tensor", "float32", ("N", 20_000))},
        {"b": Tensor.of(b)},
    )
    native.write(graph, folder)
    return folder


def test_a_published_model_is_listed_fetched_and_kept(
    elixir: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    folder = model(tmp_path / "small")
    with Background(tmp_path / "hub") as url:
        for i in range(3):
            hubtool.push(folder, f"axon/small{i or ''}", hub=url)
        found = elixir(
            """
            [url] = System.argv()
            all = AxonHub.list_models(["hubtool"], endpoint: url)
            IO.puts(Enum.join(Enum.sort(Enum.map(all, & &1["id"])), " "))
            IO.puts(length(AxonHub.list_models("hubtool", endpoint: url, limit: 2)))
            IO.puts(length(AxonHub.list_models(["hubtool", "no such tag"], endpoint: url)))
            """,
            url,
        )
        assert found.split() == ["axon/small", "axon/small1", "axon/small2", "2", "0"]
        got = Path(elixir(DOWNLOAD, url, tmp_path / "cache").strip())
        assert native.read(got, verify=True) == native.read(folder)
        (got / "model.safetensors").write_bytes(b"damaged later")
        elixir(DOWNLOAD, url, tmp_path / "cache")
        assert native.read(got, verify=True) == native.read(folder)
        answer = elixir(DOWNLOAD, url, tmp_path / "cache", "none", "nothing.txt")
        assert answer.startswith("refused: ")
        assert "holds no file 'nothing.txt'" in answer
    left = [path.name for path in got.iterdir()]
    assert sorted(left) == ["graph.json", "model.safetensors"]


class Hub(BaseHTTPRequestHandler):
    """A hub of one model; what it does wrong stands in `fault`, what it was told in `tokens`."""

    files: dict[str, bytes]
    fault: str
    elsewhere: str
    tokens: list[str | None]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        if self.path.startswith("/api/models/axon/small/revision/main"):
            return self._send(json.dumps(self._info()).encode())
        name = self.path.rpartition("/")[2]
        if self.fault == "redirect" and self.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}{self.path}")
            self.end_headers()
            return None
        data = self.files[name]
        if name == "model.safetensors":
            if self.fault == "flipped":
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self.fault == "short":
                data = data[:-1]
            if self.fault == "long":
                data += b"x" * 1_000_000
        return self._send(data)

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _info(self) -> dict[str, object]:
        listed: list[dict[str, object]] = []
        for name, data in self.files.items():
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            told: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": oid}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(data).hexdigest()
                told["lfs"] = {"sha256": sha256, "size": len(data)}
            if self.fault == "no hash":
                told = {"rfilename": name, "size": len(data)}
            listed.append(told)
        commit = "../../../out" if self.fault == "commit" else COMMIT
        return {"sha": commit, "siblings": listed}


@contextmanager
def hub(folder: Path, fault: str = "", elsewhere: str = "") -> Iterator[tuple[str, type[Hub]]]:
    names = ("graph.json", "model.safetensors")
    told = {name: (folder / name).read_bytes() for name in names}
    handler = type(
        "Told", (Hub,), {"files": told, "fault": fault, "elsewhere": elsewhere, "tokens": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("flipped", "its hash is not the one that the hub states"),
        ("short", "bytes, the hub states"),
        ("long", "it is longer than"),
        ("no hash", "states no hash"),
        ("commit", "tells no commit"),
    ],
)
def test_what_is_not_as_the_hub_states_is_refused_and_not_kept(
    elixir: Run, tmp_path: Path, fault: str, reason: str
) -> None:
    with hub(model(tmp_path / "small"), fault) as (url, _):
        answer = elixir(DOWNLOAD, url, tmp_path / "cache")
    assert answer.startswith("refused: ")
    assert reason in answer
    kept = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert "model.safetensors" not in kept
    assert not [name for name in kept if name.endswith(".part")]


def test_a_token_goes_to_its_hub_and_not_along_a_redirect(elixir: Run, tmp_path: Path) -> None:
    folder = model(tmp_path / "small")
    with (
        hub(folder) as (other, stranger),
        hub(folder, "redirect", other) as (url, trusted),
    ):
        got = elixir(DOWNLOAD, url, tmp_path / "cache", "secret").strip()
    assert native.read(Path(got), verify=True) == native.read(folder)
    assert trusted.tokens == ["Bearer secret"] * 3
    assert stranger.tokens == [None, None]


def test_two_hubs_do_not_mix(elixir: Run, tmp_path: Path) -> None:
    folder = model(tmp_path / "small")
    with hub(folder) as (one, _), hub(folder) as (two, asked):
        first = elixir(DOWNLOAD, one, tmp_path / "cache")
        second = elixir(DOWNLOAD, two, tmp_path / "cache")
        assert first != second
        assert len(asked.tokens) == 3
        assert elixir(DOWNLOAD, two, tmp_path / "cache") == second
        assert len(asked.tokens) == 4


def test_hostile_names_are_refused(elixir: Run, tmp_path: Path) -> None:
    with hub(model(tmp_path / "small")) as (url, _):
        for name in ("../x", "/etc/passwd", "a/../../b", "a\\b", ""):
            answer = elixir(DOWNLOAD, url, tmp_path / "cache", "t", name)
            assert "is no name for a file" in answer, name
    script = 'AxonHub.download("../../x", endpoint: "http://127.0.0.1:1")'
    assert "it is no name of a model" in elixir(script, fails=True)
