"""A commit lands whole or not at all, once, for everybody; what is wrong is named by its line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtool.hub.server import commits, commits_body
from hubtool.hub.server.errors import Refusal
from hubtool.hub.server.meta import Repo

from . import crowd
from .bodies import Hub, file, header, lfs, line

TESTS = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.meta.close()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.meta.create("axon/m")


def paths(hub: Hub, oid: str) -> list[str]:
    return [entry.path for entry in hub.meta.files(oid)]


def test_a_commit_adds_replaces_and_deletes(hub: Hub, repo: Repo) -> None:
    first = hub.commit(
        repo, header("first", description="why"), file("a", b"1"), file("d/e/f", b"2")
    )
    assert (first.title, first.message, first.parent) == ("first", "why", repo.head)
    assert (first.author, len(first.oid)) == ("ann", 40)
    second = hub.commit(
        repo,
        header("second", parentCommit=first.oid),
        file("a", b"3"),
        line("deletedFolder", path="d/"),
        file("d", b"now a file"),
        line("deletedFile", path=".gitattributes"),
    )
    assert hub.content(second.oid) == {"a": b"3", "d": b"now a file"}
    content = hub.content(first.oid)
    assert (content["a"], content["d/e/f"]) == (b"1", b"2")
    assert hub.meta.resolve(repo, "main") == second
    assert hub.meta.repo(repo.name).modified == second.date


def test_a_file_may_become_a_folder_when_it_is_deleted(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("a", b"1"))
    commit = hub.commit(repo, header(), line("deletedFile", path="a"), file("a/b", b"2"))
    assert paths(hub, commit.oid) == [".gitattributes", "a/b"]


def test_no_change_is_the_head_itself(hub: Hub, repo: Repo) -> None:
    first = hub.commit(repo, header(), file("a", b"1"))
    assert hub.commit(repo, header("again"), file("a", b"1")) == first
    assert hub.commit(repo, header("nothing")) == first
    assert len(hub.meta.log(repo, first.oid, limit=9)) == 2


def test_an_lfs_file_needs_its_content_and_its_size(hub: Hub, repo: Repo) -> None:
    blob = hub.keep(b"weights")
    for oid, size, message in [
        ("0" * 64, 7, "is not here"),
        (blob.sha256, 8, "has 7 bytes, not 8"),
    ]:
        with pytest.raises(Refusal, match=message) as caught:
            hub.commit(repo, header(), file("a", b"1"), lfs("b.bin", oid, size=size))
        assert caught.value.status == 400
        assert "line 3, 'b.bin'" in caught.value.message
    assert hub.meta.repo(repo.name).head == repo.head
    copied = hub.commit(
        repo, header(), lfs("b.bin", blob.sha256), lfs("c.bin", blob.sha256, size=7)
    )
    assert hub.content(copied.oid)["b.bin"] == b"weights"


def test_what_is_to_be_deleted_must_be_there(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("d/f", b"1"))
    for key, path in [("deletedFile", "d"), ("deletedFolder", "d/f"), ("deletedFile", "none")]:
        with pytest.raises(Refusal, match=f"'{path}' does not exist") as caught:
            hub.commit(repo, header(), line(key, path=path))
        assert (caught.value.status, caught.value.code) == (404, "EntryNotFound")


def test_a_folder_is_deleted_with_all_in_it_and_nothing_beside_it(hub: Hub, repo: Repo) -> None:
    inside = ["d/a", "d/e/b", "d/e/f/c"]
    beside = ["d-x", "d.txt", "dd/a", "e/d/a"]
    hub.commit(repo, header(), *(file(path, b"1") for path in [*inside, *beside]))
    commit = hub.commit(
        repo,
        header(),
        line("deletedFolder", path="d/e/"),
        line("deletedFolder", path="d"),
        line("deletedFile", path="d/a"),
        file("d/new", b"2"),
    )
    assert paths(hub, commit.oid) == sorted([".gitattributes", *beside, "d/new"])


def test_a_commit_goes_to_its_branch_only(hub: Hub, repo: Repo) -> None:
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    readme = file("README.md", b"---\ntags: [Axon]\n---\n")
    there = hub.commit(repo, header(), readme, branch="next")
    assert hub.meta.repo(repo.name) == repo
    assert hub.meta.resolve(repo, "next") == there
    here = hub.commit(repo, header(), readme)
    assert (here.parent, there.parent) == (repo.head, repo.head)
    assert hub.meta.repo(repo.name).tags == ["Axon"]
    for branch in ("none", repo.head, "main/"):
        with pytest.raises(Refusal) as caught:
            hub.commit(repo, header(), file("a", b"1"), branch=branch)
        assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")


def test_a_parent_that_is_no_longer_the_head_is_a_412(hub: Hub, repo: Repo) -> None:
    first = hub.commit(repo, header(parentCommit=repo.head), file("a", b"1"))
    with pytest.raises(Refusal, match=f"is at {first.oid}") as caught:
        hub.commit(repo, header("late", parentCommit=repo.head), file("b", b"2"))
    assert caught.value.status == 412
    second = hub.commit(repo, header(parentCommit=first.oid[:7]), file("b", b"2"))
    assert second.parent == first.oid


def test_the_same_body_again_is_the_same_commit(hub: Hub, repo: Repo) -> None:
    body = [header(parentCommit=repo.head), file("a", b"1")]
    first = hub.commit(repo, *body)
    assert hub.commit(repo, *body) == first
    hub.commit(repo, header("other"), file("b", b"2"))
    assert hub.commit(repo, *body) == first
    hub.commit(repo, header("back"), file("a", b"0"))
    assert hub.commit(repo, *body) == first
    assert len(hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=9)) == 4


def test_a_body_without_a_parent_may_come_back_later_in_earnest(hub: Hub, repo: Repo) -> None:
    one, zero = [header(), file("a", b"1")], [header(), file("a", b"0")]
    first = hub.commit(repo, *one)
    assert hub.commit(repo, *one) == first
    hub.commit(repo, *zero)
    third = hub.commit(repo, *one)
    assert third != first and hub.content(third.oid)["a"] == b"1"
    assert hub.meta.resolve(repo, "main") == third


def test_a_branch_made_anew_takes_the_same_body_anew(hub: Hub, repo: Repo) -> None:
    body = [header(parentCommit=repo.head), file("a", b"1")]
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    hub.commit(repo, *body, branch="next")
    hub.meta.delete_ref(repo, "branch", "next")
    hub.meta.create_ref(repo, "branch", "next", repo.head)
    hub.commit(repo, *body, branch="next")
    assert hub.content(hub.meta.resolve(repo, "next").oid)["a"] == b"1"


README = """---
language: [en, de]
license: apache-2.0
library_name: hubtool
pipeline_tag: image-classification
tags: [Axon, vision, Axon]
datasets: ILSVRC/imagenet-1k
base_model: [a/b]
---
# ResNet
"""


def test_the_readme_of_main_is_the_card_and_gives_the_tags(hub: Hub, repo: Repo) -> None:
    hub.commit(repo, header(), file("README.md", README.encode()))
    found = hub.meta.repo(repo.name)
    assert found.card["license"] == "apache-2.0"
    assert (found.pipeline_tag, found.library) == ("image-classification", "hubtool")
    assert found.tags == [
        *["Axon", "vision", "hubtool", "image-classification", "en", "de"],
        *["dataset:ILSVRC/imagenet-1k", "base_model:a/b", "license:apache-2.0"],
    ]
    hub.commit(repo, header(), file("other", b"1"))
    assert hub.meta.repo(repo.name).card == found.card
    blob = hub.keep(b"---\ntags: [Elixir]\n---\n")
    hub.commit(repo, header(), lfs("README.md", blob.sha256, size=blob.size))
    assert hub.meta.repo(repo.name).tags == ["Elixir"]
    hub.commit(repo, header(), line("deletedFile", path="README.md"))
    gone = hub.meta.repo(repo.name)
    assert (gone.card, gone.tags, gone.library) == ({}, [], None)


@pytest.mark.parametrize(
    "readme",
    [
        b"",
        b"# no header",
        b"---\ntags: [a\n---\n",
        b"---\n- a\n---\n",
        b"\xff\xfe",
        b"---\na: &x [1]\nb: *x\n---\n",
        b"---\na: " + b"[" * 100_000,
        b"---\na: " + b"[" * 100_000 + b"]" * 100_000 + b"\n---\n",
        b"---\na: " + b"x" * 3_000_000 + b"\n---\n",
        b'---\na: "\\ud800"\n---\n',
        b"---\na: 1\x00\n---\n",
    ],
    ids=range(11),
)
def test_a_readme_with_a_broken_header_is_stored_and_gives_no_card(
    hub: Hub, repo: Repo, readme: bytes
) -> None:
    hub.commit(repo, header(), file("README.md", b"---\ntags: [Axon]\n---\n"))
    commit = hub.commit(repo, header(), file("README.md", readme))
    assert hub.content(commit.oid)["README.md"] == readme
    found = hub.meta.repo(repo.name)
    assert (found.card, found.tags) == ({}, [])


def test_a_long_readme_is_cut_between_its_letters(hub: Hub, repo: Repo) -> None:
    text = "---\ntags: [Axon]\n---\n" + "é" * commits.README_BYTES
    for readme in (text, "x" + text, "\ufeff" + text):
        hub.commit(repo, header(), file("README.md", readme.encode()))
        assert hub.meta.repo(repo.name).tags == ([] if readme[0] == "x" else ["Axon"])


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
    assert sorted([*names, ".gitattributes"]) == paths(hub, commit.oid)


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


def test_a_file_against_a_folder_that_stands_is_a_400(hub: Hub, repo: Repo) -> None:
    head = hub.commit(repo, header(), file("a/b", b"1"), file("a/c", b"1"))
    for path, clash in [("a", "'a/b': 'a' is a file"), ("a/b/c", "'a/b/c': 'a/b' is a file")]:
        with pytest.raises(Refusal, match=f"line 2, {clash}") as caught:
            hub.commit(repo, header(), file(path, b"2"))
        assert caught.value.status == 400
    assert hub.meta.resolve(repo, "main") == head


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


def test_a_full_disk_is_a_507_and_nothing_of_the_commit_is_seen(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(Refusal) as caught:
        patched.setattr(os, "fsync", full)
        hub.commit(repo, header(), file("a", b"1"), file("b", b"x" * 100_000))
    assert caught.value.status == 507
    assert hub.meta.repo(repo.name) == repo
    assert hub.temporaries() == []


def test_a_connection_lost_in_the_middle_of_a_line_is_a_400(hub: Hub) -> None:
    for size in (10, 200_000):
        with pytest.raises(Refusal, match="line 2"):
            hub.parse(header(), file("a", b"x" * size)[:-20])


MEMORY = """
import io, resource, sys
from pathlib import Path
from hubtool.hub.server import commits
from hubtool.hub.server.store import Store
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
store, before = Store(Path(sys.argv[1])), peak()
with open(sys.argv[2], "rb") as body:
    request = commits.parse(body, store)
print(peak() - before, request.operations[0].blob.size)
"""


def test_a_large_file_is_never_held_in_memory(tmp_path: Path) -> None:
    size = 48 << 20
    with (tmp_path / "body").open("wb") as body:
        body.write(header())
        body.write(b'{"key": "file", "value": {"content": "')
        for _ in range(size // (3 << 20)):
            body.write(base64.b64encode(bytes(3 << 20)))
        body.write(b'", "path": "a", "encoding": "base64"}}\n')
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "hub"), str(tmp_path / "body")]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    more, stored = map(int, output.split())
    assert stored == size
    assert more < 24 << 20


def run(task: str, root: Path) -> Any:
    arguments = [sys.executable, "-m", "hub.server.crowd", task, str(root)]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=TESTS).stdout
    return json.loads(output)


def test_commits_of_many_processes_all_land(hub: Hub, repo: Repo) -> None:
    assert run("crowd", hub.root) == [0] * crowd.PROCESSES
    head = hub.meta.repo(repo.name).head
    content = hub.content(head)
    expected = {
        f"{number}/{turn}": b"%d" % turn
        for number in range(crowd.PROCESSES)
        for turn in range(crowd.COMMITS)
    }
    assert {path: content[path] for path in content if path != ".gitattributes"} == expected
    log = hub.meta.log(repo, head, limit=999)
    assert len(log) == len(expected) + 1
    assert {commit.title for commit in log[:-1]} == {path.replace("/", " ") for path in expected}
    assert len(list(hub.store.blobs.rglob("?" * 64))) == crowd.COMMITS + 1


def test_of_many_commits_on_one_parent_one_lands(hub: Hub, repo: Repo) -> None:
    found = run("race", hub.root)
    assert found["codes"] == [0] * crowd.PROCESSES
    assert sorted(map(str, found["told"])) == ["412"] * (crowd.PROCESSES - 1) + ["landed"]
    assert len(hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=99)) == 2


def test_many_processes_may_make_the_same_hub_at_once(tmp_path: Path) -> None:
    assert run("openers", tmp_path / "hub") == [0] * crowd.PROCESSES
    hub = Hub(tmp_path / "hub")
    for number in range(crowd.PROCESSES):
        assert len(hub.content(hub.meta.repo(f"axon/m{number}").head)) == 1
    hub.meta.close()


def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found = run("kills", tmp_path)
    assert len(found) > 40
    assert [one["killed"] for one in found] == [True] * (len(found) - 1) + [False]
    assert found[-1]["code"] == 0
    landed = 0
    for one in found:
        hub = Hub(Path(one["place"]))
        made = {repo.name: repo for repo in commits.index.search(hub.meta)[0]}
        assert set(made) - {"axon/new"} == {"axon/m"}
        assert "axon/new" in made or one["said"] == []
        repo = made["axon/m"]
        content = hub.content(repo.head)
        assert len(content) in (1, 3)
        assert repo.tags == (["Axon"] if len(content) == 3 else [])
        landed += len(content) == 3
        if len(one["said"]) > 1:
            assert repo.head == one["said"][1]
            assert content["weights"] == b"w" * 70_000
        hub.store.sweep()
        assert hub.temporaries() == []
        again = hub.commit(repo, *crowd.LINES)
        assert len(hub.content(again.oid)) == 3
        assert len(hub.meta.log(repo, again.oid, limit=9)) == 2
        hub.meta.close()
    assert 1 <= landed < len(found) / 2


def test_no_acknowledged_commit_is_lost_by_a_kill(hub: Hub, repo: Repo) -> None:
    arguments = [sys.executable, "-m", "hub.server.crowd", "endless", str(hub.root)]
    for _ in range(3):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:
            assert process.stdout
            said = [process.stdout.readline() for _ in range(7)]
            process.kill()
            said += process.stdout.readlines()
        acknowledged = {oid.strip() for oid in said if oid.endswith("\n")}
        assert len(acknowledged) >= 7
        log = [
            commit.oid for commit in hub.meta.log(repo, hub.meta.repo(repo.name).head, limit=999)
        ]
        assert acknowledged <= set(log)
        assert len(hub.content(log[0])) == len(log)
