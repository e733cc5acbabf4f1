"""Keeping the hub running: until a signal comes (`serve`), or beside a caller (`Background`).

One process, one event loop, a pool of workers: uvicorn speaks HTTP. The socket is bound here, so
that a port that is taken is told in plain words, and that a client may connect before the loop
turns. Stopping closes idle connections at once, gives answers under way a few seconds, and leaves
neither thread nor socket behind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from hubtool.errors import HubError
from hubtool.files import telling
from hubtool.hub.server.app import App, create_app
from hubtool.hub.server.auth import is_loopback
from hubtool.hub.server.limits import PER_WINDOW

__all__ = ["Background", "serve"]

GRACE_S = 5
KEEP_ALIVE_S = 30
LOGGERS = ("hubtool.hub", "uvicorn.error")
for name in LOGGERS:
    logging.getLogger(name).addHandler(logging.NullHandler())  # who wants to hear it says so


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers, and ends as soon as it is told to."""

    def __init__(self, app: App, running: Callable[[], object]) -> None:
        self._running = running
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    def stop(self) -> None:
        """End, from any thread or from a signal."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server, and then nothing else: no traceback, no status."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        told = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in told}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    lfs: bool = False,
    proxy: str = "",
    limit: int = PER_WINDOW,
    announce: Callable[[str], object] = lambda url: None,
) -> None:
    """Serve the hub in a folder until SIGINT or SIGTERM; `announce` is told the address.

    As long as the hub has no users, whoever reaches it on this machine's own addresses may do
    everything, and on others it is read only. With users, writing needs a token everywhere; in
    clear, since this speaks no TLS: on a network put a proxy that does in front, and tell its
    address (`proxy`), which also ends what nobody needed a token for. limit: requests of one kind
    that one client may make in five minutes; 0 for any number. The log goes to stderr. Raises
    HubError, WriteError.
    """
    proxy = proxy.rstrip("/")
    address = urlsplit(proxy)
    if proxy and (address.scheme not in ("http", "https") or not address.hostname or address.path):
        raise HubError(
            f"'{proxy}' is no address of a proxy", hint="Give one such as https://hub.example.org."
        )
    settings = {
        "open_writes": is_loopback(host) and not proxy,  # who comes by a proxy may be anybody
        "lfs": lfs,
        "url": proxy,
        "hosts": [address.hostname] if address.hostname and is_loopback(host) else None,
        "limit": limit,
    }
    with _bound(host, port) as listening, _opened(root, **settings) as app, _logging():
        url = _url(host, listening.getsockname()[1])
        _Server(app, lambda: announce(url)).run(sockets=[listening])


class Background:
    """The hub in a folder, on 127.0.0.1 and a free port, in a thread: for the length of a block.

    key: a token that is good for everything, whatever users the hub has.
    Example: `with Background(Path("hub")) as url: ...`
    """

    def __init__(self, root: Path, *, lfs: bool = False, key: str = "") -> None:
        self._root, self._lfs, self._key = root, lfs, key
        self._stack = ExitStack()

    def start(self) -> str:
        """Its address, where it answers from now on. Raises HubError, WriteError."""
        running = threading.Event()
        with ExitStack() as stack:
            listening = stack.enter_context(_bound("127.0.0.1", 0))
            app = stack.enter_context(
                _opened(self._root, open_writes=True, lfs=self._lfs, key=self._key)
            )
            server = _Server(app, running.set)

            def run() -> None:
                try:
                    server.run(sockets=[listening])
                finally:
                    running.set()

            thread = threading.Thread(target=run, name="hubtool-hub", daemon=True)
            url = _url(*listening.getsockname())
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
            running.wait()
            if not server.started:
                raise HubError(f"the hub in '{self._root}' did not start", hint="Try again.")
            self._stack = stack.pop_all()
        return url

    def stop(self) -> None:
        """End it; a second time does nothing."""
        self._stack.close()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@contextmanager
def _opened(root: Path, **settings: Any) -> Iterator[App]:
    """The application over a folder, which is made if need be."""
    with telling(root):
        root.mkdir(parents=True, exist_ok=True)
        app = create_app(root, **settings)
    try:
        yield app
    finally:
        app.close()


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. Raises HubError."""
    if not 0 <= port <= 65535:
        raise HubError(f"{port} is no port", hint="Choose one from 1 to 65535, or 0 for any.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise HubError(
                f"port {port} of {host} is taken",
                hint="Choose another with --port, or stop what listens there.",
            ) from error
        raise HubError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}",
            hint="Name an address of this machine with --host, and a port that you may use.",
        ) from error
    with listening:
        # asyncio overlooks sockets made so; without it every answer waits for the client's
        # acknowledgement of its headers, about 40 ms. Connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listening


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _logging() -> Iterator[None]:
    """What the server tells goes to stderr, a line a request."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, (logging.INFO, logging.WARNING), strict=True):
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
