"""One connection to a hub, and everything that can go wrong on it, told once.

huggingface_hub speaks to every hub. What it raises becomes a HubError here that says what was
wanted, of which hub, why not, and what to do next. Its HTTP client is ours in three respects: a
connection that cannot be made, or falls silent, is given up after a while; the embedded hub is
reached directly whatever proxy is set; and HF_HUB_OFFLINE does not stop at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import hubtool
from hubtool.errors import HubError
from hubtool.hub import embedded
from hubtool.hub.address import HUGGING_FACE, SERVED, Hub

__all__ = ["Connection", "UnreachableError", "answered", "connect"]

CONNECT, SILENCE = 10.0, 120.0
"""Seconds to wait for a connection, and for the next bytes on one."""


class UnreachableError(HubError):
    """The hub did not answer at all, or must not be asked."""


ASKING: ContextVar[tuple[Hub, str] | None] = ContextVar("ASKING", default=None)
"""Which hub the code that runs here asks, and what for."""


@dataclass(frozen=True)
class Connection:
    """A hub that can be asked: `api` is huggingface_hub's HfApi for it, `token` what it sends."""

    hub: Hub
    url: str
    token: str | None
    api: Any

    @property
    def headers(self) -> dict[str, str]:
        """What a request of our own carries: who asks, and the token if there is one."""
        from huggingface_hub.utils import build_hf_headers

        return dict(
            build_hf_headers(
                token=self.token or False,
                library_name="hubtool",
                library_version=hubtool.__version__,
            )
        )

    def web(self, name: str, revision: str) -> str:
        """The address of a model, to be shown to a person; where the hub is embedded, the one that
        it has while `hubtool serve` runs."""
        url = self.url if self.hub.folder is None else SERVED
        return f"{url}/{name}/tree/{quote(revision, safe='')}"


@contextmanager
def connect(hub: Hub, wanted: str) -> Iterator[Connection]:
    """A connection for the length of the block; for an embedded hub the server runs as long.

    wanted: what the block does, for messages: "list models". Raises HubError.
    """
    if hub.folder is not None:
        with (
            embedded.running(hub.folder) as (url, key),
            _connected(hub, url, key, wanted) as connection,
        ):
            yield connection
    else:
        with _connected(hub, str(hub.url), hub.token, wanted) as connection:
            yield connection


@contextmanager
def _connected(hub: Hub, url: str, token: str | None, wanted: str) -> Iterator[Connection]:
    from huggingface_hub import HfApi

    class Api(HfApi):
        def _validate_yaml(self, *content: Any, **options: Any) -> None:
            """Cards are linted before, more strictly; asking the hub would only warn again."""

    _use_our_client()
    asking = ASKING.set((hub, wanted))
    api = Api(
        endpoint=url,
        token=token or False,
        library_name="hubtool",
        library_version=hubtool.__version__,
    )
    try:
        yield Connection(hub, url, token, api)
    except (OSError, RuntimeError, ValueError) as error:
        known = _told(error, hub, wanted)
        if known is None:
            raise
        raise known from error
    except Exception as error:
        if not _is_transport(error):
            raise
        raise _unreachable(hub, wanted, error) from error
    finally:
        ASKING.reset(asking)


def _use_our_client() -> None:
    """Let huggingface_hub make its HTTP clients as this module says, unless the program that uses
    us has set a factory of its own."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    if _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory:
        set_client_factory(_client)


def _client() -> Any:
    import httpx2
    from huggingface_hub.utils._http import hf_request_event_hook

    class Client(httpx2.Client):
        def send(self, request: Any, **options: Any) -> Any:
            """Where no connection can be made, one attempt is enough to say so: huggingface_hub
            would try again for half a minute."""
            try:
                return super().send(request, **options)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
                asking = ASKING.get()
                if asking is None:
                    raise
                raise _unreachable(*asking, error) from error

    def unless_embedded(request: Any) -> None:
        if request.url.netloc.decode() not in embedded.ADDRESSES:
            hf_request_event_hook(request)

    return Client(
        event_hooks={"request": [unless_embedded]},
        follow_redirects=True,
        timeout=httpx2.Timeout(SILENCE, connect=CONNECT),
        mounts={"all://127.0.0.1": httpx2.HTTPTransport()},
    )


def _is_transport(error: BaseException) -> bool:
    import httpx2

    return isinstance(error, httpx2.TransportError)


def _told(error: BaseException, hub: Hub, wanted: str) -> HubError | None:
    """What huggingface_hub raised, as a HubError; None where it is not about the hub."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError | ValueError) and error.__cause__ is not None:
        if _is_transport(error.__cause__):
            return _unreachable(hub, wanted, error.__cause__)
        return _told(error.__cause__, hub, wanted)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnreachableError(
            f"cannot {wanted} at {hub}: HF_HUB_OFFLINE is set",
            hint="Unset it to use the network. Pulled models and the embedded hub need none.",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return answered(error, hub, wanted)
    return None


def _unreachable(hub: Hub, wanted: str, error: BaseException) -> HubError:
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"cannot {wanted}: {hub} cannot be reached ({reason})",
        hint="Check the network and the address, or name another hub with --hub.",
    )


def answered(error: Any, hub: Hub, wanted: str) -> HubError:
    """An answer of 400 and above."""
    from huggingface_hub import errors

    status = error.response.status_code
    said = (error.response.headers.get("X-Error-Message") or error.server_message or "").strip()
    reason, hint = _meaning(status, said, hub)
    if isinstance(error, errors.GatedRepoError):
        reason, hint = "it is gated", f"Ask for access on its page at {hub}, then try again."
    elif isinstance(error, errors.RevisionNotFoundError):
        reason, hint = said or "it has no such revision", "`hubtool info ID` shows what it has."
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = "there is no such model, or it is private"
        hint = "`hubtool list` shows what there is" + (
            "." if hub.token else "; a private one needs the token of that hub (docs/hub.md)."
        )
    elif isinstance(error, errors.EntryNotFoundError):
        reason, hint = said or "it has no such file", "`hubtool info ID` lists its files."
    return HubError(f"cannot {wanted} at {hub}: {reason}", hint=hint)


def _meaning(status: int, said: str, hub: Hub) -> tuple[str, str]:
    """Why, and what to do next, by the status of an answer."""
    if status == 401:
        if not hub.token:
            return said or "it wants a token, and there is none for it", _login(hub)
        return said or "it does not know the token", _login(hub)
    if status == 403:
        return said or "the token may not do that", _login(hub)
    if status == 412:
        return (
            said or "someone else published there in the meantime",
            "Nothing was changed. Look at what is there now, and push again.",
        )
    if status == 429:
        return said or "too many requests", "Wait a little, and try again."
    if status == 507:
        return said or "its disk is full", "Nothing was published. Free some space there."
    if status >= 500:
        return said or f"it failed (status {status})", "Try again later, or ask who runs it."
    return said or f"it refused (status {status})", ""


def _login(hub: Hub) -> str:
    if hub.url == HUGGING_FACE:
        return "Log in with `hf auth login`, or set HF_TOKEN to a token that may do it."
    return "Set HUBTOOL_HUB to its address and HUBTOOL_TOKEN to a token that may do it."
