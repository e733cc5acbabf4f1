"""The lines of a commit's body: JSON, of which one string may be gigabytes long.

A `file` line holds the whole file in base64. Such a line is read piece by piece: its long string is
decoded straight into a writer, and a token stands in for it in what is left, which is short enough
for an ordinary JSON parser. So it does not matter where in the line the content stands.
"""

from __future__ import annotations

import binascii
import re
import secrets
from typing import Any, BinaryIO

from hubtool.formats import strict_json
from hubtool.hub.server.store import Writer

__all__ = ["LINE", "Base64", "check_path", "streamed", "whole"]

LINE = 1 << 16
"""Bytes of a line that are parsed at once; also what a longer one may hold besides its content."""

CHUNK = 1 << 20
SHORT = 1 << 14
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
PATH_BYTES = 1024


def whole(line: bytes) -> dict[str, Any]:
    """The object that a short line holds. ValueError where it is none."""
    found = strict_json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def streamed(start: bytes, body: BinaryIO, writer: Writer) -> dict[str, Any]:
    """The object of a line of any length, of which `start` is read already.

    Its one long string, `content` in `value`, is decoded into the writer; a token is left in its
    place. ValueError where the line is not so.
    """
    line = _Pieces(start, body)
    token = secrets.token_hex(16)
    rest = bytearray()
    longs = 0
    while len(rest) <= LINE and line.ahead():
        rest += line.until_quote()
        if line.at_end():
            continue
        line.reach(SHORT)
        if text := line.short_string():
            rest += text
        else:
            longs += 1
            if longs > 1:
                raise ValueError("more than one long text in a line")
            line.long_string(Base64(writer))
            rest += b'"%s"' % token.encode()
    if len(rest) > LINE:
        raise ValueError(f"more than {LINE} bytes besides a file's content")
    found = whole(bytes(rest))
    value = found.get("value")
    if not isinstance(value, dict) or value.get("content") != token:
        raise ValueError("only the content of a file may be that long")
    return found


class Base64:
    """Base64 in pieces of any length, decoded into a writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._rest = b""
        self._ended = False

    def feed(self, text: bytes) -> None:
        """The next piece. ValueError where it is no base64."""
        text = self._rest + text
        length = len(text) // 4 * 4
        fours, self._rest = text[:length], text[length:]
        if (text and self._ended) or fours.endswith(b"==="):
            raise ValueError("the content goes on behind the end of its base64")
        try:
            self._writer.write(binascii.a2b_base64(fours, strict_mode=True))
        except binascii.Error as error:
            raise ValueError(f"the content is no base64: {error}") from None
        self._ended = fours.endswith(b"=")

    def end(self) -> None:
        """Nothing follows. ValueError where something should."""
        if self._rest:
            raise ValueError("the content is no base64: its length is no multiple of four")


class _Pieces:
    """One line of a stream, with a window on it that moves forward."""

    def __init__(self, start: bytes, body: BinaryIO) -> None:
        self._body = body
        self._window = start
        self._at = 0

    def at_end(self) -> bool:
        """Whether nothing is left in the window."""
        return self._at >= len(self._window)

    def ahead(self) -> bool:
        """Whether anything is left of the line."""
        return not self.at_end() or self._more()

    def reach(self, length: int) -> None:
        """See that many bytes ahead, or to the end of the line."""
        while len(self._window) - self._at < length and self._more():
            pass

    def until_quote(self) -> bytes:
        """What comes before the next string, as far as the window goes."""
        quote = self._window.find(b'"', self._at)
        return self._take(len(self._window) if quote < 0 else quote)

    def short_string(self) -> bytes:
        """The string that begins here, if its end can be seen; else nothing."""
        match = STRING.match(self._window, self._at, self._at + SHORT)
        return self._take(match.end()) if match else b""

    def long_string(self, base64: Base64) -> None:
        """Decodes the string that begins here; of escapes only `\\/` can stand in base64."""
        self._at += 1
        carry = b""
        while True:
            end = self._window.find(b'"', self._at)
            text = carry + self._take(len(self._window) if end < 0 else end)
            carry = b"\\" if end < 0 and text.endswith(b"\\") else b""
            base64.feed(text.removesuffix(carry).replace(b"\\/", b"/"))
            if end >= 0:
                break
            if not self._more():
                raise ValueError("not JSON: a text without an end")
        self._at += 1
        base64.end()

    def _take(self, end: int) -> bytes:
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def _more(self) -> bool:
        if self._window.endswith(b"\n"):
            return False
        piece = self._body.readline(CHUNK)
        self._window = self._window[self._at :] + piece
        self._at = 0
        return bool(piece)


def check_path(path: str) -> None:
    """ValueError with the reason why a path cannot be one of a repository's files."""
    parts = path.split("/")
    if not path:
        raise ValueError("an empty path")
    if len(path.encode()) > PATH_BYTES:
        raise ValueError(f"a path of more than {PATH_BYTES} bytes")
    if re.search(r"[\x00-\x1f\x7f-\x9f]", path):
        raise ValueError("a control character in the path")
    if "\\" in path:
        raise ValueError("a backslash in the path, which some systems take for a '/'")
    if path.startswith("/"):
        raise ValueError("an absolute path")
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError("an empty part, '.' or '..' in the path")
    if any(part.lower() == ".git" for part in parts):
        raise ValueError("'.git' in the path")
