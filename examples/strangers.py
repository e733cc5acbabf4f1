"""One published revision, opened by readers that know nothing of one another.

    python examples/digits.py --out digits
    hubtool push digits/model demo/digits-v1
    python examples/strangers.py demo/digits-v1 --digits digits --resnet axon/resnet34-v1=r34.onnx

Each row is a reader: what it is, its version, the sha256 of the weights as *it* read them (each
name, a line feed and its bytes, by name), how far its logits are from those of ONNX Runtime on the
file that torch exported (as a part of the largest), and its accuracy on the held-out digits. The
official client and the JavaScript reader share no line with hubtool but the format. A ResNet that
was exported for transformers too is opened by it, beside ONNX Runtime on the file it came from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import hubtool

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from digits import Array, accuracy, as_input, digits, small_resnet  # noqa: E402


@dataclass
class Answer:
    """What one reader found. missing: why it could not be asked here, or not for all."""

    reader: str
    version: str = ""
    sha256: str = ""
    logits: Array | None = None
    missing: str = ""


def weights_sha256(tensors: Mapping[str, Any]) -> str:
    """The digest that every reader takes of the weights as it read them."""
    made = hashlib.sha256()
    for name in sorted(tensors):
        made.update(f"{name}\n".encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return made.hexdigest()


def by_hubtool(name: str, revision: str, x: Array) -> Iterator[Answer]:
    """hubtool itself, on each backend that is here."""
    for backend in hubtool.backends():
        if backend["available"]:
            model = hubtool.load(name, revision=revision, backend=backend["name"])
            tensors = {key: tensor.array for key, tensor in model.graph.tensors.items()}
            yield Answer(
                f"hubtool on {backend['name']}",
                hubtool.__version__,
                weights_sha256(tensors),
                model(x),
            )


def by_onnxruntime(name: str, revision: str, x: Array, work: Path) -> Answer:
    """ONNX Runtime on the ONNX file that is exported from the revision."""
    file = work / "exported.onnx"
    hubtool.export(hubtool.read(name, revision=revision), file)
    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(file).graph.initializer
    }
    session = onnxruntime.InferenceSession(file)
    logits = session.run(None, {session.get_inputs()[0].name: x})[0]
    reader = "ONNX Runtime, exported ONNX"
    return Answer(reader, onnxruntime.__version__, weights_sha256(tensors), logits)


def by_hf(folder: Path, x: Array) -> Answer:
    """What `hf download` brought, read by safetensors into torch's own modules."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    network = small_resnet().eval()
    # Two biases that are added to each other learn the same; torch's exporter writes one of them.
    twins = {
        key: tensors[key.replace("shortcut.1", "norm2")]
        for key in network.state_dict()
        if key.endswith("shortcut.1.bias") and key not in tensors
    }
    left_out = network.load_state_dict({**tensors, **twins}, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in left_out.missing_keys), left_out
    assert not left_out.unexpected_keys, left_out
    with torch.no_grad():
        logits = network(torch.from_numpy(x)).numpy()
    digest = weights_sha256({key: tensor.numpy() for key, tensor in tensors.items()})
    return Answer("hf download, torch modules", version("huggingface_hub"), digest, logits)


def by_javascript(folder: Path, x: Array, work: Path) -> Answer:
    """The reader in JavaScript, on what `hf download` brought."""
    node = shutil.which("node")
    if node is None:
        return Answer("JavaScript reader", missing="Node is not installed")
    x.astype("<f4").tofile(work / "x.f32")
    command = [node, str(HERE / "reader_run.mjs"), str(folder), str(work / "x.f32")]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    logits = np.array(told["logits"], np.float32).reshape(len(x), -1)
    return Answer("JavaScript reader", told["version"], told["sha256"], logits)


def by_elixir(name: str, revision: str, x: Array, work: Path, url: str) -> Answer:
    """axon_hub.ex: looked up, fetched and verified by Elixir itself; run where Axon is there."""
    elixir = shutil.which("elixir")
    if elixir is None:
        return Answer("axon_hub.ex", missing="Elixir is not installed")
    source = hubtool.write_axon_hub(work / "axon_hub.ex")
    x.astype("<f4").tofile(work / "pictures.f32")
    script = [str(HERE / "axon_run.exs"), str(source), url, name, revision]
    command = [elixir, *script, str(work / "cache"), str(work / "pictures.f32"), str(x.shape[-1])]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    found = Answer("axon_hub.ex", f"ex {told['version']}", told["sha256"])
    if told["logits"]:
        found.logits = np.array(told["logits"], np.float32).reshape(len(x), -1)
    else:
        found.missing = "weights fetched and verified; there is no Axon here to run them"
    return found


def by_transformers(name: str, folder: Path, source: Path) -> tuple[Answer, Array]:
    """What AutoModelForImageClassification makes of the subfolder `transformers`, and what ONNX
    Runtime makes of the file that the model was converted from, on the same random picture."""
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    expected = onnxruntime.InferenceSession(source).run(None, {"data": x})[0]
    reader = f"transformers, {name.rpartition('/')[2]}"
    try:
        import torch
        from transformers import AutoModelForImageClassification
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        return Answer(reader, missing="transformers is not installed"), expected
    disable_progress_bar()
    with (folder / "transformers" / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    model = AutoModelForImageClassification.from_pretrained(folder, subfolder="transformers")
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(x)).logits.numpy()
    return Answer(reader, version("transformers"), digest, logits), expected


@contextmanager
def served() -> Iterator[str]:
    """The address of `hubtool serve` over the embedded hub, for the length of the block."""
    command = [sys.executable, "-m", "hubtool", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            yield server.stderr.readline().split()[0]
        finally:
            server.terminate()
            server.communicate()


def hf_download(name: str, revision: str, work: Path, url: str) -> Path:
    """The folder that the official client fetches, unmodified, from the served hub."""
    folder = work / name.replace("/", "--")
    command = ["hf", "download", name, "--revision", revision, "--local-dir", str(folder)]
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(work / "hf-home")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    beside = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder


def main(arguments: list[str] | None = None) -> list[Answer]:
    """Ask every reader and print the table; the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the model's id on the embedded hub")
    parser.add_argument("--digits", type=Path, default=Path("digits"), help="of digits.py --out")
    parser.add_argument("--resnet", action="append", default=[], metavar="ID=FILE.onnx")
    given = parser.parse_args(arguments)
    revision = hubtool.model_info(given.name).revision

    _, _, held_out, classes = digits()
    x = as_input(held_out)
    original = onnxruntime.InferenceSession(given.digits / "digits.onnx")
    expected = original.run(None, {"picture": x})[0]
    with tempfile.TemporaryDirectory() as temporary, served() as url:
        work = Path(temporary)
        folder = hf_download(given.name, revision, work, url)
        answers = [
            *by_hubtool(given.name, revision, x),
            by_onnxruntime(given.name, revision, x, work),
            by_hf(folder, x),
            by_javascript(folder, x, work),
            by_elixir(given.name, revision, x, work, url),
        ]
        print(f"{given.name} at {revision[:12]}, {len(x)} held-out digits")
        columns = ("reader", "version", "sha256 of the weights", "difference", "accuracy")
        print("{:<28} {:<10} {:<22} {:>10} {:>8}".format(*columns))
        for answer in answers:
            print(_row(answer, expected, classes))
        for pair in given.resnet:
            name, _, source = pair.partition("=")
            folder = hf_download(name, hubtool.model_info(name).revision, work, url)
            answer, expected = by_transformers(name, folder, Path(source))
            answers.append(answer)
            print(_row(answer, expected, None))
    return answers


def _row(answer: Answer, expected: Array, classes: Array | None) -> str:
    if answer.logits is None:
        digest = f"{answer.version:<10} {answer.sha256[:20]}…  " if answer.sha256 else ""
        return f"{answer.reader:<28} {digest}{answer.missing}"
    difference = np.max(np.abs(answer.logits - expected)) / np.max(np.abs(expected))
    share = "untrained" if classes is None else f"{accuracy(answer.logits, classes):.2%}"
    return (
        f"{answer.reader:<28} {answer.version:<10} {answer.sha256[:20]}…  {difference:>10.1e} "
        f"{share:>8}"
    )


if __name__ == "__main__":
    main()
