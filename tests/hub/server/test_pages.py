"""The pages: what stands on each, where its links lead, and how a refusal looks to a person."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import hubtool
from hubtool.hub.server.errors import unauthorized
from hubtool.hub.server.run import Background
from hubtool.hub.server.web import card, pages, render

from .conftest import Repo, ask, file, large
from .page_tree import get
from .servers import Served

CARD = """---
license: apache-2.0
pipeline_tag: image-classification
library_name: hubtool
tags:
- Axon
- "with, comma"
datasets:
- ILSVRC/imagenet-1k
base_model: axon/other
---
# A net

See [the guide](docs/guide.md#use), [its folder](docs/), [above](#a-net), [the web](https://e.org/)
and [out](../../x). ![A plot](plot.png) ![Elsewhere](https://e.org/x.png)

## A net

<h1 align="center" class="big" onclick="x()">Written in HTML</h1>

| left | right |
|------|------:|
| 1    | 2     |
"""
BROWSER = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def net(url: str) -> Repo:
    """A model with a card, a folder, a picture and weights."""
    repo = Repo(url, "axon/net-v1")
    repo.upload(b"weights")
    done = repo.commit(
        file("README.md", CARD),
        file("docs/guide.md", "# The guide\n<b>not bold</b>\n"),
        file("plot.png", b"\x89PNG\r\n\x1a\n\0"),
        large("model.safetensors", b"weights"),
        summary="all of it",
        description="In two\nlines.",
    )
    assert done.status == 200
    return repo


def test_the_start_page_says_how_to_push_and_pull_and_lists_the_newest(net: Repo) -> None:
    page = get(net.url, "/")
    said = page.one("main").text
    assert f"hubtool push resnet34 me/resnet34 --hub {net.url}" in said
    assert "hubtool pull me/resnet34" in said and f"HF_ENDPOINT={net.url}" in said
    assert page.links()["axon/net-v1"] == "/axon/net-v1"
    assert page.links()["All models"] == "/models"


def test_an_empty_hub_has_pages_too(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        assert "There are none yet" in get(url, "/").one("main").text
        assert "No model meets all of this" in get(url, "/models").one("main").text


def test_the_style_is_the_hubs_own_and_may_be_kept_until_it_changes(net: Repo) -> None:
    address = get(net.url, "/").one("link", rel="stylesheet").attributes["href"]
    answer = ask(net.url, "GET", address)
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/css; charset=utf-8"
    assert "immutable" in answer.headers["Cache-Control"]
    assert address.endswith(hashlib.sha256(answer.body).hexdigest()[:12])
    text = answer.body.decode()
    assert "prefers-color-scheme: dark" in text and ":focus-visible" in text
    assert not re.search(r"@import|url\(|expression|https?:", text)


def test_models_are_found_as_the_api_finds_them(url: str, net: Repo) -> None:
    card = "---\nlicense: mit\nlanguage: de\ntags:\n- Pear\n- {}\n---\n"
    for number in range(3):
        Repo(url, f"blog/pear-{number}").commit(file("README.md", card.format(f"n{number}")))

    def found(query: str) -> list[str]:
        page = get(url, f"/models?{query}")
        return [one.text for one in page.all("a", **{"class": "name"})]

    every = ["blog/pear-2", "blog/pear-1", "blog/pear-0"]
    assert found("other=Pear") == every == found("author=blog") == found("search=PEAR")
    assert found("other=Pear,n1") == found("other=Pear&other=n1") == ["blog/pear-1"]
    assert found("other=pear") == [] == found("search=nothing-like-it")
    assert found("search=pear-1&other=Pear&author=blog") == ["blog/pear-1"]
    assert found("author=axon&pipeline_tag=image-classification&library=hubtool") == [net.name]
    assert found("filter=with%2C+comma") == [net.name] == found("dataset=ILSVRC/imagenet-1k")
    assert found("other=with%2C+comma") == []
    assert found("license=mit&language=de") == every == found("license=license:mit")
    assert found("search=&author=&other=Pear&sort=created") == every
    for query in ("filter=Pear", "search=pear", "author=blog&sort=lastModified", "license=mit"):
        listed = [model["id"] for model in ask(url, "GET", f"/api/models?{query}").data]
        assert found(query) == listed and len(listed) == 3
    for query in ("colour=red", "sort=name", "cursor=forged"):
        get(url, f"/models?{query}", 400)


def test_the_form_of_the_list_keeps_what_was_asked_for(url: str) -> None:
    page = get(url, "/models?other=a&other=b,c&license=mit&search=x&sort=downloads&cursor=")
    given = {one.attributes["name"]: one.attributes.get("value") for one in page.all("input")}
    assert given["other"] == "a, b,c" and given["license"] == "mit" and "cursor" not in given
    assert page.one("input", id="by-search").attributes["value"] == "x"
    assert page.one("option", selected="").attributes["value"] == "downloads"


def test_pages_of_models_follow_each_other_without_gap(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    names = [f"paged/net-{number}" for number in range(5)]
    for name in names:
        Repo(url, name)
    page = get(url, "/models?author=paged&sort=downloads")
    found = []
    while True:
        found += [one.text for one in page.all("a", **{"class": "name"})]
        if "Next page" not in page.links():
            break
        assert page.one("select").attributes["name"] == "sort"
        page = get(url, page.links()["Next page"])
    assert found == names[::-1]
    assert page.links()["First page"] == "/models?author=paged&sort=downloads"


def test_a_models_page_says_what_it_is_and_how_to_use_it(net: Repo) -> None:
    page = get(net.url, f"/{net.name}")
    assert page.one("h1").text == net.name
    links = page.links()
    assert links["Axon"] == "/models?other=Axon"
    assert links["with, comma"] == "/models?filter=with%2C+comma"
    assert links["apache-2.0"] == "/models?other=license%3Aapache-2.0"
    assert links["ILSVRC/imagenet-1k"] == "/models?other=dataset%3AILSVRC%2Fimagenet-1k"
    assert links["axon/other"] == "/models?other=base_model%3Aaxon%2Fother"
    facts = page.one("dl").text
    assert "all of it" in facts and "Downloads" in facts and "in 5 files" in facts
    for name, value in (("Card", ""), ("Files", "/tree/main"), ("Revisions", "/commits/main")):
        assert links[name] == f"/{net.name}{value}"
    assert page.all("a", **{"aria-current": "page"})[0].text == "Card"
    assert f"HF_ENDPOINT={net.url} hf download {net.name}" in page.one("main").text
    assert "hubtool pull" not in page.one("main").text and "AxonHub" not in page.one("main").text


def test_every_tag_of_a_model_leads_to_it(net: Repo) -> None:
    page = get(net.url, f"/{net.name}")
    tags = [one for one in page.all("a") if one.attributes.get("href", "")[:8] == "/models?"]
    assert len(tags) > 8
    for tag in tags:
        assert net.name in get(net.url, tag.attributes["href"]).links(), tag.text


def test_a_card_is_html_whose_links_lead_to_the_revisions_files(net: Repo) -> None:
    page = get(net.url, f"/{net.name}")
    links = page.links()
    assert links["the guide"] == f"/{net.name}/blob/main/docs/guide.md#use"
    assert links["its folder"] == f"/{net.name}/tree/main/docs"
    assert links["the web"] == "https://e.org/" and links["out"] == ""
    assert links["above"] == "#card-a-net"
    headings = [one for one in page.elements if one.attributes.get("id", "").startswith("card-")]
    assert [(one.tag, one.attributes["id"]) for one in headings] == [
        ("h2", "card-a-net"),
        ("h3", "card-a-net-1"),
    ]
    written = next(one for one in page.all("h2") if one.text == "Written in HTML")
    assert written.attributes == {"align": "center"}
    pictures = [one.attributes for one in page.all("img")]
    assert pictures == [
        {"src": f"/{net.name}/resolve/main/plot.png", "alt": "A plot"},
        {"alt": "Elsewhere"},
    ]
    assert page.all("td")[1].attributes == {"align": "right"}
    for name in ("the guide", "its folder"):
        get(net.url, links[name].partition("#")[0])


def test_where_a_push_leads_there_are_the_files_and_the_card_of_that_revision(net: Repo) -> None:
    oid = net.ask("GET", "").data["sha"]
    page = get(net.url, f"/{net.name}/tree/{oid}")
    assert "Written in HTML" in page.one("section", **{"class": "card"}).text
    assert page.links()["the guide"] == f"/{net.name}/blob/{oid}/docs/guide.md#use"
    rows = [" ".join(row.text.split()) for row in page.all("tr") if "section" in row.within]
    assert rows[:4] == [
        "NameSize",
        ".gitattributes 1.6 kB",
        f"README.md {len(CARD)} bytes",
        "docs/ 1 file 28 bytes",
    ]
    assert page.links()["docs/"] == f"/{net.name}/tree/{oid}/docs"
    assert page.links()["model.safetensors"] == f"/{net.name}/blob/{oid}/model.safetensors"
    folder = get(net.url, f"/{net.name}/tree/main/docs")
    assert folder.links()["guide.md"] == f"/{net.name}/blob/main/docs/guide.md"
    assert not folder.all("section", **{"class": "card"})
    get(net.url, f"/{net.name}/tree/main/")
    for path in ("none", "docs/guide.md", "doc"):
        get(net.url, f"/{net.name}/tree/main/{path}", 404)


def test_the_address_that_a_push_prints_is_a_page_of_the_model(
    url: str, home: Path, folder: Path
) -> None:
    for name in ("axon/pushed", "axon/pushed-again"):
        done = hubtool.push(folder, name, hub=url)
        page = get(url, str(done.url).removeprefix(url))
        assert page.one("h1").text == name and "model.safetensors" in page.links()
        assert "convolution" in page.one("section", **{"class": "card"}).text


def test_a_picture_that_a_page_shows_is_no_download(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        one = Repo(url, "axon/m")
        one.commit(file("plot.png", "x"))
        for _ in range(3):
            assert one.get("plot.png", {"Sec-Fetch-Dest": "image"}).status == 200
        assert one.get("plot.png").status == 200
    with Background(tmp_path) as url:
        assert ask(url, "GET", "/api/models/axon/m").data["downloads"] == 1


def test_the_card_and_facts_of_an_older_revision_are_that_revisions(repo: Repo) -> None:
    for tag in ("one", "two"):
        repo.commit(file("README.md", f"---\nlicense: {tag}\ntags: [{tag}]\n---\nThis is {tag}.\n"))
        repo.ask("POST", "/tag/main", {"tag": tag})
    repo.ask("POST", "/branch/a%2Fb", {"startingPoint": "one"})
    for address, tag in (("", "two"), ("/tree/one", "one"), ("/tree/a%2Fb", "one")):
        page = get(repo.url, f"/{repo.name}{address}")
        assert f"This is {tag}." in page.one("main").text
        assert page.all("a", href=f"/models?other=license%3A{tag}")
    assert page.links()["Revisions"] == f"/{repo.name}/commits/a%2Fb"


@pytest.mark.parametrize(
    ("address", "link", "picture"),
    [
        ("a/b.png", "/axon/m/blob/v%2F1/a/b.png", "/axon/m/resolve/v%2F1/a/b.png"),
        (
            "./a%20b.png?raw=1#x",
            "/axon/m/blob/v%2F1/a%20b.png#x",
            "/axon/m/resolve/v%2F1/a%20b.png",
        ),
        ("a/../b?", "/axon/m/blob/v%2F1/b", "/axon/m/resolve/v%2F1/b"),
        ("a/", "/axon/m/tree/v%2F1/a", "/axon/m/resolve/v%2F1/a"),
        ("", "/axon/m/tree/v%2F1", None),
        ("#top", "#card-top", None),
        ("..", None, None),
        ("a/%2e%2e/%2E%2e/b", None, None),
        ("..%2fx", None, None),
        ("/models?other=Axon", "/models?other=Axon", None),
        ("//e.org/x", "//e.org/x", None),
        ("\\\\e.org/x", "/axon/m/blob/v%2F1/%5C%5Ce.org/x", "/axon/m/resolve/v%2F1/%5C%5Ce.org/x"),
        ("https://e.org/x", "https://e.org/x", None),
        ("mailto:a@e.org", "mailto:a@e.org", None),
        ("java\nscript:x", None, None),
        (" \x01javascript:x", None, None),
        ("DATA:text/html,x", None, None),
        ("a:b.md", None, None),
    ],
)
def test_an_address_in_a_card_leads_into_the_revision_or_far_away_or_nowhere(
    address: str, link: str | None, picture: str | None
) -> None:
    place = card.Place("axon/m", "v/1")
    assert (card.link(address, place), card.picture(address, place)) == (link, picture)


def test_a_card_that_cannot_be_read_leaves_a_page(repo: Repo) -> None:
    for broken in (
        b"---\na: [\n---\ntext\n",
        b"\xff\xfe# x",
        b"---\n",
        b"",
        b"\0",
        b"---\n- a\n---\n",
    ):
        assert repo.commit(file("README.md", broken)).status == 200
        get(repo.url, f"/{repo.name}")
        get(repo.url, f"/{repo.name}/tree/{repo.ask('GET', '').data['sha']}")


def test_a_long_card_is_cut_and_says_so(repo: Repo) -> None:
    repo.commit(file("README.md", "word " * 30_000 + "the end"))
    page = get(repo.url, f"/{repo.name}")
    assert "the end" not in page.one("main").text and "word word" in page.one("main").text
    assert page.links()["README.md"] == f"/{repo.name}/blob/main/README.md"


def test_a_text_is_shown_and_all_else_can_be_fetched(net: Repo) -> None:
    page = get(net.url, f"/{net.name}/blob/main/docs/guide.md")
    assert page.one("pre").text == "# The guide\n<b>not bold</b>\n"
    assert page.links()["Download"] == f"/{net.name}/resolve/main/docs/guide.md"
    assert page.links()["docs"] == f"/{net.name}/tree/main/docs"
    picture = get(net.url, f"/{net.name}/blob/main/plot.png")
    assert picture.one("img").attributes["src"] == f"/{net.name}/resolve/main/plot.png"
    weights = get(net.url, f"/{net.name}/blob/main/model.safetensors")
    assert hashlib.sha256(b"weights").hexdigest() in weights.one("main").text
    get(net.url, f"/{net.name}/blob/main/none", 404)


def test_what_is_no_text_and_what_is_too_much_of_it(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_TEXT", 11)
    texts = {"cut.txt": "aaaaaaaaaa\u2603 hidden", "whole.txt": "bbbbbbbb\u2603"}
    others = {"zero.bin": b"a\0b", "latin.txt": b"caf\xe9", "half.txt": b"aaaaaaaa\xe2\x98"}
    files = [file(name, content) for name, content in {**texts, **others}.items()]
    repo.commit(*files)
    cut = get(repo.url, f"/{repo.name}/blob/main/cut.txt")
    assert cut.one("pre").text.strip() == "aaaaaaaaaa"
    assert "This is the beginning" in cut.one("main").text
    whole = get(repo.url, f"/{repo.name}/blob/main/whole.txt")
    assert whole.one("pre").text.strip() == "bbbbbbbb\u2603"
    for name in others:
        page = get(repo.url, f"/{repo.name}/blob/main/{name}")
        assert not page.all("pre") and "not text" in page.one("main").text


def test_characters_that_nobody_sees_are_written_out(repo: Repo) -> None:
    repo.commit(file("a\u202etxt.exe", "x\u200by\x1b[0m\tz\n"), summary="\u2066title")
    listing = get(repo.url, f"/{repo.name}/tree/main")
    address = listing.links()["a\\u202etxt.exe"]
    assert address == f"/{repo.name}/blob/main/a%E2%80%AEtxt.exe"
    assert get(repo.url, address).one("pre").text == "x\\u200by\\u001b[0m\tz\n"
    assert "\\u2066title" in get(repo.url, f"/{repo.name}/commits/main").links()


def test_a_large_folder_comes_in_pages(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FILES", 2)
    repo.commit(*(file(path, "x") for path in ("a&b/1", "c", "d+e", "f/1", "f/2")))
    page, found = get(repo.url, f"/{repo.name}/tree/main"), []
    while True:
        found += [one.text for one in page.all("a") if "td" in one.within]
        if "Next page" not in page.links():
            break
        page = get(repo.url, f"/{repo.name}/tree/main{page.links()['Next page']}")
    assert found == [".gitattributes", "a&b/", "c", "d+e", "f/"]


def test_the_revisions_and_what_each_changed(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOG", 2)
    repo.commit(file("a.txt", "1"), file("b.txt", "1"), summary="first", description="Why\nand how")
    done = repo.commit(file("a.txt", "2"), ("deletedFile", {"path": "b.txt"}), summary="second")
    repo.ask("POST", "/tag/main", {"tag": "v1"})
    page = get(repo.url, f"/{repo.name}/commits/main")
    assert [one.text for one in page.all("a", **{"class": "name"})] == ["second", "first"]
    assert page.links()["v1"] == f"/{repo.name}/commits/v1"
    older = get(repo.url, f"/{repo.name}/commits/main{page.links()['Older commits']}")
    assert [one.text for one in older.all("a", **{"class": "name"})] == ["initial commit"]
    assert "Older commits" not in older.links()
    address = done.data["commitUrl"].removeprefix(repo.url)
    assert address == page.links()["second"]
    second = get(repo.url, address)
    changes = second.one("ul", **{"class": "changes"}).text.split()
    assert changes == ["changed", "a.txt", "removed", "b.txt"]
    oid = second.links()["the commit before"].rpartition("/")[2]
    first = get(repo.url, second.links()["the commit before"])
    assert first.one("pre").text == "Why\nand how"
    assert first.links()["a.txt"] == f"/{repo.name}/blob/{oid}/a.txt"
    assert get(repo.url, first.links()["a.txt"]).one("pre").text == "1"
    get(repo.url, f"/{repo.name}/commits/none", 404)


def test_a_person_gets_refusals_as_pages_and_a_program_as_json(net: Repo) -> None:
    for path, code in (
        ("/axon/none", "RepoNotFound"),
        (f"/{net.name}/tree/none", "RevisionNotFound"),
        (f"/{net.name}/blob/main/none", "EntryNotFound"),
        (f"/{net.name}/resolve/main/none", "EntryNotFound"),
        ("/nothing/at/all/here/to/see", None),
    ):
        page = ask(net.url, "GET", path, headers=BROWSER)
        told = ask(net.url, "GET", path)
        assert page.status == told.status == 404
        assert page.headers["X-Error-Code"] == told.headers["X-Error-Code"] == code
        assert page.headers["X-Error-Message"] == told.data["error"]
        assert get(net.url, path, 404).one("h1").text == "There is nothing here"
    assert ask(net.url, "GET", "/api/models/axon/none", headers=BROWSER).data["error"]
    assert ask(net.url, "POST", f"/{net.name}", b"", BROWSER).data["error"]


def test_a_refusal_of_a_stranger_is_a_page_with_its_headers() -> None:
    answer = render.refused(unauthorized("Who are you?"), {"WWW-Authenticate": "Bearer"})
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert b"Who are you?" in bytes(answer.body)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_pages_answer_head_and_nothing_that_writes(net: Repo) -> None:
    for path in ("/", "/models", f"/{net.name}", f"/{net.name}/tree/main"):
        got, head = (ask(net.url, method, path, headers=BROWSER) for method in ("GET", "HEAD"))
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == got.headers["Content-Length"]
        refused = ask(net.url, "POST", path, b"")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET")


def test_unknown_addresses_of_the_api_are_no_models(url: str) -> None:
    for method, path in (("GET", "/api/nothing"), ("POST", "/api/nothing"), ("GET", "/api")):
        answer = ask(url, method, path, b"" if method == "POST" else None)
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, None), path


def test_a_private_model_is_marked_and_a_strangers_hub_hides_it(tmp_path: Path) -> None:
    with Background(tmp_path) as url:
        Repo(url, "axon/hidden").ask("PUT", "/settings", {"private": True})
        assert "private" in get(url, "/axon/hidden").one("h1").text
        assert "axon/hidden" in get(url, "/models").links()
    with Served(tmp_path, host="0.0.0.0") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        get(url, "/axon/hidden", 404)
        assert "axon/hidden" not in get(url, "/models").links()
        assert "axon/hidden" not in get(url, "/").links()
