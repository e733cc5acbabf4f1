"""The hub beside its peer, the official client, on one server: `make bench`.

    python benchmarks/hub.py [--models 1000] [--mebibytes 1024] [--rounds 5]

`hubtool serve` runs over a hub of so many models. Listing by tag is timed from the shell, imports
and all, as `hubtool list` on the embedded hub (which starts and stops a server each time), on the
served one, and as `hf models ls`; the server's own log says how long the answers took. Then a model
of so many bytes goes up and comes down, by hubtool and by `hf` (over LFS, HF_HUB_DISABLE_XET=1; it
does not check what it fetched). Interleaved, medians; the ratio is to the official client. The
server's peak memory is its own VmHWM.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from huggingface_hub import CommitOperationAdd, HfApi

import hubtool
from hubtool import Graph, Layer, Tensor, Value
from hubtool.hub.server.run import Background

BESIDE = Path(sys.executable).parent
ANSWER = re.compile(r"GET /api/models\?\S* 200 ([\d.]+) ms|GET /api/models 200 ([\d.]+) ms")


def fill(root: Path, models: int) -> None:
    """A hub of so many models, a tenth of them tagged Axon."""
    with Background(root) as url:
        api = HfApi(endpoint=url, token=False)
        for number in range(models):
            name = f"team{number % 20}/model-{number}"
            tag = "Axon" if number % 10 == 0 else "other"
            card = f"---\nlicense: apache-2.0\ntags:\n- {tag}\n---\n# Model {number}\n"
            api.create_repo(name)
            readme = CommitOperationAdd("README.md", card.encode())
            api.create_commit(name, [readme], commit_message="card")


def large_model(folder: Path, mebibytes: int) -> None:
    """A native folder with one large weight, random so that nothing can shrink it."""
    columns = mebibytes * 256
    weights = np.random.default_rng(0).standard_normal((1024, columns), np.float32)
    graph = Graph(
        layers=[Layer("product", "MatMul", {"A": "x", "B": "w"}, ["y"])],
        inputs={"x": Value("tensor", "float32", ("N", 1024))},
        outputs={"y": Value("tensor", "float32", ("N", columns))},
        tensors={"w": Tensor.of(weights)},
        meta={"name": "large"},
    )
    hubtool.save(graph, folder)
    hubtool.create_card(folder)


class Server:
    """`hubtool serve` in a process of its own, with its log."""

    def __init__(self, root: Path, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "hubtool", "serve", str(root), "--port", "0", "--lfs"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stderr=stream)
        while not log.read_text().startswith("http"):
            if self.process.poll() is not None:
                sys.exit(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        self.url = log.read_text().split()[0]

    def peak_mebibytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024

    def answers(self) -> list[float]:
        """Milliseconds that each list took in the server, by its log."""
        return [float(one or other) for one, other in ANSWER.findall(self.log.read_text())]


@contextmanager
def served(root: Path, log: Path) -> Iterator[Server]:
    server = Server(root, log)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


def timed(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


def table(title: str, rows: dict[str, list[float]], peer: str) -> None:
    print(f"\n| {title} | time | ratio |\n|---|--:|--:|")
    for name, times in rows.items():
        ratio = statistics.median(a / b for a, b in zip(times, rows[peer], strict=True))
        print(f"| {name} | {statistics.median(times):.2f} s | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUBTOOL_"))}
        plain |= {"HUBTOOL_HOME": str(place / "home"), "HF_HOME": str(place / "hf")}
        plain |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        print(f"Filling a hub with {given.models} models …", file=sys.stderr)
        fill(place / "home" / "hub", given.models)
        with served(place / "home" / "hub", place / "log") as server:
            listing(server, plain, given.rounds, given.models)
            transfer(server, plain, place, given.rounds, given.mebibytes)


def listing(server: Server, plain: dict[str, str], rounds: int, models: int) -> None:
    to_server = plain | {"HF_ENDPOINT": server.url}
    commands = {
        "`hubtool list --tag Axon`, embedded": (
            [str(BESIDE / "hubtool"), "list", "--tag", "Axon"],
            plain,
        ),
        "`hubtool list --tag Axon`, served": (
            [str(BESIDE / "hubtool"), "list", "--tag", "Axon"],
            to_server,
        ),
        "`hf models ls --filter Axon`, served": (
            [str(BESIDE / "hf"), "models", "ls", "--filter", "Axon", "--limit", "21"],
            to_server,
        ),
    }
    rows: dict[str, list[float]] = {name: [] for name in commands}
    for count in range(rounds + 1):
        for name, (command, environment) in commands.items():
            seconds = timed(command, environment)
            if count:  # the first round warms the page cache and Python's bytecode
                rows[name].append(seconds)
    table(f"listing {models} models by tag, whole process", rows, list(rows)[-1])
    print(f"\nin the server's log: {statistics.median(server.answers()):.1f} ms (median)")


def transfer(
    server: Server, plain: dict[str, str], place: Path, rounds: int, mebibytes: int
) -> None:
    environment = plain | {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
    large_model(place / "large", mebibytes)
    up: dict[str, list[float]] = {"`hubtool push`": [], "`hf upload`": []}
    down: dict[str, list[float]] = {"`hubtool pull`, every hash checked": [], "`hf download`": []}
    for count in range(rounds):
        # Other bytes each time, or the server would have them already.
        graph = hubtool.read(place / "large")
        weights = np.roll(graph.tensors["w"].array, 1)
        graph.tensors["w"] = Tensor.of(weights)
        hubtool.save(graph, place / "large", overwrite=True)
        pushed, uploaded = f"team/pushed-{count}", f"team/uploaded-{count}"
        commands = {
            "`hubtool push`": ["hubtool", "push", str(place / "large"), pushed],
            "`hubtool pull`, every hash checked": ["hubtool", "pull", pushed],
            "`hf download`": ["hf", "download", pushed],
        }
        for name, command in commands.items():
            rows = up if name in up else down
            rows[name].append(timed([str(BESIDE / command[0]), *command[1:]], environment))
        graph.tensors["w"] = Tensor.of(np.roll(weights, 1))
        hubtool.save(graph, place / "large", overwrite=True)
        upload = [str(BESIDE / "hf"), "upload", uploaded, str(place / "large")]
        up["`hf upload`"].append(timed(upload, environment))
        shutil.rmtree(place / "home" / "pulled")
        shutil.rmtree(place / "hf")
    table(f"{mebibytes} MiB up", up, "`hf upload`")
    table(f"{mebibytes} MiB down", down, "`hf download`")
    print(f"\nserver's peak memory: {server.peak_mebibytes():.0f} MiB")


if __name__ == "__main__":
    main()
