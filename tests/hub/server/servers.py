"""`serve` in a process of its own, to be measured, killed and signalled."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import sys
import tempfile
from pathlib import Path
from hubtool.hub.server.run import serve
serve(Path(sys.argv[1]), host=sys.argv[2], port=int(sys.argv[3]), lfs=sys.argv[4] == "lfs",
      limit=0, announce=lambda url: print(url, flush=True))
"""


class Served:
    """A hub served by another process; as a context it ends with the block, by SIGTERM."""

    def __init__(
        self, root: Path, *, host: str = "127.0.0.1", port: int = 0, lfs: bool = False
    ) -> None:
        arguments = [str(root), host, str(port), "lfs" if lfs else "regular"]
        # A pipe that nobody reads would fill up.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def peak_mb(self) -> float:
        """The most memory that the process ever had (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1000

    def log(self) -> str:
        """What it has written to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Its exit status, and what it wrote to stdout and stderr."""
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=30)
        self._log.seek(0)
        return self.process.returncode, out, self._log.read()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.end()
        self._log.close()
