"""The main job, end to end, with the commands as one would type them.

Run it with `make demo`; what it writes stays in ./demo (or the folder given), to be looked at. The
hub that it publishes to lies there too, so that nobody's own is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.datasets import load_sample_image

HERE = Path(__file__).parent


def say(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def hubtool(*arguments: str, where: Path, last: int | None = None) -> None:
    """Run one command, shown as it would be typed; `last` shows so many lines of its end only."""
    print(f"$ hubtool {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "hubtool", *arguments]
    if last is None:
        subprocess.run(command, cwd=where, check=True)
        return
    lines = subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout
    print("\n".join(["…", *lines.splitlines()[-last:]]), flush=True)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    os.environ["HUBTOOL_HOME"] = str(folder / "home")
    for variable in ("HUBTOOL_HUB", "HF_ENDPOINT"):
        os.environ.pop(variable, None)
    started = time.perf_counter()

    say("A ResNet of the ONNX Model Zoo becomes a native layer graph.")
    print("(The zoo's file cannot be shipped, so this is a sketch of it: its exact structure,")
    print("with random weights. What it answers means nothing; that it answers the same does.)")
    hubtool("zoo", "sketch", "resnet34-v1", "resnet34.onnx", where=folder)
    hubtool("convert", "resnet34.onnx", where=folder)
    hubtool("info", "resnet34", where=folder, last=8)

    say("A real model, trained here on handwritten digits, on every backend.")
    example = [sys.executable, str(HERE / "digits.py"), "--out", str(folder / "digits")]
    subprocess.run(example, check=True)

    say("Both classify pictures.")
    Image.fromarray(load_sample_image("flower.jpg")).save(folder / "flower.png")
    hubtool("run", "resnet34", "flower.png", where=folder)
    hubtool("run", "digits/model", "digits/digit-7.png", "--top", "3", where=folder)

    say("They are published with their cards, on the hub of this machine, and found by tag.")
    hubtool("check", "resnet34", "--for", "axon", where=folder)
    hubtool("zoo", "sketch", "resnet18-v1", "resnet18.onnx", where=folder)
    hubtool("convert", "resnet18.onnx", where=folder, last=1)
    for name in ("resnet34", "resnet18"):
        hubtool("export", name, "--to", "transformers", where=folder)
        hubtool("card", "create", name, "--name", f"axon/{name}-v1", where=folder)
        hubtool("push", name, f"axon/{name}-v1", where=folder)
    hubtool("push", "digits/model", "demo/digits-v1", "--tag", "digits", where=folder)
    hubtool("list", "--tag", "Axon", where=folder)

    say("Fetched again, every file checked against its hash, it gives the same answer.")
    hubtool("pull", "axon/resnet34-v1", "--to", "pulled", where=folder)
    hubtool("check", "pulled", where=folder)
    hubtool("run", "axon/resnet34-v1", "flower.png", where=folder)

    say("One revision, opened by strangers.")
    strangers = [sys.executable, str(HERE / "strangers.py"), "demo/digits-v1"]
    for name in ("resnet34", "resnet18"):
        strangers += ["--resnet", f"axon/{name}-v1={folder / name}.onnx"]
    subprocess.run([*strangers, "--digits", str(folder / "digits")], check=True)

    say("And back to ONNX, at the lowest opset that can say the model.")
    hubtool("export", "resnet34", "resnet34-back.onnx", where=folder)
    hubtool("convert", "resnet34-back.onnx", where=folder)
    compare(folder)
    print(f"\nDone in {time.perf_counter() - started:.0f} s; everything is in {folder.name}/")


def compare(folder: Path) -> None:
    """ONNX Runtime on the first file and on the one that went through a native folder."""
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    logits = []
    for name in ("resnet34.onnx", "resnet34-back.onnx"):
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        logits.append(session.run(None, {"data": x})[0])
    difference = np.max(np.abs(logits[0] - logits[1])) / np.max(np.abs(logits[0]))
    print(f"round trip: largest difference {difference:.1e} of the largest logit")
    if difference > 1e-5:
        sys.exit("the round trip changed the model")


if __name__ == "__main__":
    main()
