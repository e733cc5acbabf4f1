"""Fine-tune a converted ResNet on handwritten digits, save it, run it everywhere, publish it.

    python examples/finetune.py --out /tmp/finetuned [--base FOLDER]

The way of transfer learning: cut a converted model behind its features, give it a head for other
classes, freeze what shall stay (here the stem and the first stage), train the rest in torch, and
save the graph again as a native folder. Every backend and the exported ONNX must then recognize
exactly as many held-out digits as torch did. By default the base is a sketch of the zoo's
resnet18-v1, whose weights are random: what it knows in the end it learned here, in half a minute.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

import hubtool
from hubtool import zoo

Array = np.ndarray[Any, Any]

SIZE = 16
MEAN, STD = 0.3, 0.4
LABELS = [str(digit) for digit in range(10)]
PREPROCESSING = {
    "channels": "RGB",
    "resize": SIZE,
    "interpolation": "box",
    "crop": SIZE,
    "range": [0, 1],
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "layout": "NCHW",
}


def pictures() -> tuple[Array, Array, Array, Array]:
    """The 8x8 digits of scikit-learn as the model takes them, [N,3,16,16], and their classes: three
    quarters to learn from, then a quarter held out."""
    data = load_digits()
    large = np.repeat(np.repeat(data.images / 16, SIZE // 8, axis=1), SIZE // 8, axis=2)
    x = np.repeat(((large - MEAN) / STD).astype(np.float32)[:, np.newaxis], 3, axis=1)
    learn, held_out, learn_classes, classes = train_test_split(
        x, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    return learn, learn_classes, held_out, classes


def for_digits(base: Path) -> hubtool.Graph:
    """The base up to what its last layer reads, with a head for ten digits and small pictures."""
    graph = hubtool.read(base)
    features = hubtool.features(graph, next(graph.layers[-1].reads()))
    whole = hubtool.with_head(features, LABELS)
    (name,) = whole.inputs  # a ResNet takes any size: its pictures are averaged in the end
    whole.inputs[name] = hubtool.Value("tensor", "float32", ("N", 3, SIZE, SIZE))
    whole.values.clear()  # what was known of the values was known of large pictures
    whole.meta["preprocessing"] = PREPROCESSING
    return whole


def train(module: torch.nn.Module, x: Array, classes: Array, epochs: int) -> list[float]:
    """Train what is not frozen; the mean loss of every epoch."""
    torch.manual_seed(0)
    given, wanted = torch.from_numpy(x), torch.from_numpy(classes)
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=1e-3)
    losses = []
    module.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(module(given[chosen]), wanted[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(x))
        print(f"  epoch {epoch + 1}: loss {losses[-1]:.3f}", flush=True)
    module.eval()
    return losses


def accuracy(logits: Array, classes: Array) -> float:
    return float(np.mean(np.argmax(logits, axis=1) == classes))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Do it all: the losses, the accuracy by who computed it, the names of what was frozen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="folder to write to")
    parser.add_argument("--base", type=Path, help="a converted ResNet; a sketch by default")
    parser.add_argument("--freeze", default="*_conv0_weight,*v15_batchnorm0_*,*stage1_*")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hub", help="where to publish; a hub in the folder by default")
    options = parser.parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    base = options.base or out / "resnet18-v1"
    if options.base is None:
        zoo.sketch("resnet18-v1", out / "resnet18-v1.onnx", overwrite=True)
        hubtool.convert(out / "resnet18-v1.onnx", base, verify=False, overwrite=True)

    learn, learn_classes, held_out, classes = pictures()
    module = hubtool.load(for_digits(base), backend="torch").module()
    frozen = module.freeze(*options.freeze.split(","))
    print(f"{base.name}: {len(frozen)} of {len(module.state_dict())} weights stay as they are.")
    started = time.perf_counter()
    losses = train(module, learn, learn_classes, options.epochs)
    with torch.no_grad():
        found = {"torch": accuracy(module(torch.from_numpy(held_out)).numpy(), classes)}
    print(f"Trained on {len(learn)} digits in {time.perf_counter() - started:.0f} s.\n")

    graph = module.graph(
        f"{base.name}-digits",
        data="scikit-learn's digits (UCI, 1998), three quarters of 1,797",
        epochs=options.epochs,
        accuracy=round(found["torch"], 4),
    )
    hubtool.save(graph, out / "model", overwrite=True)
    for backend in hubtool.backends():
        if backend["available"]:
            logits = hubtool.load(out / "model", backend=backend["name"])(held_out)
            found[f"hubtool on {backend['name']}"] = accuracy(logits, classes)
    hubtool.export(out / "model", out / "exported.onnx", overwrite=True)
    session = onnxruntime.InferenceSession(out / "exported.onnx")
    feeds = {session.get_inputs()[0].name: held_out}
    found["ONNX, exported"] = accuracy(session.run(None, feeds)[0], classes)
    print(f"Accuracy on {len(held_out)} held-out digits:")
    for name, value in found.items():
        print(f"  {name:<24} {value:7.2%}")

    if options.hub is None:
        (out / "hub").mkdir(exist_ok=True)
    done = hubtool.push(out / "model", "demo/resnet18-digits", hub=options.hub or str(out / "hub"))
    print(f"\nPublished: {done.url}")
    return {"losses": losses, "accuracy": found, "frozen": frozen}


if __name__ == "__main__":
    main()
