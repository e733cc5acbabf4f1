"""A page as a browser would read it: its elements, and whether they stand as they should.

What the hub sends is well-formed: every element is closed in order, so that a simple parser reads
it as a browser does. Where it is not, reading it is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlsplit

from .conftest import ask

EMPTY = {"meta", "link", "input", "img", "br", "hr", "wbr", "col"}
OURS = "html head meta title link body a header nav form label input button main footer"
SHOWN = """
section div span small time code pre p h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table thead tbody tfoot
tr th td caption col colgroup details summary select option img br hr wbr b i em strong s u del ins
sub sup kbd samp var q cite dfn abbr mark blockquote figure figcaption
"""
ATTRIBUTES = """
href rel id class type name value for aria-label aria-current role tabindex lang charset content
action maxlength selected datetime scope title align alt src width height colspan rowspan start open
download
"""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    within: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements of a page in their order, each with the tags that it stands in."""

    elements: list[Element] = field(default_factory=list)

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self._open = [], []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {[one.tag for one in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        within = tuple(one.tag for one in self._open)
        element = Element(tag, {name: value or "" for name, value in attrs}, within)
        self.elements.append(element)
        if tag not in EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, (tag, [one.tag for one in self._open])
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1].tag == "pre" and not self._open[-1].text:
            data = data.removeprefix("\n")  # which HTML passes over there
        for element in self._open:
            element.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements of a tag that have these attributes."""
        return [
            one
            for one in self.elements
            if one.tag == tag and attributes.items() <= one.attributes.items()
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def links(self) -> dict[str, str]:
        """Where every link leads, by its text."""
        return {" ".join(one.text.split()): one.attributes.get("href", "") for one in self.all("a")}


def get(url: str, path: str, status: int = 200) -> Page:
    """A page of a hub, found to be harmless and whole."""
    answer = ask(url, "GET", path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status == status, (path, answer.status, answer.body[:300])
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "script-src" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    page = Page(answer.body.decode())
    check(page)
    return page


def check(page: Page) -> None:
    """Nothing on a page can run or load anything, and the page's own parts stand around it."""
    for element in page.elements:
        named = (element.tag, element.attributes)
        assert element.tag in f"{OURS} {SHOWN}".split(), named
        assert set(element.attributes) <= {*ATTRIBUTES.split()}, named
        for name in ("href", "src", "action"):
            if name in element.attributes:
                _check_address(element, re.sub(r"[\0-\x20]", "", element.attributes[name]))
    body = [element for element in page.elements if element.within == ("html", "body")]
    assert [element.tag for element in body] == ["a", "header", "main", "footer"]
    for tag in ("html", "head", "body", "main", "title", "link", "h1"):
        assert len(page.all(tag)) == 1, tag
    assert all("head" in one.within for one in page.all("meta") + page.all("link"))
    assert all("main" in one.within for one in page.elements if one.tag == "h2")
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    ours = [name for name in ids if not name.startswith("card-")]
    assert len(set(ours)) == len(ours) and {"main", "site-search"} <= {*ours}


def _check_address(element: Element, address: str) -> None:
    parts = urlsplit(address)
    if element.tag == "a":
        assert parts.scheme in ("", "http", "https", "mailto"), address
        if parts.netloc or address.startswith(("//", "/\\")):
            assert element.attributes["rel"] == "nofollow noopener"
    else:
        assert not parts.scheme and not parts.netloc and address.startswith("/"), address
    if element.tag == "img":
        assert "/resolve/" in address and ".." not in address, address
