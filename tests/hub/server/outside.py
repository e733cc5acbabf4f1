"""Where programs would go that know of one hub only: a proxy notes it, and lets nobody out."""

from __future__ import annotations

import socketserver
import threading


class Outside:
    """`with Outside() as outside: ...`; `outside.asked` are the hosts that somebody wanted."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Refusing(socketserver.StreamRequestHandler):
            timeout = 30

            def handle(self) -> None:
                line = self.rfile.readline(8192).decode("ascii", "replace").split()
                asked.append(line[1] if len(line) > 1 else "?")
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def environment(self) -> dict[str, str]:
        """What a machine behind such a proxy has set."""
        url = "http://{}:{}".format(*self._server.server_address)
        return {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "127.0.0.1"}

    def __enter__(self) -> Outside:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
