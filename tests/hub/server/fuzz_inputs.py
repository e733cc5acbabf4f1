"""What hypothesis sends: bodies, cards, addresses and bytes that no client of good will would.

A campaign is a strategy and what is done with what it draws; `hold` looks at every answer. Each
begins with what is right and bends it, since what is wrong from its first byte does not get far.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .conftest import file, large
from .fuzz import Target
from .xets import upload

__all__ = ["BENT", "Campaign", "bends", "dumped", "noise", "run", "types"]

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Campaign:
    """name: what is bent. drawn: how. send: what is done with it."""

    name: str
    drawn: Strategy
    send: Callable[[Target, Any], None]


def run(campaign: Campaign, target: Target, examples: int, number: int) -> None:
    """So many examples, of which the number decides. Raises the smallest that breaks the law."""
    by_chance = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    def attack(drawn: Any) -> None:
        campaign.send(target, drawn)

    seed(number)(by_chance(given(campaign.drawn)(attack)))()


letters = st.text(max_size=20) | st.text("ab/.\\é\0\n\u202e%", max_size=12)
surrogates = st.sampled_from(["\ud800", "\udfff", "a\udc80b"])
paths = st.sampled_from(["README.md", "a", "a/b", "folder/b.txt", "folder", "large.bin"])
HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/a",
    "a//b",
    "a/",
    "a\\b",
    ".git/config",
    "a/.GIT/b",
    "\0",
]
HOSTILE += [
    "a\nb",
    "\u2028",
    "\ufeff",
    "con",
    "a" * 2000,
    "a/" * 500 + "a",
    "é" * 512,
    "%2e%2e/a",
    "~",
]
hostile = st.sampled_from(HOSTILE)
NUMBERS = [0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**100, 1.5, 1e308, True]
NUMBERS += [float("inf"), float("nan")]
numbers = st.sampled_from(NUMBERS)
scalars: Strategy = st.none() | st.booleans() | numbers | letters | surrogates | hostile
values: Strategy = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=12,
)
DEEP = [*(brackets * 40_000 for brackets in ("[", '{"a":')), "[" * 900 + "]" * 900]
"""JSON that is nested deeper than anybody reads."""


def bent(good: bytes, noise: bytes, at: float, gone: int) -> bytes:
    """Some bytes of it replaced by others."""
    start = int(at * len(good))
    return good[:start] + noise + good[start + gone :]


noise = st.binary(max_size=12) | st.sampled_from([b"\0", b"\xff\xfe", b"\r\n", b"\xed\xa0\x80"])
places = st.floats(0, 1)
bends = st.tuples(noise, places, st.integers(0, 30))


def dumped(data: Any) -> bytes:
    return json.dumps(data).encode()


# Commits ------------------------------------------------------------------------------------------


def fields(**known: Strategy) -> Strategy:
    """An object with these keys, of which some are missing, others are too many."""
    return st.fixed_dictionaries({}, optional={**known, "more": scalars}) | st.fixed_dictionaries(
        known
    )


contents = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
contents |= st.text("AQ=/+-_ \n", max_size=9) | scalars
oids = st.sampled_from([large("", b"large" * 100)[1]["oid"], "0" * 64, "F" * 64, "../" * 21])
lines = st.tuples(
    st.sampled_from(["file", "lfsFile", "deletedFile", "deletedFolder", "header", "copyFile"]),
    fields(
        path=paths | hostile | scalars,
        content=contents,
        encoding=st.just("base64") | scalars,
    )
    | fields(
        path=paths | hostile,
        algo=st.just("sha256") | scalars,
        oid=oids | scalars,
        size=st.just(500) | numbers,
    )
    | fields(path=paths | hostile | letters)
    | values,
)
right = st.tuples(paths, st.binary(max_size=30)).map(lambda drawn: file(*drawn))
headers = fields(
    summary=st.just("a change") | letters | scalars,
    description=letters | scalars,
    parentCommit=st.sampled_from(["0" * 40, "abcdef1", "", "g" * 40]) | scalars,
)
RAW_LINES = [
    *(deep.encode() for deep in DEEP),
    b'{"key":"file","key":"file","value":{}}',
    b'{"key":"file","value":{"path":"a","path":"b","content":"","encoding":"base64"}}',
    b'{"key":"lfsFile","value":{"path":"a","algo":"sha256","oid":"%s","size":%s}}'
    % (b"0" * 64, b"9" * 5000),
    b'{"key":"file","value":{"path":"a","encoding":"base64","content":"%s' % (b"QUFB" * 30_000),
    b'{"key":"file","value":{"path":"a","encoding":"base64","content":"%s"}}' % (b"QUFB" * 60_000),
    b'{"key":"file","value":{"path":"a","encoding":"base64","content":"%s"}}' % (b"A" * 99_999),
    b'{"key":"file","value":{"path":"\\ud800","encoding":"base64","content":""}}',
    b'{"key":"file","value":{"path":"a\\u0000b","encoding":"base64","content":""}}',
    b"\0" * 70_000,
    b'"' * 70_000,
    b'"\\' * 40_000,
    b" " * 200_000,
    b"\xef\xbb\xbf{}",
    b"",
    b"null",
    b"-",
    b"1e99999",
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A commit's body: lines that are right, wrong or bent, in any order."""
    first = draw(st.just({"summary": "a change"}) | headers)
    chosen = draw(st.lists(right | lines | st.sampled_from(RAW_LINES), max_size=5))
    parts = [dumped({"key": "header", "value": first})] if draw(places) < 0.9 else []
    parts += [
        line if isinstance(line, bytes) else dumped({"key": line[0], "value": line[1]})
        for line in chosen
    ]
    body = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n"])).join(parts)
    return bent(body, *draw(bends)) if draw(places) < 0.3 else body


def commit(target: Target, body: bytes) -> None:
    target.ask("POST", "/api/models/fuzz/m/commit/main", body)


# Small JSON bodies --------------------------------------------------------------------------------

JSON_ROUTES = [
    ("POST", "/api/repos/create"),
    ("DELETE", "/api/repos/delete"),
    ("POST", "/api/repos/move"),
    ("PUT", "/api/models/fuzz/m/settings"),
    ("POST", "/api/models/fuzz/m/branch/made"),
    ("POST", "/api/models/fuzz/m/tag/main"),
    ("POST", "/api/models/fuzz/m/super-squash/side"),
    ("POST", "/api/models/fuzz/m/preupload/main"),
    ("POST", "/api/models/fuzz/m/paths-info/main"),
    ("POST", "/api/models/fuzz/m/user-access-request/handle"),
    ("POST", "/api/models/fuzz/m/user-access-request/grant"),
    ("POST", "/fuzz/m/ask-access"),
    ("POST", "/api/validate-yaml"),
    ("POST", "/fuzz/m.git/info/lfs/objects/batch"),
    ("POST", "/fuzz/m.git/info/lfs/objects/verify"),
]
KEYS = ["name", "organization", "type", "private", "visibility", "gated", "startingPoint", "tag"]
KEYS += ["message", "files", "gitIgnore", "paths", "expand", "content", "user", "status", "oid"]
KEYS += ["fromRepo", "toRepo", "operation", "objects", "hash_algo", "size", "requestId", "path"]
announced = st.lists(
    st.fixed_dictionaries({}, optional={"path": paths | hostile, "size": numbers, "oid": oids}),
    max_size=4,
)
rules = st.lists(
    st.sampled_from(["*", "!a", "a/", "[a", "[!", "**/", "*a*b*c", "\\", "[z-a]", "#"])
)
known = {
    "operation": st.sampled_from(["upload", "download"]),
    "objects": announced,
    "files": announced,
    "gitIgnore": rules.map("\n".join),
    "name": st.sampled_from(["fuzz/m", "fuzz/new", "a--b", ".git", "api/x", "x/refs", "é/b"]),
    "fromRepo": st.sampled_from(["fuzz/new", "fuzz/none"]),
    "toRepo": st.sampled_from(["fuzz/newer", "fuzz/m", "api/x"]),
    "content": letters.map(lambda text: f"---\n{text}\n---\n"),
}
known |= {key: known[key] | values for key in known}
objects = st.fixed_dictionaries({}, optional={key: known.get(key, values) for key in KEYS})
small = objects.map(dumped) | values.map(dumped) | noise | st.sampled_from(DEEP).map(str.encode)
small |= st.tuples(objects.map(dumped), bends).map(lambda both: bent(both[0], *both[1]))
types = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "text/plain", "é", "", "json; a=\\"]
)


def json_body(target: Target, drawn: tuple[tuple[str, str], bytes, str]) -> None:
    (method, path), body, kind = drawn
    if path == "/api/repos/delete" and b"fuzz/m" in body:
        return
    target.ask(method, path, body, {"Content-Type": kind})


# Cards --------------------------------------------------------------------------------------------

SCALARS = [
    *("~", ".nan", "-.inf", "1e400", "0x" + "f" * 5000, "9" * 5000, "1_000", "190:20:30", "0o8"),
    *("2026-13-45", "2026-01-01", "2001-12-14t21:59:43.10-99:99", "0000-00-00", "=", "<<", "on"),
    *("!!python/object/apply:os.system [x]", "!!binary 'A'", "!!set {a}", "!x y", "&a b", "*a"),
    *(
        "'",
        '"',
        '"\\ud800"',
        '"\\x00"',
        '"\\U00110000"',
        "|",
        ">-\n  a",
        "- a",
        "? a",
        "[a, b",
        "{a: b",
    ),
    *(
        "{<<: {a: b}}",
        "[" * 40 + "]" * 40,
        "[" * 5000,
        "\t",
        "\u2028",
        "\ufeff",
        "a: b: c",
        "%TAG ! x",
    ),
    *("Axon", "[Axon, fuzz]", "mit", "<script>alert(1)</script>", "javascript:alert(1)", "é" * 300),
    *(
        "[" + ", ".join("abcdefghij") * 200 + "]",
        "a,b",
        "license:mit",
        "\u202e",
        "{name: x, results: []}",
    ),
]
KNOWN_KEYS = ["tags", "license", "license_name", "license_link", "datasets", "metrics", "title"]
KNOWN_KEYS += ["model-index", "pipeline_tag", "library_name", "language", "base_model", "widget"]
ODD_KEYS = ["1", "~", "true", "[a]", "{a: b}", "<<", "? a\n", "2026-01-01", "''", "&k k", "tags"]
BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(4 * [f'*{chr(97 + n)}'])}]\n" for n in range(20)
)
PROSE = ["# A card\n", "[" * 300, "> " * 300, "<div>" * 300, "![a](" + "(" * 200, "`" * 301, "\0"]
entries = st.tuples(
    st.sampled_from(KNOWN_KEYS + ODD_KEYS) | letters,
    st.sampled_from(SCALARS) | values.map(json.dumps) | letters,
).map(lambda pair: f"{pair[0]}: {pair[1]}\n")
yaml = st.lists(entries, max_size=5).map("".join) | st.sampled_from([BOMB, "- a\n", "x\n", "\n"])


@st.composite
def cards(draw: st.DrawFn) -> bytes:
    """A card whose header is YAML of some kind."""
    fence = draw(st.sampled_from(["---\n", "---\n", "---\r\n", "\ufeff---\n", "--- \n", ""]))
    text = f"{fence}{draw(yaml)}---\n{draw(st.sampled_from(PROSE) | letters)}"
    card = text.encode(errors="surrogatepass")
    return bent(card, *draw(bends)) if draw(places) < 0.2 else card


def card(target: Target, text: bytes) -> None:
    """It is committed, and shown wherever cards are."""
    target.json("POST", "/api/validate-yaml", {"content": text.decode(errors="replace")})
    landed = target.commit(file("README.md", text), repo="fuzz/m")
    assert landed.status == 200, landed.body
    for path in (
        "/api/models/fuzz/m",
        "/api/models/fuzz/m/revision/" + landed.data["commitOid"],
        "/api/models?author=fuzz&full=1&cardData=1&limit=3",
        "/fuzz/m",
        "/fuzz/m/tree/main",
        "/fuzz/m/blob/main/README.md",
        "/models?author=fuzz",
    ):
        answer = target.ask("GET", path, headers={"Accept": "text/html"})
        assert answer.status == 200, (path, answer.body)
    for tag in answered_tags(target):
        target.ask("GET", f"/api/models?limit=3&filter={quote(tag, safe='')}")


def answered_tags(target: Target) -> list[str]:
    return list(target.ask("GET", "/api/models/fuzz/m").data["tags"][:2])


# Signed addresses, Xet ----------------------------------------------------------------------------


def signed(target: Target, drawn: tuple[bytes, tuple[bytes, float, int], int]) -> None:
    """An upload's address and its body, bent."""
    content, bending, cut = drawn
    pointer = large("", content)[1]
    wanted = {"operation": "upload", "objects": [{"oid": pointer["oid"], "size": len(content)}]}
    path = "/fuzz/m.git/info/lfs/objects/batch"
    (offer,) = target.json("POST", path, wanted).data["objects"]
    if "actions" in offer:
        href = offer["actions"]["upload"]["href"].removeprefix(target.url).encode()
        other = bytes(one for one in bent(href[1:], *bending) if 32 < one < 127)
        target.ask("PUT", b"/" + other, content)
        target.ask("PUT", href.decode(), content[:cut])
        target.ask("PUT", href.decode(), content + b"more")
        target.ask("GET", href.decode())


def xet(target: Target, drawn: tuple[Any, ...]) -> None:
    """A xorb and a shard, bent; then as they are, unless they arrived so."""
    number, *bendings = drawn
    given = target.ask("GET", "/api/models/fuzz/m/xet-write-token/main").data
    cas = given["casUrl"].removeprefix(target.url)
    bearer = {"Authorization": f"Bearer {given['accessToken']}"}
    xorb, shard = upload(3000, seed=number)
    for good, rest in ((xorb.data, f"/v1/xorbs/default/{xorb.name}"), (shard.data, "/v1/shards")):
        for bending in bendings:
            assert target.ask("POST", cas + rest, bent(good, *bending), bearer).status in (200, 400)
        assert target.ask("POST", cas + rest, good, bearer).status == 200


BENT = [
    Campaign("commits", bodies(), commit),
    Campaign("JSON bodies", st.tuples(st.sampled_from(JSON_ROUTES), small, types), json_body),
    Campaign("cards", cards(), card),
    Campaign(
        "uploads", st.tuples(st.binary(min_size=1, max_size=99), bends, st.integers(0, 50)), signed
    ),
    Campaign("Xet", st.tuples(st.integers(0, 3), bends, bends), xet),
]
