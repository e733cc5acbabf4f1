"""What hypothesis sends as addresses, as headers and as HTTP itself; and the list of all campaigns.

The rest of it is in `fuzz_inputs`.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

from hypothesis import strategies as st

from .fuzz import Target
from .fuzz_inputs import BENT, Campaign, dumped, noise, types

__all__ = ["CAMPAIGNS"]


PARTS = ["api", "models", "fuzz", "m", "fuzz%2Fm", "%2F", "%2f..", "..", ".", "%2e%2e", "", "main"]
PARTS += ["resolve", "raw", "tree", "blob", "commits", "commit", "refs", "revision", "README.md"]
PARTS += [
    "%00",
    "%",
    "%zz",
    "%c0%af",
    "%ed%a0%80",
    "%f8%88%80%80%80",
    "%ff",
    "é",
    "a b",
    "\\",
    ";a=b",
]
PARTS += ["m.git", "info", "lfs", "objects", "0" * 64, "xet", "v1", "shards", "a" * 5000, "-", "~"]
PARTS += [
    "none",
    "datasets",
    "spaces",
    "*",
    "%E2%80%AE",
    "#",
    "m?x",
    "settings",
    "user-access-request",
]
ROUTES = ["/api/models/{}", "/api/models/fuzz/m/tree/{}", "/{}", "/fuzz/m/resolve/main/{}"]
ROUTES += [
    "/fuzz/m/blob/{}",
    "/api/models/fuzz/m/revision/{}",
    "/xet/{}/v1/shards",
    "{}",
    "/api/{}",
]
NAMES = ["filter", "search", "author", "sort", "limit", "cursor", "expand", "expand[]", "direction"]
NAMES += ["full", "recursive", "other", "license", "size", "expires", "signature", "blobs", "x", ""]
GIVEN = ["", "0", "1", "-1", "1e3", "9" * 5000, "%00", "%ff", "%", "a%2Cb", "MA==", "%F0%9F%9A%80"]
GIVEN += ["true", "downloads", "١٢", "%EF%BC%91", "a" * 3000, "%22%27%22", "Axon", "%ed%a0%80", "é"]
GIVEN += [
    base64.urlsafe_b64encode(dumped(one)).decode() for one in (["x"], [1, 2], {}, [None, 1e99])
]
RANGES = ["bytes=0-1", "bytes=-1", "bytes=9-1", "bytes=0-1,2-3", "bytes=99999999999999999999-", "é"]
RANGES += ["bytes=-", "bytes=1-" + "9" * 4000, "lines=1-2", "bytes=-0", "bytes= 1 - 2", "\x00"]
METHODS = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]

segments = st.sampled_from(PARTS) | st.text(max_size=6).map(lambda text: quote(text, safe="%"))
tails = st.lists(segments, min_size=1, max_size=6).map("/".join)
queries = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(GIVEN)).map("=".join), max_size=5
).map("&".join)
told = st.fixed_dictionaries(
    {},
    optional={
        "Range": st.sampled_from(RANGES),
        "If-Range": st.sampled_from(['"x"', "W/", "é"]),
        "If-None-Match": st.sampled_from(["*", '"x", W/"y"', ",,", "é"]),
        "Accept": st.sampled_from(["text/html", "*/*", ""]),
        "X-Request-Id": st.sampled_from(["a", "a b", "é", "a" * 300, ""]),
        "Origin": st.sampled_from(["null", "http://evil.example"]),
        "Content-Type": types,
    },
)
addresses = st.tuples(st.sampled_from(METHODS), st.sampled_from(ROUTES), tails, queries, told)


def address(target: Target, drawn: tuple[str, str, str, str, dict[str, str]]) -> None:
    method, route, tail, query, headers = drawn
    path = route.format(tail) + (f"?{query}" if query else "")
    request = f"{method} {path} HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**target.headers, **headers}.items())
    answer = target.raw((request + lines + "\r\n").encode(), method)
    assert answer is not None, path[:300]


def long_addresses(target: Target, length: int) -> None:
    """Very long paths: uvicorn takes 64 KiB of a request's head."""
    for path in ("/" + "a" * length, "/api/models?search=" + "a" * length, "/a" * (length // 2)):
        answer = target.raw(f"GET {path} HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode())
        assert answer is not None


HEADS = [
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 9999999999999999999999\r\n",
    "Content-Length: 1e3\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Expect: 100-continue\r\nContent-Length: 2\r\n",
    "Upgrade: websocket\r\nConnection: upgrade\r\n",
    "Host: evil.example\r\n",
    "Host: 127.0.0.1\r\nHost: evil.example\r\n",
    "Host:\r\n",
    "Host: [::1\r\n",
    "Host: \xff\xfe\r\n",
    "X: " + "a" * 70_000 + "\r\n",
    "X: a\r\n" * 3000,
    " folded: x\r\n",
    "no colon\r\n",
    "A\0B: c\r\n",
    "Authorization: Bearer \xe9\r\n",
    "Authorization: Basic eDp5\r\n",
    "Cookie: a=b\r\n",
]
BODIES = [
    b"",
    b"{}",
    b"2\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n",
    b"zz\r\n{}\r\n",
    b"ffffffffffffffff\r\n{}",
]
BODIES += [
    b"-1\r\n",
    b"2;x=y\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
    b"\xff" * 100,
    b"0\r\n\r\nGET / HTTP/1.1",
]
STARTS = [
    "GET / HTTP/1.1",
    "POST /api/repos/create HTTP/1.1",
    "HEAD /fuzz/m HTTP/1.1",
    "GET / HTTP/9",
]
STARTS += [
    "POST /api/models/fuzz/m/commit/main HTTP/1.1",
    "GET /api/models HTTP/1.0",
    "PRI * HTTP/2.0",
]
STARTS += [
    "GET http://evil.example/api/models HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT a:1 HTTP/1.1",
]
STARTS += ["PUT /fuzz/m.git/info/lfs/objects/" + "0" * 64 + " HTTP/1.1", "GET", "", "\x16\x03\x01"]
STARTS += [
    "POST /xet/x/v1/shards HTTP/1.1",
    "POST /api/validate-yaml HTTP/1.1",
    "GET /\x80 HTTP/1.1",
]
edges = st.tuples(
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(HEADS), max_size=3),
    st.booleans(),
    st.sampled_from(BODIES) | noise,
)


def edge(target: Target, drawn: tuple[str, list[str], bool, bytes]) -> None:
    """What is hardly HTTP. An answer is not due to what breaks off."""
    start, heads, host, body = drawn
    first = f"Host: {target.host}\r\n" if host else ""
    head = f"{start}\r\n{first}{''.join(heads)}\r\n".encode("latin-1")
    target.raw(head + body, start.split(" ")[0] or "GET", whole=False)


def beheaded(target: Target, drawn: tuple[str, str, dict[str, str]]) -> None:
    """HEAD answers what GET does, without its body."""
    route, tail, headers = drawn
    path = quote(route.format(tail), safe="/%")
    plain = {name: value for name, value in headers.items() if value.isascii() and name != "Range"}
    got, head = (target.ask(method, path, headers=plain) for method in ("GET", "HEAD"))
    assert (got.status, got.headers["Content-Type"]) == (head.status, head.headers["Content-Type"])


CAMPAIGNS = [
    *BENT,
    Campaign("addresses", addresses, address),
    Campaign("long addresses", st.integers(60_000, 70_000), long_addresses),
    Campaign("HTTP", edges, edge),
    Campaign("HEAD", st.tuples(st.sampled_from(ROUTES), tails, told), beheaded),
]
