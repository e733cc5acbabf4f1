"""What strangers write is shown and never does anything, wherever on a page it stands."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import pytest

from hubtool.hub.server.web.card import Place, rendered
from hubtool.hub.server.web.render import seen

from .conftest import Repo, file
from .page_tree import Page, check, get
from .xss import CORPUS, as_path, as_tag

AROUND = (
    "<!doctype html><html><head><title>t</title><link rel=stylesheet href=/s></head><body>"
    "<a href=/>x</a><header><input id=site-search></header><main id=main><h1>h</h1><section>\n{}\n"
    "</section></main><footer></footer></body></html>"
)


def test_the_corpus_is_large_and_holds_nothing_twice() -> None:
    assert len(CORPUS) == len(set(CORPUS)) >= 80


@pytest.mark.parametrize("number", range(len(CORPUS)))
def test_a_hostile_card_becomes_harmless_html_that_closes_what_it_opens(number: int) -> None:
    vector = CORPUS[number]
    for text in (vector, f"text {vector} text\n\n> - {vector}\n", f"<div>{vector}", vector * 3):
        html = rendered(text, Place("axon/m", "main"))
        page = Page(AROUND.format(html))
        check(page)
        assert not page.all("form") and not page.all("input", type="hidden")
        assert not any(
            "style" in one.attributes or "class" in one.attributes for one in page.elements
        )


def test_a_hostile_card_header_and_its_tags_are_text(url: str) -> None:
    repo = Repo(url, "axon/hostile-tags")
    keys = ("license", "pipeline_tag", "library_name", "license_name", "license_link")
    for start in range(0, len(CORPUS), 20):
        tags = [as_tag(vector) for vector in CORPUS[start : start + 20]]
        for key, tag in zip(keys, tags, strict=False):
            linked = {"license_name": "x", "license_link": "x", key: tag}
            header = {"tags": tags, "language": tags, "datasets": tags, **linked}
            card = f"---\n{json.dumps(header)}\n---\n"
            assert repo.commit(file("README.md", card), summary=tag).status == 200
            page = get(url, f"/{repo.name}")
            assert words(tag) in words(page.one("dl").text) or key == "license_link"
        found = get(url, "/models?author=axon&search=hostile-tags")
        for shown in (page, found):
            listed = shown.one("ul", **{"aria-label": "Tags"})
            assert all(words(tag) in words(listed.text) for tag in tags[:8]), shown
        for tag in tags:
            (address,) = {
                one.attributes["href"]
                for one in page.all("a")
                if words(one.text) == words(tag) and "ul" in one.within
            }
            assert repo.name in get(url, address).links(), tag


@pytest.fixture(scope="module")
def names(url: str) -> Repo:
    """A repository with a commit a vector: its title, its message, a file and a folder."""
    repo = Repo(url, "axon/hostile-names")
    for vector in CORPUS:
        name = as_path(vector)
        text = vector.replace("\0", "")
        files = (file(name, text), file(f"{name[:-4]}/{name}", text))
        done = repo.commit(*files, summary=text, description=text)
        assert done.status == 200, (vector, done.body)
    return repo


def test_hostile_file_names_and_texts_are_text(url: str, names: Repo) -> None:
    listing = get(url, f"/{names.name}/tree/main")
    addresses = {words(one.text): one.attributes["href"] for one in listing.all("a")}
    for vector in CORPUS:
        name, text = as_path(vector), vector.replace("\0", "")
        page = get(url, addresses[words(name)])
        assert words(page.one("pre").text) == words(text.removeprefix("\ufeff"))
        assert words(page.one("h2").text) == words(name)
        folder = get(url, addresses[words(f"{name[:-4]}/")])
        assert words(name) in {words(one.text) for one in folder.all("a")}


def test_hostile_commit_titles_and_messages_are_text(url: str, names: Repo) -> None:
    page = get(url, f"/{names.name}/commits/main")
    titles = []
    while True:
        for one in page.all("a", **{"class": "name"}):
            titles.append(words(one.text))
            commit = get(url, one.attributes["href"])
            assert words(commit.one("h2").text) == titles[-1]
            assert not commit.all("pre") or words(commit.one("pre").text) == titles[-1]
        older = page.links().get("Older commits")
        if older is None:
            break
        page = get(url, f"/{names.name}/commits/main{older}")
    wanted = [words(vector.replace("\0", "")) for vector in CORPUS]
    assert titles == [*reversed(wanted), "initial commit"]


def test_what_an_address_asks_for_is_text(url: str) -> None:
    Repo(url, "axon/asked-for")
    for vector in CORPUS:
        asked = dict.fromkeys(("search", "other", "author", "pipeline_tag", "library"), vector)
        page = get(url, f"/models?{urlencode({**asked, 'filter': vector})}")
        assert page.one("input", id="by-author").attributes["value"].split() == vector.split()
        wrong = ({"sort": vector}, {"cursor": vector}, {vector: "x"})
        for query in wrong:
            get(url, f"/models?{urlencode(query)}", 400)
        coded = quote(vector, safe="")
        for path in (coded, f"axon/{coded}", f"axon/asked-for/tree/{coded}"):
            get(url, f"/{path}", 404)
        get(url, f"/axon/asked-for/blob/main/{coded}", 404)


def words(text: str) -> str:
    """A text as pages show it, whatever white space stands between its words."""
    return " ".join(seen(text).split())
