"""The lines of a commit: what they may be, and how a content of any length is read from them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubtool.hub.server import commits, commits_body
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo

from .bodies import Hub, file, header, lfs, line

NUMBERS = count()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One hub for all tests here, each of which has its own repository."""
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create(f"axon/m{next(NUMBERS)}")


BAD_PATHS = {
    "": "empty path",
    "/a": "absolute",
    "//a": "absolute",
    "../a": "'..'",
    "a/../b": "'..'",
    "a/..": "'..'",
    "..": "'..'",
    ".": "'.'",
    "./a": "'.'",
    "a//b": "empty part",
    "a/": "empty part",
    ".git/config": "'.git'",
    "a/.GIT/b": "'.git'",
    ".git": "'.git'",
    "a\0b": "control character",
    "a\nb": "control character",
    "a\x7fb": "control character",
    "a\x85b": "control character",
    "a\\..\\b": "backslash",
    "é" * 513: "more than 1024 bytes",
}


@pytest.mark.parametrize("path", BAD_PATHS, ids=repr)
def test_a_path_that_no_repository_may_hold(hub: Hub, repo: Repo, path: str) -> None:
    for bad in (file(path, b"1"), lfs(path, "0" * 64, size=1), line("deletedFile", path=path)):
        with pytest.raises(Refusal, match="line 3.*" + BAD_PATHS[path]) as caught:
            hub.parse(header(), file("good", b"1"), bad)
        assert caught.value.status == 400
        if path:
            assert f"'{Refusal(400, path[:100]).message}" in caught.value.message


def test_a_path_may_be_long_and_of_any_letters(hub: Hub, repo: Repo) -> None:
    names = ["é" * 512, '"quoted" name', ".gitignore", "a b/..c", "a%2F", "🦉", "a:b*?"]
    commit = hub.commit(repo, header(), *(file(name, b"1") for name in names))
    assert sorted([*names, ".gitattributes"]) == [
        entry.path for entry in hub.meta.files(commit.oid)
    ]


def raw(text: str) -> bytes:
    return text.encode() + b"\n"


GOOD = file("good", b"1")
BAD_BODIES: dict[str, tuple[list[bytes], str]] = {
    "nothing": ([], "line 1: the header is missing"),
    "no header": ([GOOD], "line 1: the header is missing; here is a file"),
    "second header": ([header(), GOOD, header()], "line 3: a second header"),
    "header without summary": (
        [line("header", description="x")],
        "line 1: a header with no summary",
    ),
    "empty summary": ([header(" ")], "line 1: the summary is empty"),
    "summary a number": ([line("header", summary=3)], "line 1: summary must be a text"),
    "parent a list": ([header(parentCommit=[])], "line 1: parentCommit must be a text"),
    "parent no oid": ([header(parentCommit="main")], "line 1: parentCommit 'main'"),
    "unknown header field": (
        [header(parent="x")],
        "line 1: a header with an unknown field 'parent'",
    ),
    "blank line": ([header(), b"\n"], "line 2: not JSON"),
    "no JSON": ([header(), raw("{")], "line 2: not JSON"),
    "not UTF-8": ([header(), b"\xff\n"], "line 2: not UTF-8"),
    "NaN": ([header(), raw('{"key":"file","value":NaN}')], "line 2: not JSON: NaN"),
    "a key twice": ([header(), raw('{"key":"file","key":"file"}')], "line 2: the key 'key' stands"),
    "deep JSON": ([header(), raw("[" * 60_000)], "line 2: nested too deeply"),
    "deep long JSON": ([header(), raw("[" * 900_000)], "line 2: more than 65536 bytes"),
    "a list": ([header(), raw("[]")], "line 2: not an object"),
    "no value": ([header(), raw('{"key":"file"}')], "line 2: a line is"),
    "more than key and value": (
        [header(), raw('{"key":"file","value":{},"x":1}')],
        "line 2: a line is",
    ),
    "unknown key": (
        [header(), line("copyFile", path="a")],
        "line 2: the key must be one of header",
    ),
    "key a list": ([header(), raw('{"key":[],"value":{}}')], "line 2: the key must be one of"),
    "value a list": ([header(), raw('{"key":"file","value":[]}')], "line 2: the value of a file"),
    "path a number": ([header(), line("deletedFile", path=3)], "line 2: path must be a text"),
    "no content": (
        [header(), line("file", path="a", encoding="base64")],
        "line 2: a file with no content",
    ),
    "content a number": (
        [header(), line("file", path="a", content=1, encoding="base64")],
        "line 2, 'a': content must be a text",
    ),
    "other encoding": (
        [header(), line("file", path="a", content="x", encoding="utf-8")],
        "line 2, 'a': the encoding must be base64",
    ),
    "half a surrogate": (
        [header(), raw('{"key":"deletedFile","value":{"path":"\\ud800"}}')],
        "line 2: not Unicode",
    ),
    "other algo": (
        [header(), line("lfsFile", path="a", algo="md5", oid="0" * 64, size=1)],
        "line 2, 'a': the algo must be sha256",
    ),
    "oid with a path": ([header(), lfs("a", "../" * 22, size=1)], "line 2, 'a': the algo must be"),
    "negative size": ([header(), lfs("a", "0" * 64, size=-1)], "line 2, 'a': the size must be"),
    "size a truth": ([header(), lfs("a", "0" * 64, size=True)], "line 2, 'a': the size must be"),
    "size beyond all": ([header(), lfs("a", "0" * 64, size=10**30)], "line 2: the integer"),
    "the same path twice": (
        [header(), GOOD, line("deletedFile", path="good")],
        "line 3, 'good': line 2 has the same path",
    ),
    "a file and a folder": (
        [header(), file("a-b", b""), file("a", b"1"), file("a/b/c", b"2")],
        "line 4, 'a/b/c': 'a' is a file",
    ),
    "a folder and a file": (
        [header(), file("a/b", b"1"), file("a", b"2")],
        "line 3, 'a/b': 'a' is a file",
    ),
    "two long texts": (
        [header(), line("file", path="A" * 80_000, content="A" * 80_000, encoding="base64")],
        "line 2: more than one long text",
    ),
    "a long text elsewhere": ([header("A" * 80_000)], "line 1: a header of more"),
    "a long path": (
        [header(), line("file", path="A" * 80_000, content="", encoding="base64")],
        "line 2: only the content of a file",
    ),
    "a long text without end": (
        [header(), raw('{"key":"file","value":{"path":"a","content":"' + "A" * 80_000)],
        "line 2: not JSON: a text without an end",
    ),
    "many texts in a long line": ([header(), raw('["a",' * 100_000)], "line 2: more than 65536"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_line_is_a_400_that_names_it(hub: Hub, repo: Repo, case: str) -> None:
    lines, message = BAD_BODIES[case]
    with pytest.raises(Refusal) as caught:
        hub.commit(repo, *lines)
    assert caught.value.status == 400
    assert caught.value.message.startswith(message), caught.value.message
    assert hub.meta.repo(repo.name) == repo
    assert hub.temporaries() == []


def test_too_many_lines_are_refused_at_the_first_too_many(hub: Hub) -> None:
    tiny = b"".join(line("deletedFile", path=f"{number}") for number in range(100_000))
    body = io.BytesIO(header() + tiny)
    with pytest.raises(Refusal, match=f"line {commits.MOST_LINES + 1}: more than"):
        commits.parse(body, hub.store)
    assert body.tell() < len(tiny) / 5


def spliced(content: str, *, first: bool, escaped: bool = False) -> bytes:
    """A file line with the content before or after its other fields."""
    text = f'"content":"{content.replace("/", chr(92) + "/") if escaped else content}"'
    rest = '"path":"a \\"b\\" \\\\u00e9","encoding":"base64"'.replace("\\\\u", "\\u")
    fields = f"{text}, {rest}" if first else f"{rest}, {text}"
    return f'{{"key":"file", "value": {{{fields}}}}}\n'.encode()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("size", [0, 1, 49_000, 49_152, 100_001, 3_000_002])
def test_a_content_of_any_length_arrives_wherever_it_stands_in_its_line(
    hub: Hub, repo: Repo, size: int, escaped: bool, first: bool
) -> None:
    content = hashlib.shake_128(b"seed").digest(size)
    text = base64.b64encode(content).decode()
    commit = hub.commit(repo, header(), spliced(text, first=first, escaped=escaped), GOOD)
    assert hub.content(commit.oid)['a "b" é'] == content


@pytest.mark.parametrize("size", [3, 90_000, 3_000_000])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "====",
        lambda text: text[:400] + "=" + text[401:],
        lambda text: "AA==" + text,
        lambda text: text[:-2] + "==" + "AAAA",
        lambda text: text[:-4] + "\\n" + text[-4:],
        lambda text: text[:-4] + " " + text[-4:],
        lambda text: text[:-4] + "é" + text[-4:],
        lambda text: text[:-4] + "-___",
        lambda text: text[:-4] + "\\u0041" + text[-3:],
        lambda text: "A" * 5 + '\\"' + text,
    ],
    ids=range(12),
)
def test_wrong_base64_is_a_400_and_leaves_nothing(
    hub: Hub, repo: Repo, size: int, spoil: Any
) -> None:
    text = spoil(base64.b64encode(b"x" * size).decode())
    if size == 3 and "\\u0041" in text:
        text = "A\\u002aAA"  # in a short line any escape may stand for a letter: this is a *
    before = sorted(hub.store.blobs.rglob("*"))
    with pytest.raises(Refusal, match="line 2") as caught:
        hub.parse(header(), spliced(text, first=True))
    assert caught.value.status == 400
    assert sorted(hub.store.blobs.rglob("*")) == before
    assert hub.temporaries() == []


class Memory:
    """As much of a writer as base64 needs."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@given(
    pieces=st.lists(st.text(alphabet="AQz09+/=- \n", max_size=9), max_size=4), good=st.booleans()
)
@example(pieces=["QQ==", "QUFB"], good=False)
@example(pieces=["QUFB", "===="], good=False)
def test_base64_in_pieces_means_what_it_means_whole(pieces: list[str], good: bool) -> None:
    if good:
        whole = base64.b64encode("".join(pieces).encode()).decode()
        cut = len(whole) * 2 // 3
        pieces = [whole[:cut], whole[cut:]]
    text = "".join(pieces)
    memory = Memory()
    decoder = commits_body.Base64(memory)
    try:
        for piece in pieces:
            decoder.feed(piece.encode())
        decoder.end()
        found = memory.data
    except ValueError:
        found = None
    right = re.fullmatch(r"([\w+/]{4})*([\w+/]{2}==|[\w+/]{3}=)?", text)
    assert found == (base64.b64decode(text) if right else None)


def test_a_line_too_long_is_given_up_early(hub: Hub) -> None:
    for tail in (b"[" * (20 << 20), b'"a",' * (5 << 20)):
        body = io.BytesIO(header() + tail)
        with pytest.raises(Refusal, match="line 2: more than 65536 bytes"):
            commits.parse(body, hub.store)
        assert body.tell() < 3 << 20


@given(
    content=st.binary(min_size=100, max_size=300),
    path=st.text(alphabet='ab/"\\{}é', min_size=1, max_size=12),
    window=st.integers(16, 80),
    order=st.permutations(["content", "path", "encoding"]),
    ascii_only=st.booleans(),
)
def test_a_long_line_means_what_a_json_parser_says(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    path: str,
    window: int,
    order: list[str],
    ascii_only: bool,
) -> None:
    root = tmp_path_factory.getbasetemp() / "lines"
    store = commits.Store(root)
    value = {"content": base64.b64encode(content).decode(), "path": path, "encoding": "base64"}
    record = {"key": "file", "value": {name: value[name] for name in order}}
    text = json.dumps(record, ensure_ascii=ascii_only).encode() + b"\n"
    with pytest.MonkeyPatch.context() as patched, store.writer() as writer:
        patched.setattr(commits_body, "CHUNK", window)
        patched.setattr(commits_body, "SHORT", max(window, len(json.dumps(path)) + 1))
        body = io.BytesIO(text + b"next")
        found = commits_body.streamed(body.readline(window), body, writer)
        assert body.read() == b"next"
        assert writer.finish().sha256 == hashlib.sha256(content).hexdigest()
        found["value"]["content"] = value["content"]
        assert found == record


def test_a_connection_lost_in_the_middle_of_a_line_is_a_400(hub: Hub) -> None:
    for size in (10, 200_000):
        with pytest.raises(Refusal, match="line 2"):
            hub.parse(header(), file("a", b"x" * size)[:-20])


def test_a_large_file_is_never_held_in_memory(hub: Hub, tmp_path: Path) -> None:
    size = 48 << 20
    with (tmp_path / "body").open("wb") as body:
        body.write(header())
        body.write(b'{"key": "file", "value": {"content": "')
        for _ in range(size // (3 << 20)):
            body.write(base64.b64encode(bytes(3 << 20)))
        body.write(b'", "path": "a", "encoding": "base64"}}\n')
    tracemalloc.start()
    try:
        with (tmp_path / "body").open("rb") as body:
            request = commits.parse(body, hub.store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (added,) = request.operations
    assert isinstance(added, commits.Add) and added.blob.size == size
    assert peak < 8 << 20
