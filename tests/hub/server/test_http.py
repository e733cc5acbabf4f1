"""The way in and the way out: paths, methods, headers, refusals, and what each route answers."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import re
from pathlib import Path

import pytest

from hubtool.hub.server import routes_commits
from hubtool.hub.server.routes_commits import ignored
from hubtool.hub.server.run import Background

from .conftest import Repo, ask, body_of, file, large

PRINTABLE = re.compile(r"[ -~]+")


def test_an_unknown_route_is_404_as_json(url: str) -> None:
    for path in (
        "/nothing/here",
        "/nothing",
        "/api",
        "/api/models/a/b/c/d/e",
        "//",
        "/api/models/a/b/",
    ):
        answer = ask(url, "GET", path)
        assert answer.status == 404, path
        assert answer.data["error"] == answer.headers["X-Error-Message"]


def test_another_method_is_405_and_says_which_there_are(repo: Repo) -> None:
    answer = repo.ask("PATCH", "/branch/x")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, DELETE")


def test_head_is_answered_wherever_get_is_with_the_same_headers(repo: Repo) -> None:
    base = f"/api/models/{repo.name}"
    for path in (
        *("/openapi.json", "/api/whoami-v2", "/api/models", base, f"{base}/refs"),
        *(f"{base}/revision/main", f"{base}/tree/main", f"{base}/commits/main"),
        *(f"/{repo.name}/resolve/main/.gitattributes", f"/{repo.name}/raw/main/.gitattributes"),
        f"/{repo.name}/resolve/main/none",
    ):
        got, head = ask(repo.url, "GET", path), ask(repo.url, "HEAD", path)
        assert head.status == got.status and head.body == b"", path
        for name in ("Content-Length", "ETag", "X-Repo-Commit", "X-Error-Code"):
            assert head.headers[name] == got.headers[name], (path, name)


def test_a_revision_may_hold_an_encoded_slash(repo: Repo) -> None:
    assert repo.ask("POST", "/branch/feature%2Fone", {}).status == 200
    oid = repo.ask("GET", "/revision/feature%2Fone").data["sha"]
    assert repo.ask("POST", "/commit/feature%2Fone", body_of(file("a/b.txt", "hi"))).status == 200
    answer = ask(repo.url, "GET", f"/{repo.name}/resolve/feature%2Fone/a/b.txt")
    assert answer.body == b"hi" and answer.headers["X-Repo-Commit"] != oid
    assert repo.ask("GET", "/tree/feature%2Fone/a").data[0]["path"] == "a/b.txt"
    assert repo.ask("GET", "/revision/feature/one").status == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../secret",
            "..%2F..%2Fsecret",
            "%2e%2e/secret",
            "a/../.gitattributes",
            "/.gitattributes",
        ),
        *("./.gitattributes", "%00", ".gitattributes/", "a%0d%0aX-Evil:%201", "%ed%a0%80", "%ff"),
        ".git%61ttributes%00",
    ],
)
def test_a_hostile_path_finds_nothing(repo: Repo, path: str) -> None:
    for place in ("resolve", "raw"):
        answer = ask(repo.url, "GET", f"/{repo.name}/{place}/main/{path}")
        assert answer.status in (400, 404)
        assert "X-Evil" not in answer.headers
        assert PRINTABLE.fullmatch(answer.headers["X-Error-Message"])
    assert repo.ask("GET", f"/tree/main/{path}").status in (400, 404)


def test_an_error_names_what_is_missing_in_printable_headers(repo: Repo) -> None:
    for rest, code in (
        ("axon/n%C3%B6%0a", "RepoNotFound"),
        (f"{repo.name}/revision/%E2%98%83", "RevisionNotFound"),
        (f"{repo.name}/tree/main/%E2%98%83%0d", "EntryNotFound"),
    ):
        answer = ask(repo.url, "GET", f"/api/models/{rest}")
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, code)
        assert PRINTABLE.fullmatch(answer.headers["X-Error-Message"])


def test_datasets_and_spaces_are_not_found_rather_than_unknown(url: str) -> None:
    for path in ("/api/datasets/a/b", "/api/spaces/a/b/tree/main", "/datasets/a/b/resolve/main/c"):
        assert ask(url, "GET", path).headers["X-Error-Code"] == "RepoNotFound"
    assert ask(url, "POST", "/api/repos/create", {"name": "a/b", "type": "dataset"}).status == 400


def test_a_request_id_is_echoed_or_made(url: str) -> None:
    given = ask(url, "GET", "/api/models", headers={"X-Request-Id": "abc-1.2"})
    assert given.headers["X-Request-Id"] == "abc-1.2"
    strange = ask(url, "GET", "/api/models", headers={"X-Request-Id": "a b<script>"})
    assert re.fullmatch("[0-9a-f]{32}", strange.headers["X-Request-Id"])


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"\xff", b'{"name": "\\ud800"}', b"[" * 99999]
)
def test_a_body_that_is_no_json_object_is_400(url: str, body: bytes) -> None:
    assert ask(url, "POST", "/api/repos/create", body).status == 400


def test_a_small_body_may_not_be_large(url: str) -> None:
    answer = ask(url, "POST", "/api/validate-yaml", (b"x" * (1 << 20) for _ in range(9)), {
        "Content-Length": str(9 << 20)
    })  # fmt: skip
    assert answer.status == 413


def test_whatever_fails_inside_is_a_500_without_innards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hubtool.hub.server import index

    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("the secret of the house")

    monkeypatch.setattr(index, "search", broken)
    with Background(tmp_path) as url, caplog.at_level(logging.INFO, "hubtool.hub"):
        answer = ask(url, "GET", "/api/models")
    assert answer.status == 500 and b"secret" not in answer.body
    assert answer.headers["X-Request-Id"] in answer.data["error"]
    assert (
        "the secret of the house" in caplog.text and answer.headers["X-Request-Id"] in caplog.text
    )


def test_every_request_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "hubtool.hub"), Background(tmp_path) as url:
        ask(url, "GET", "/api/models?secret=1")
        ask(url, "GET", "/a%0ab")
    first, second = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"GET /api/models 400 \d+\.\d ms", first)
    assert second.startswith("GET /a%0ab 404 ")
    assert capfd.readouterr() == ("", "")


def test_a_repository_is_made_once_and_the_conflict_holds_its_url(repo: Repo) -> None:
    again = ask(repo.url, "POST", "/api/repos/create", {"name": repo.name})
    assert (again.status, again.data["url"]) == (409, f"{repo.url}/{repo.name}")
    alone = ask(repo.url, "POST", "/api/repos/create", {"name": "alone"})
    assert alone.data["url"] == f"{repo.url}/local/alone"


@pytest.mark.parametrize("name", ["a/refs", "api/x", "datasets/x", "a/b/c", "a/..", "", "a/x.git"])
def test_a_name_that_addresses_cannot_hold_is_400(url: str, name: str) -> None:
    assert ask(url, "POST", "/api/repos/create", {"name": name}).status == 400


def test_a_name_without_a_namespace_is_found(url: str, tmp_path: Path) -> None:
    from hubtool.hub.server.meta import Meta

    with Background(tmp_path) as url:
        meta = Meta(tmp_path)
        meta.create("gpt2")
        meta.close()
        assert ask(url, "GET", "/api/models/gpt2").data["id"] == "gpt2"
        assert ask(url, "GET", "/api/models/gpt2/refs").data["branches"][0]["name"] == "main"
        assert ask(url, "GET", "/gpt2/resolve/main/.gitattributes").status == 200


def test_a_commit_sent_again_byte_for_byte_is_the_same_commit(repo: Repo) -> None:
    body = body_of(file("a.txt", "one"), parentCommit=repo.ask("GET", "").data["sha"])
    first, again = (repo.ask("POST", "/commit/main", body) for _ in range(2))
    assert (first.status, first.data) == (200, again.data)
    assert first.data["commitUrl"] == f"{repo.url}/{repo.name}/commit/{first.data['commitOid']}"
    assert len(repo.ask("GET", "/commits/main").data) == 2


def test_a_commit_on_a_parent_that_is_no_longer_the_head_is_412(repo: Repo) -> None:
    parent = repo.ask("GET", "").data["sha"]
    assert repo.commit(file("a.txt", "one"), parentCommit=parent).status == 200
    refused = repo.commit(file("a.txt", "two"), parentCommit=parent)
    assert refused.status == 412 and repo.ask("GET", "").data["sha"] in refused.data["error"]
    assert repo.get("a.txt").body == b"one"


def test_a_commit_that_cannot_be_is_refused_and_changes_nothing(repo: Repo) -> None:
    head = repo.ask("GET", "").data["sha"]
    for body in (b"", b"{}\n", body_of(file("../a", "x")), body_of(large("w.bin", b"never sent"))):
        assert repo.ask("POST", "/commit/main", body).status == 400
    assert repo.ask("POST", "/commit/none", body_of(file("a", "x"))).status == 404
    assert repo.ask("POST", "/commit/main?create_pr=1", body_of(file("a", "x"))).status == 400
    assert repo.ask("GET", "").data["sha"] == head


def test_a_full_disk_is_507_and_changes_nothing(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(routes_commits.tempfile, "TemporaryFile", lambda dir: Full())
    refused = repo.commit(file("a.txt", "one"))
    monkeypatch.undo()
    assert refused.status == 507 and "disk is full" in refused.data["error"]
    assert repo.get("a.txt").status == 404
    assert repo.commit(file("a.txt", "one")).status == 200


def test_a_tree_lists_folders_and_everything_below_on_demand(repo: Repo) -> None:
    repo.commit(file("a/b/c.txt", "1"), file("a/d.txt", "2"), file("e.txt", "3"))

    def listed(rest: str) -> list[str]:
        return [item["path"] for item in repo.ask("GET", f"/tree/main{rest}").data]

    assert listed("") == [".gitattributes", "a", "e.txt"]
    assert listed("/a") == ["a/b", "a/d.txt"]
    assert listed("/a%2Fb") == listed("/a/b") == ["a/b/c.txt"]
    assert listed("?recursive=true") == [
        *(".gitattributes", "a", "a/b", "a/b/c.txt", "a/d.txt", "e.txt")
    ]
    assert repo.ask("GET", "/tree/main/e.txt").status == 404


def test_pages_of_a_tree_and_of_commits_follow_their_links(repo: Repo) -> None:
    for number in range(4):
        repo.commit(file(f"{number}.txt", "x"))
    for rest, key, wanted in (("/tree/main", "path", 5), ("/commits/main", "id", 5)):
        found: list[str] = []
        answer = repo.ask("GET", f"{rest}?limit=2")
        while True:
            found += [item[key] for item in answer.data]
            if "Link" not in answer.headers:
                break
            link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers["Link"])
            assert link is not None
            answer = ask(repo.url, "GET", link[1].removeprefix(repo.url))
        assert len(set(found)) == len(found) == wanted


def test_an_expanded_tree_names_the_commit_that_changed_each_path_last(repo: Repo) -> None:
    repo.commit(file("a/one.txt", "1"), file("b.txt", "1"), summary="first")
    repo.commit(file("a/two.txt", "2"), summary="second")
    repo.commit(("deletedFile", {"path": "b.txt"}), summary="third")
    repo.commit(file("b.txt", "1"), summary="fourth")
    items = repo.ask("GET", "/tree/main?recursive=true&expand=true").data
    assert {item["path"]: item["lastCommit"]["title"] for item in items} == {
        ".gitattributes": "initial commit",
        "a": "second",
        "a/one.txt": "first",
        "a/two.txt": "second",
        "b.txt": "fourth",
    }


def test_paths_info_takes_a_form_or_json_and_skips_what_is_missing(repo: Repo) -> None:
    repo.commit(file("a/b.txt", "1"))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = repo.ask("POST", "/paths-info/main", b"paths=a&paths=a%2Fb.txt&paths=none", form)
    assert [(item["type"], item["path"]) for item in answer.data] == [
        ("directory", "a"),
        ("file", "a/b.txt"),
    ]
    text = {"Content-Type": "application/json"}
    answer = repo.ask("POST", "/paths-info/main", {"paths": ["a/b.txt"], "expand": True}, text)
    assert answer.data[0]["lastCommit"]["title"] == "a change"
    assert repo.ask("POST", "/paths-info/main", {"paths": [1]}, text).status == 400


def test_the_card_of_a_revision_is_that_revisions(repo: Repo) -> None:
    for tag in ("one", "two"):
        repo.commit(file("README.md", f"---\ntags:\n- {tag}\n---\n"))
        repo.ask("POST", "/tag/main", {"tag": tag})
    assert repo.ask("GET", "").data["cardData"] == {"tags": ["two"]}
    older = repo.ask("GET", "/revision/one").data
    assert (older["cardData"], older["tags"]) == ({"tags": ["one"]}, ["one"])
    only = repo.ask("GET", "?expand=sha&expand=tags").data
    assert set(only) == {"_id", "id", "modelId", "sha", "tags"}


def test_a_list_refuses_what_it_cannot_do(url: str) -> None:
    for query in ("num_parameters=min:6B", "direction=2", "limit=0", "limit=x", "sort=name"):
        assert ask(url, "GET", f"/api/models?{query}").status == 400, query
    assert ask(url, "GET", "/api/models?cursor=forged").status == 400


def test_a_list_goes_by_every_filter_in_pages(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        for number in range(5):
            tags = "".join(f"- {tag}\n" for tag in ("Axon", "even" if number % 2 == 0 else "odd"))
            one = Repo(url, f"axon/net-{number}")
            one.commit(
                file("README.md", f"---\npipeline_tag: image-classification\ntags:\n{tags}---\n")
            )
        Repo(url, "other/net-9")

        def found(query: str) -> list[str]:
            return [model["id"] for model in ask(url, "GET", f"/api/models?{query}").data]

        assert len(found("")) == 6 and found("filter=axon") == []
        assert sorted(found("filter=Axon&filter=even")) == [
            "axon/net-0",
            "axon/net-2",
            "axon/net-4",
        ]
        assert found("author=other") == ["other/net-9"] == found("search=NET-9")
        assert len(found("pipeline_tag=image-classification")) == 5
        first = ask(url, "GET", "/api/models?filter=Axon&sort=createdAt&limit=2&cardData=true")
        assert [model["id"] for model in first.data] == ["axon/net-4", "axon/net-3"]
        assert first.data[0]["cardData"]["tags"] == ["Axon", "even"]
        link = first.headers["Link"].partition(">")[0].removeprefix(f"<{url}")
        assert [model["id"] for model in ask(url, "GET", link).data] == ["axon/net-2", "axon/net-1"]
        assert found("filter=Axon&sort=createdAt&direction=1&limit=2") == [
            "axon/net-0",
            "axon/net-1",
        ]
        assert found("search=9+OTHER") == found("search=OT&limit=1") == ["other/net-9"]
        assert found("search=%22axon%22") == found("search=net*") == found("search=%25") == []
        assert len(found("other=Axon&library=odd")) == 2 and found("license=mit") == []
        only = ask(url, "GET", "/api/models?search=net-9&expand=downloads&expand=siblings").data[0]
        assert set(only) == {"_id", "id", "modelId", "downloads", "siblings"}
        full = ask(url, "GET", "/api/models?search=net-9&full=true").data[0]
        assert full["siblings"] == [{"rfilename": ".gitattributes"}]


def test_preupload_says_lfs_only_to_those_who_speak_it_where_xet_is_not_spoken(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_commits, "speaks_xet", lambda: False)
    sizes = {"a.onnx": 10, "b.txt": 2_000_000, "c.txt": 10, "sub/d.onnx": 10, "empty.onnx": 0}
    files = [{"path": path, "size": size, "sample": ""} for path, size in sizes.items()]

    def modes(agent: str) -> list[str]:
        answer = repo.ask("POST", "/preupload/main", {"files": files}, {"User-Agent": agent})
        return [file["uploadMode"] for file in answer.data["files"]]

    assert modes("unknown/None; hf_hub/2.4.0") == ["regular"] * 5
    assert modes("hubtool/0.1; hf_hub/2.4.0") == ["lfs", "lfs", "regular", "lfs", "regular"]


def test_preupload_names_what_stands_there_in_the_way_it_is_to_be_sent(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_commits, "speaks_xet", lambda: False)
    repo.upload(b"weights")
    repo.commit(large("w.bin", b"weights"), file("t.txt", "text"))
    sizes = {"w.bin": 7, "t.txt": 4, "new.txt": 1}
    files = [{"path": path, "size": size} for path, size in sizes.items()]

    def oids(agent: str) -> list[str | None]:
        answer = repo.ask("POST", "/preupload/main", {"files": files}, {"User-Agent": agent})
        return [file["oid"] for file in answer.data["files"]]

    assert oids("hubtool/1") == [large("", b"weights")[1]["oid"], _git(b"text"), None]
    assert oids("hf_hub/2") == [_git(b"weights"), _git(b"text"), None]


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.mark.parametrize(
    ("rules", "path", "wanted"),
    [
        ("*.log", "a/b.log", True),
        ("*.log\n!keep.log", "keep.log", False),
        ("build/", "a/build/x", True),
        ("build/", "build", False),
        ("/top", "a/top", False),
        ("a/b", "a/b/c", True),
        ("# *.txt\n\n", "x.txt", False),
    ],
)
def test_gitignore_rules_leave_files_out(rules: str, path: str, wanted: bool) -> None:
    assert ignored(path, rules) is wanted


def test_preupload_uses_the_gitignore_sent_or_else_the_stored_one(repo: Repo) -> None:
    repo.commit(file(".gitignore", "*.log\n"))
    files = [{"path": "a.log", "size": 1}]
    stored = repo.ask("POST", "/preupload/main", {"files": files})
    sent = repo.ask("POST", "/preupload/main", {"files": files, "gitIgnore": "*.txt"})
    assert stored.data["files"][0]["shouldIgnore"] and not sent.data["files"][0]["shouldIgnore"]
    assert repo.ask("POST", "/preupload/main", {"files": [{"path": 1}]}).status == 400


def test_refs_come_and_go_and_main_stays(repo: Repo) -> None:
    head = repo.ask("GET", "").data["sha"]
    assert repo.ask("POST", "/branch/dev", {"startingPoint": head}).status == 200
    assert repo.ask("POST", "/branch/dev", {}).status == 409
    assert repo.ask("POST", "/tag/dev", {"tag": "v1"}).status == 200
    refs = repo.ask("GET", "/refs").data
    assert refs["tags"] == [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": head}]
    assert [branch["name"] for branch in refs["branches"]] == ["dev", "main"]
    assert refs["converts"] == []
    assert repo.ask("DELETE", "/branch/dev").status == repo.ask("DELETE", "/tag/v1").status == 200
    assert repo.ask("DELETE", "/tag/v1").headers["X-Error-Code"] == "RevisionNotFound"
    assert repo.ask("DELETE", "/branch/main").status == 403


def test_a_card_is_checked_before_it_is_sent(url: str) -> None:
    def verdict(text: str) -> tuple[int, int]:
        answer = ask(url, "POST", "/api/validate-yaml", {"content": text, "repoType": "model"})
        return answer.status, len(answer.data["errors"])

    good = "---\nlicense: apache-2.0\ntags:\n- Axon\n---\n# A model\n"
    assert verdict(good) == (200, 0)
    assert verdict(good.replace("apache-2.0", "apache2.0")) == (400, 1)
    assert verdict("---\na: [\n---\n") == (400, 1)
    assert ask(url, "POST", "/api/validate-yaml", {"content": 1}).status == 400


def test_the_whole_answer_of_a_list_is_json_the_hub_would_give(repo: Repo) -> None:
    found = ask(repo.url, "GET", f"/api/models?search={repo.name.partition('/')[2]}")
    (model,) = json.loads(found.body)
    assert model["id"] == model["modelId"] == repo.name
    assert (model["author"], model["private"], model["gated"]) == ("axon", False, False)
