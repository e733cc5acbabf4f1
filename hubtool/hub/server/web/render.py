"""Templates filled in, the headers that every page bears, and refusals as pages.

Whatever goes into a template is escaped by Jinja, except the one HTML that `card` has cleaned. The
Content-Security-Policy is the second wall: no script runs, whoever wrote it, styles and pictures
come from this hub only, and no other site may frame a page. Jinja is imported with the first page,
since most hubs of hubtool's commands never show one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from hubtool.hub.server import errors

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["HEADERS", "found_by", "page", "refused", "seen", "style", "wants_page"]

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Vary": "Accept",
}
TITLES = {
    400: "This address asks for what cannot be",
    401: "You would have to say who you are",
    403: "This is not open to you",
    404: "There is nothing here",
    405: "Nothing is read here",
    500: "The hub failed",
    503: "The hub is busy",
}
UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb]"
)
"""Characters that show nothing, or turn round how others are shown: `a\\u202etxt.exe`."""


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A page: a template of templates/ filled in."""
    html = _environment().get_template(template).render(values)
    return Response(html, status, HEADERS, media_type="text/html")


def style() -> Response:
    """The one style sheet; its address changes with it, so that it may be kept for good."""
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(_style(), headers=headers, media_type="text/css")


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks, and for no part of the API."""
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in request.headers.get("accept", "")
        and not request.scope["path"].startswith("/api/")
    )


def refused(refusal: errors.Refusal, headers: Mapping[str, str]) -> Response:
    """A refusal as a page, with the headers that programs read too."""
    title = TITLES.get(refusal.status, "This did not work")
    response = page("refused.html", refusal.status, title=title, message=refusal.message)
    response.headers.update(headers)
    return response


@cache
def _style() -> bytes:
    return (HERE / "style.css").read_bytes()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": _bytes, "day": _day, "seen": seen, "thousands": "{:,}".format}
    environment.globals |= {
        "found_by": found_by,
        "style": f"/-/style.css?{hashlib.sha256(_style()).hexdigest()[:12]}",
    }
    return environment


def found_by(tag: str) -> str:
    """The address of the models that have a tag. `other` splits at commas, `filter` does not."""
    return f"/models?{urlencode({'filter' if ',' in tag else 'other': tag})}"


def seen(text: str) -> str:
    """A stranger's text with every character that would not be seen written out."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _bytes(size: int) -> str:
    """A size for people: `87.3 MB`."""
    if size < 1000:
        return f"{size} bytes"
    number, units = size / 1000, iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    while number >= 999.95:
        number, _ = number / 1000, next(units)
    return f"{number:.1f} {next(units)}"


def _day(date: str) -> str:
    """A date of the database for people: `31 January 2026`."""
    try:
        return f"{datetime.fromisoformat(date):%-d %B %Y}"
    except ValueError:
        return date
