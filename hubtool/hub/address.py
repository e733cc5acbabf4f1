"""Which hub is meant, and which token may go there.

    --hub  >  HUBTOOL_HUB  >  HF_ENDPOINT  >  the embedded hub under HUBTOOL_HOME

A hub is "hf" (huggingface.co), a URL, "embedded", or a folder with an embedded hub of its own. The
public never happens by accident: huggingface.co is meant only where somebody says so.

A token goes only to the host that it was made for. HUBTOOL_TOKEN belongs to the hub of HUBTOOL_HUB;
HF_TOKEN to that of HF_ENDPOINT, or to huggingface.co where HF_ENDPOINT is not set; what `hf auth
login` stored, to huggingface.co. Any other hub gets none. (The official client would send HF_TOKEN
to every endpoint.)
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hubtool.cache import home
from hubtool.errors import HubError, InputError

__all__ = ["HUGGING_FACE", "SERVED", "Hub", "check_name", "is_name", "resolve"]

HUGGING_FACE = "https://huggingface.co"
SERVED = "http://127.0.0.1:7860"
"""Where `hubtool serve` listens unless told otherwise."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Hub:
    """A hub: at `url`, or embedded over `folder` (one of them is None).

    key: under what its models are kept in the cache. token: what may be sent there, if anything.
    """

    url: str | None
    folder: Path | None
    key: str
    token: str | None = None

    def __str__(self) -> str:
        if self.folder is not None:
            return f"the embedded hub ({_short(self.folder)})"
        return str(self.url).removeprefix("https://")


def resolve(hub: str | None = None) -> Hub:
    """The hub that is meant by "hf", a URL, "embedded" or a folder; by the environment where
    nothing is given. Raises InputError for what is none of these.

    Example: `resolve("hf").url`
    """
    said = hub or os.environ.get("HUBTOOL_HUB") or os.environ.get("HF_ENDPOINT") or "embedded"
    if said == "embedded":
        return Hub(url=None, folder=home() / "hub", key="embedded")
    if said == "hf" or "://" in said:
        url = HUGGING_FACE if said == "hf" else _url(said)
        return Hub(url=url, folder=None, key=_host(url).replace(":", "_"), token=_token(url))
    folder = Path(said).expanduser()
    if not folder.is_dir():
        near = f"https://{said}" if "." in said.strip(".") and "/" not in said else "hf"
        raise InputError(
            f"there is no hub '{said}': it is no URL, and no folder that exists",
            hint=f"Did you mean --hub {near}? For a hub of its own in a folder, make that first.",
        )
    place = folder.resolve()
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    return Hub(url=None, folder=place, key=f"folder-{digest}")


def is_name(text: str) -> bool:
    """Whether this can be the id of a model on a hub, such as "axon/resnet34-v1"."""
    return (
        NAME.fullmatch(text) is not None
        and len(text) <= 96
        and not any(bad in text for bad in ("--", ".."))
        and not text.endswith((".git", ".ipynb", "-", "."))
    )


def check_name(text: str) -> str:
    """The id itself. Raises InputError where it cannot be one."""
    if not is_name(text):
        raise InputError(
            f"'{text}' is no id of a model on a hub",
            hint="An id is namespace/name, such as axon/resnet34-v1: letters, digits, '-', '_', "
            "'.', at most 96 of them, no '--' or '..', beginning with a letter or digit.",
        )
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            f"'{_without_password(text)}' is no address of a hub",
            hint="It looks like https://hub.example.org, with no user, password or question mark; "
            "a token goes into HUBTOOL_TOKEN, the address into HUBTOOL_HUB.",
        )
    return text.rstrip("/")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", text)


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()


def _token(url: str) -> str | None:
    """The token that was made for this hub's host, or None."""
    for hub, token in (("HUBTOOL_HUB", "HUBTOOL_TOKEN"), ("HF_ENDPOINT", "HF_TOKEN")):
        said = os.environ.get(hub, "")
        if os.environ.get(token) and _same_host(HUGGING_FACE if said == "hf" else said, url):
            return os.environ[token].strip()
    if not _same_host(url, HUGGING_FACE):
        return None
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    if not os.environ.get("HF_ENDPOINT") or not os.environ.get("HF_TOKEN"):
        return get_token()
    # HF_TOKEN belongs to the other hub, and get_token() would prefer it.
    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HubError(f"cannot read the token of `hf auth login`: {error.strerror}") from error


def _same_host(one: str, other: str) -> bool:
    """Scheme, host and port: a token must not travel over http because https was meant."""
    return bool(one) and urlsplit(one.lower())[:2] == urlsplit(other.lower())[:2]


def _short(path: Path) -> str:
    """A path as one writes it at home."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
