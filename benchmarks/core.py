"""Start-up, conversion and loading, beside their peers: `make bench`.

Every variant runs in a process of its own, interleaved (A B C A B C …); what is quoted is the
median, and the ratio to the peer of the same round. Two times are taken: of the whole process from
outside, imports and all, and of the work alone from inside. Peak memory is the process's own
maximum resident set; memory-mapped pages count once they are touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

TIMED = """
import time
{imports}
started = time.perf_counter()
{work}
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Variant:
    """Something to be measured: a Python program, or a command."""

    name: str
    imports: str
    work: str

    def command(self) -> list[str]:
        return [sys.executable, "-c", TIMED.format(imports=self.imports, work=self.work)]


@dataclass(frozen=True)
class Sample:
    process: float
    work: float
    peak: float


def measure(command: list[str], folder: Path) -> Sample:
    """One process: seconds outside, seconds inside, peak MiB."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.perf_counter() - started
        out.seek(0)
        printed = out.read().decode().split()
    if process.returncode != 0:
        sys.exit(f"failed: {command}")
    inside = float(printed[-1]) if printed and printed[-1][0].isdigit() else elapsed
    return Sample(elapsed, inside, usage.ru_maxrss / 1024)


def compare(
    title: str, variants: list[Variant], peer: str, time_of: str, folder: Path, rounds: int
) -> str:
    """A table of the variants; the ratios are to the variant named `peer`, round by round;
    `time_of` says of which time: "process" or "work"."""
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in variants}
    for count in range(rounds + 1):
        for variant in variants:
            for left in folder.glob("out*"):
                subprocess.run(["rm", "-rf", str(left)], check=True)
            sample = measure(variant.command(), folder)
            if count:  # the first round warms the page cache and Python's bytecode
                samples[variant.name].append(sample)
    lines = [
        f"### {title}\n",
        f"| | process, s | work, s | {time_of} / peer | peak, MiB | peak / peer |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, taken in samples.items():
        process, work, peak = (
            statistics.median(getattr(sample, key) for sample in taken)
            for key in ("process", "work", "peak")
        )
        ratios = [
            statistics.median(
                getattr(ours, key) / getattr(theirs, key)
                for ours, theirs in zip(taken, samples[peer], strict=True)
            )
            for key in (time_of, "peak")
        ]
        times = f"{process:.3f} | {work:.4f} | {ratios[0]:.2f}"
        lines.append(f"| {name} | {times} | {peak:.0f} | {ratios[1]:.2f} |")
    return "\n".join(lines) + "\n"


HELP = Variant(
    "hubtool --help",
    "import contextlib, io, sys",
    "sys.argv = ['hubtool', '--help']\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n"
    "    import hubtool.cli\n"
    "    try:\n        hubtool.cli.main()\n    except SystemExit:\n        pass",
)
START = [
    Variant("python -c pass", "", "pass"),
    HELP,
    Variant("import onnx", "", "import onnx"),
    Variant("import onnxruntime", "", "import onnxruntime"),
]
CONVERT = [
    Variant("onnx.load + onnx.save", "import onnx", "onnx.save(onnx.load('m.onnx'), 'out.onnx')"),
    Variant(
        "hubtool.convert(verify=False)",
        "import hubtool",
        "hubtool.convert('m.onnx', 'out', verify=False)",
    ),
    Variant(
        "hubtool.convert, verified", "import hubtool", "hubtool.convert('m.onnx', 'out-verified')"
    ),
    Variant("hubtool.export", "import hubtool", "hubtool.export('native', 'out-export.onnx')"),
]
LOAD = [
    Variant("onnx.load", "import onnx", "m = onnx.load('m.onnx')"),
    Variant(
        "onnxruntime.InferenceSession",
        "import onnxruntime",
        "m = onnxruntime.InferenceSession('m.onnx')",
    ),
    Variant("hubtool.read(folder)", "import hubtool.formats.native", "m = hubtool.read('native')"),
    *(
        Variant(
            f"hubtool.load(folder, backend='{backend}')",
            f"import hubtool.formats.native, hubtool.backends.{backend}",
            f"m = hubtool.load('native', backend='{backend}')",
        )
        for backend in ("numpy", "onnxruntime", "torch")
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default="resnet50-v1")
    parser.add_argument("--json", action="store_true", help="print the machine's facts as JSON")
    options = parser.parse_args()
    packages = ("hubtool", "onnx", "onnxruntime", "torch", "numpy")
    facts = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
    if options.json:
        print(json.dumps(facts))
    print(", ".join(f"{key} {value}" for key, value in facts.items()), "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In processes of their own: a child's peak memory begins with that of its parent.
        hubtool = [sys.executable, "-m", "hubtool"]
        for arguments in (
            ["zoo", "sketch", options.model, "m.onnx"],
            ["convert", "m.onnx", "native", "--no-verify"],
        ):
            subprocess.run([*hubtool, *arguments], cwd=folder, check=True, capture_output=True)
        size = (folder / "m.onnx").stat().st_size / 2**20
        print(f"{options.model}: {size:.0f} MiB; medians of {options.rounds} interleaved rounds\n")
        rounds = options.rounds
        print(compare("Start-up", START, "import onnx", "process", folder, rounds))
        print(compare("Conversion", CONVERT, "onnx.load + onnx.save", "work", folder, rounds))
        print(compare("Loading", LOAD, "onnx.load", "work", folder, rounds))


if __name__ == "__main__":
    main()
