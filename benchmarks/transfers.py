"""Large files going out and coming in: `python benchmarks/transfers.py`.

    python benchmarks/transfers.py [--size 500] [--clients 16] [--rounds 5] [--upload 2000]
                                   [--part downloads | uploads] [--json FILE]

**Downloads.** `hubtool serve` and nginx send the same file of so many megabytes to curl, which
throws it away: one curl at a time, then so many at once. Interleaved, the first of the two changing
each round; medians, and the median of the ratios of each round. Server and clients share a machine,
so this is about what a server costs, not about networks. The bytes' sha256 is checked once. nginx
runs with sendfile, a worker a core, and a configuration of its own in a temporary folder.

**Uploads.** A file of random bytes goes up to a server of its own each time: in a commit as base64
(sent by this program, since the official client would hold it in memory), and by the official
client over Git LFS and over Xet. The server's memory is its own VmHWM, the most it ever had.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MB = 1_000_000
PIECE = 3 << 20  # three bytes are four characters of base64
BESIDE = Path(sys.executable).parent
NAME = "bench/large"
NGINX = """
daemon off; worker_processes auto; pid {here}/pid; error_log {here}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on;
    client_body_temp_path {here}/1; proxy_temp_path {here}/2; fastcgi_temp_path {here}/3;
    uwsgi_temp_path {here}/4; scgi_temp_path {here}/5;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A program that serves, and where."""

    url: str
    process: subprocess.Popen[bytes]

    def peak_mb(self) -> float:
        """The most memory that the process ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / MB


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def hub(root: Path, *options: str) -> Iterator[Server]:
    """`hubtool serve` over a folder, on a free port."""
    log = root.with_suffix(".log")
    command = [sys.executable, "-m", "hubtool", "serve", str(root), "--port", "0", *options]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream)
    with ending(process):
        while not log.read_text().startswith("http"):
            if process.poll() is not None:
                sys.exit(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        yield Server(log.read_text().split()[0], process)


@contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """nginx over a folder, on a port that was free just now."""
    with tempfile.TemporaryDirectory() as temporary, socket.create_server(("127.0.0.1", 0)) as free:
        here, port = Path(temporary), free.getsockname()[1]
        free.close()
        # Its workers may be another user's, who must get at the file.
        here.chmod(0o755)
        (here / "conf").write_text(NGINX.format(here=here, port=port, root=folder))
        command = [program("nginx"), "-c", str(here / "conf"), "-e", str(here / "error.log")]
        process = subprocess.Popen(command)
        with ending(process):
            for _ in range(500):
                if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                    break
                time.sleep(0.02)
            yield Server(f"http://127.0.0.1:{port}", process)


def program(name: str) -> str:
    """Where a program is; the benchmark ends where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        package = {"nginx": "nginx-light"}.get(name, name)
        sys.exit(f"{name} is missing: apt-get install {package}, or measure --part uploads only")
    return found


def random_file(path: Path, megabytes: int) -> str:
    """Fills a file with random bytes; their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for _ in range(megabytes):
            piece = os.urandom(MB)
            digest.update(piece)
            stream.write(piece)
    return digest.hexdigest()


def downloads(given: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    program("nginx"), program("curl")
    place.chmod(0o755)
    (place / "files").mkdir()
    sha256 = random_file(place / "files" / "w.bin", given.size)
    with hub(place / "hub", "--lfs") as server:
        by_client(server, place / "files" / "w.bin", place, HF_HUB_DISABLE_XET="1")
    with hub(place / "hub") as ours, nginx(place / "files") as theirs:
        urls = {"hubtool serve": f"{ours.url}/{NAME}/resolve/main/w.bin"}
        urls["nginx"] = f"{theirs.url}/w.bin"
        for url in urls.values():
            check(url, sha256)
        rows = []
        for clients in (1, given.clients):
            rows += compared(urls, clients, given)
        rows[0]["peak_mb"] = rows[2]["peak_mb"] = ours.peak_mb()
    return rows


def compared(urls: dict[str, str], clients: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """So many clients at each server in turns; megabytes a second, all clients together."""
    speeds: dict[str, list[float]] = {name: [] for name in urls}
    for count in range(given.rounds + 1):
        for name in sorted(urls, reverse=count % 2 == 0):
            speed = clients * given.size / curls(urls[name], clients)
            if count:  # the first round warms the page cache
                speeds[name].append(speed)
    peer = speeds["nginx"]
    return [
        {
            "server": name,
            "clients": clients,
            "mb_per_s": statistics.median(every),
            "ratio": statistics.median(a / b for a, b in zip(every, peer, strict=True)),
            "lowest_ratio": min(a / b for a, b in zip(every, peer, strict=True)),
        }
        for name, every in speeds.items()
    ]


def curls(url: str, clients: int) -> float:
    """Seconds until so many curls have the file."""
    command = ["curl", "--silent", "--show-error", "--fail", "--output", os.devnull, url]
    started = time.perf_counter()
    running = [subprocess.Popen(command) for _ in range(clients)]
    statuses = [process.wait() for process in running]
    if any(statuses):
        sys.exit(f"curl failed: {url}")
    return time.perf_counter() - started


def check(url: str, sha256: str) -> None:
    with subprocess.Popen(["curl", "--silent", "--fail", url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    if found != sha256:
        sys.exit(f"{url} sends other bytes: their sha256 is {found}, not {sha256}")


def by_commit(server: Server, path: Path, place: Path) -> None:
    """The file as base64 inside of a commit, in pieces."""

    def body() -> Iterator[bytes]:
        yield b'{"key": "header", "value": {"summary": "large"}}\n'
        yield b'{"key": "file", "value": {"path": "w.bin", "encoding": "base64", "content": "'
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                yield base64.b64encode(piece)
        yield b'"}}\n'

    def ask(target: str, data: Any) -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=600)
        connection.request("POST", target, data, encode_chunked=not isinstance(data, bytes))
        answer = connection.getresponse()
        if answer.status != 200:
            sys.exit(f"{target}: {answer.status} {answer.read()!r}")
        connection.close()

    ask("/api/repos/create", json.dumps({"name": NAME}).encode())
    ask(f"/api/models/{NAME}/commit/main", body())


def by_client(server: Server, path: Path, place: Path, **variables: str) -> None:
    """The file by `hf upload`, which makes the repository too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {"HF_ENDPOINT": server.url, "HF_HOME": str(place / "hf"), **variables}
    environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    command = [str(BESIDE / "hf"), "upload", NAME, str(path), "w.bin", "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stdout}\n{done.stderr}")


def uploads(given: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    def by_lfs(server: Server, path: Path, place: Path) -> None:
        by_client(server, path, place, HF_HUB_DISABLE_XET="1")

    ways: dict[str, tuple[Callable[[Server, Path, Path], None], list[str]]] = {
        "commit, base64": (by_commit, []),
        "Git LFS": (by_lfs, ["--lfs"]),
        "Xet": (by_client, []),
    }
    path, rows = place / "w.bin", []
    sha256 = random_file(path, given.upload)
    for number, (name, (way, options)) in enumerate(ways.items()):
        root = place / f"hub-{number}"
        with hub(root, *options) as server:
            before, started = server.peak_mb(), time.perf_counter()
            way(server, path, place)
            seconds, peak = time.perf_counter() - started, server.peak_mb()
            check(f"{server.url}/{NAME}/resolve/main/w.bin", sha256)
        by_xet = any(file.is_file() for file in (root / "xorbs").rglob("*"))
        if by_xet != (name == "Xet"):
            sys.exit(f"the file did not go up by {name}")
        rows.append({"way": name, "before_mb": before, "peak_mb": peak, "seconds": seconds})
        shutil.rmtree(root)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=500, help="MB of the file that is downloaded")
    parser.add_argument("--clients", type=int, default=16, help="downloads at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upload", type=int, default=2000, help="MB of the file that is uploaded")
    parser.add_argument("--part", choices=["downloads", "uploads"], help="both, if not given")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for part in (downloads, uploads):
        if given.part in (None, part.__name__):
            with tempfile.TemporaryDirectory() as temporary:
                found[part.__name__] = part(given, Path(temporary))
            tell(part.__name__, found[part.__name__], given)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def tell(part: str, rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """The figures as a table."""
    if part == "downloads":
        print(f"\n| {given.size} MB by curl | clients | MB/s | ratio | lowest |")
        print("|---|--:|--:|--:|--:|")
        for row in rows:
            speed, ratio, lowest = row["mb_per_s"], row["ratio"], row["lowest_ratio"]
            print(
                f"| {row['server']} | {row['clients']} | {speed:.0f} | {ratio:.2f} | {lowest:.2f} |"
            )
        print(f"\nhubtool's server had {rows[0]['peak_mb']:.0f} MB of memory at the most")
        return
    print(f"\n| {given.upload} MB up | memory before | at the most | time |\n|---|--:|--:|--:|")
    for row in rows:
        before, peak, seconds = row["before_mb"], row["peak_mb"], row["seconds"]
        print(f"| {row['way']} | {before:.0f} MB | {peak:.0f} MB | {seconds:.1f} s |")


if __name__ == "__main__":
    main()
