"""A card as HTML: Markdown in, and out comes only what cannot do anything.

A card is a stranger's text, and Markdown may hold any HTML. So three walls stand one behind the
other: the HTML is parsed as a browser would and rebuilt from a list of harmless elements and
attributes (nh3), every address in it is judged here, and the page's Content-Security-Policy allows
no script and no picture from elsewhere.

A relative link leads to that file of the same revision, and a picture is shown only out of it.
Headings move one level down, below the page's own, and get names that links within the card reach;
the names bear a prefix, so that none is taken for a part of the page.
"""

from __future__ import annotations

import posixpath
import re
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from hubtool.hub.card_header import BLOCK

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = ["LONGEST", "Place", "link", "picture", "prose", "rendered"]

LONGEST = 100_000
"""Characters of a card that are shown; parsing takes its time, and nobody reads on from there."""

ONE_AT_A_TIME = threading.Lock()
"""What the worst card takes in memory, many at once do not take many times."""

PREFIX = "card-"
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)
SCHEMES = {"http", "https", "mailto"}
HEADING = re.compile(r"(</?h)([1-6])\b", re.IGNORECASE)
LENGTH = re.compile(r"[0-9]{1,4}%?")

TAGS = """
a abbr b blockquote br caption cite code col colgroup dd del details dfn div dl dt em figcaption
figure h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup
table tbody td tfoot th thead tr u ul var wbr
"""
DROPPED = """
iframe math noembed noframes noscript object script select style svg template textarea title xmp
"""
"""Elements that go with all that is in them; of every other unknown one the text stays."""
ALIGNED = "div h2 h3 h4 h5 h6 p td th tr"
ATTRIBUTES: dict[str, set[str]] = {
    "*": {"id", "title"},
    "a": {"href"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
SIDES = {"left", "right", "center"}


@dataclass(frozen=True)
class Place:
    """A repository's revision, as addresses name it."""

    repo: str
    revision: str

    def url(self, what: str, path: str = "", revision: str | None = None) -> str:
        """The address of `what` ("blob", "tree", "commit") of a path; of this revision, if of no
        other."""
        at = quote(self.revision if revision is None else revision, safe="")
        below = f"/{quote(path)}" if path else ""
        return f"/{quote(self.repo)}/{what}/{at}{below}"


def prose(text: str) -> str:
    """A card without its header, whether that can be read or not."""
    found = BLOCK.match(text)
    return text[found.end() :] if found else text


def rendered(text: str, place: Place) -> str:
    """The first LONGEST characters of a Markdown text as HTML that is safe to put into a page."""
    with ONE_AT_A_TIME:
        return _rendered(text[:LONGEST], place)


@lru_cache(maxsize=16)
def _rendered(text: str, place: Place) -> str:
    import nh3

    def judged(element: str, attribute: str, value: str) -> str | None:
        if attribute == "href":
            return link(value, place)
        if attribute == "src":
            return picture(value, place)
        if attribute in ("width", "height"):
            return value if LENGTH.fullmatch(value) else None
        return value

    return nh3.clean(
        _html(text),
        tags=set(TAGS.split()),
        clean_content_tags=set(DROPPED.split()),
        attributes=ATTRIBUTES,
        tag_attribute_values={tag: {"align": SIDES} for tag in ALIGNED.split()},
        attribute_filter=judged,
        link_rel="nofollow noopener",
        url_schemes=SCHEMES,
        id_prefix=PREFIX,
    )


def link(address: str, place: Place) -> str | None:
    """Where a link in a card may lead; None where it may not lead anywhere.

    Example: `link("docs/a.md#top", Place("axon/m", "main"))` is `/axon/m/blob/main/docs/a.md#top`
    """
    address = _plain(address)
    if address.startswith("#"):
        return f"#{PREFIX}{address[1:]}"
    scheme = SCHEME.match(address)
    if scheme is not None:
        return address if scheme[1].lower() in SCHEMES else None
    if address.startswith("/"):
        return address
    path, mark, fragment = address.partition("#")
    inside = _inside(path)
    if inside is None:
        return None
    folder = inside == "" or path.endswith("/")
    return place.url("tree" if folder else "blob", inside) + mark + quote(fragment, safe="%")


def picture(address: str, place: Place) -> str | None:
    """Where a picture in a card comes from: the revision itself, or nowhere."""
    address = _plain(address)
    if SCHEME.match(address):
        return None
    inside = _inside(address.partition("#")[0])
    return place.url("resolve", inside) if inside else None


def _plain(address: str) -> str:
    """An address as a browser reads it: without what it passes over."""
    return re.sub(r"[\t\n\r]", "", address).strip("".join(map(chr, range(33))))


def _inside(path: str) -> str | None:
    """The path in the repository that a relative address means; None outside of it."""
    path = unquote(path.partition("?")[0], errors="replace")
    inside = posixpath.normpath(path)
    if inside == ".":
        return ""
    return None if inside.startswith("/") or inside.split("/")[0] == ".." else inside


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


def _html(text: str) -> str:
    """Markdown as HTML, as it comes: not yet clean."""
    parser, env = _parser(), dict[str, Any]()
    tokens = parser.parse(text, env)
    names: dict[str, int] = {}
    for token, following in zip(tokens, [*tokens[1:], None], strict=False):
        if token.type in ("heading_open", "heading_close"):
            token.tag = _lower(token.tag)
        if token.type == "heading_open" and following is not None:
            token.attrs["id"] = _named(following.content, names)
        if "style" in token.attrs:  # the alignment of a table's column
            token.attrs["align"] = str(token.attrs.pop("style")).removeprefix("text-align:")
        for piece in (token, *(token.children or ())):
            if piece.type in ("html_block", "html_inline"):
                piece.content = HEADING.sub(lambda found: _lower(found[0]), piece.content)
    return str(parser.renderer.render(tokens, parser.options, env))


def _lower(tag: str) -> str:
    """The tag of the next lower heading: `h1` becomes `h2`, `</h6` stays."""
    return f"{tag[:-1]}{min(6, int(tag[-1]) + 1)}"


def _named(title: str, names: dict[str, int]) -> str:
    """The name of a heading, as GitHub and the Hub make it; the second of a name gets a number."""
    name = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
    names[name] = names.get(name, -1) + 1
    return f"{name}-{names[name]}" if names[name] else name
