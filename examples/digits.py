"""Train a small ResNet on handwritten digits, convert it, run it everywhere, and write it back.

    python examples/digits.py --out /tmp/digits
    hubtool run /tmp/digits/model /tmp/digits/digit-7.png

The whole way of a model of one's own: train in torch, export to ONNX, `hubtool.convert` with its
labels and its preprocessing, then every backend that is available here, and ONNX again. All of
them must recognize exactly as many held-out digits as torch did. It takes about ten seconds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import hubtool

Array = np.ndarray[Any, Any]

EPOCHS = 10
MEAN, STD = 0.3, 0.4
PREPROCESSING = {
    "channels": "L",
    "resize": 8,
    "interpolation": "box",
    "crop": 8,
    "range": [0, 1],
    "mean": [MEAN],
    "std": [STD],
    "layout": "NCHW",
}


class Block(nn.Module):
    """Relu(shortcut(x) + norm(conv(Relu(norm(conv(x))))))"""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels:
            conv = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y))
        total: Tensor = self.shortcut(x) + y
        return total.relu()


def small_resnet() -> nn.Sequential:
    """8x8 grey pictures in, ten logits out; 78,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, stride=1),
        Block(16, 32, stride=2),
        Block(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[Array, Array, Array, Array]:
    """Pictures (0 to 1, [N,8,8]) and classes to learn from, then those held out: a quarter."""
    data = load_digits()
    learn, held_out, learn_classes, held_out_classes = train_test_split(
        data.images / 16, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    return learn, learn_classes, held_out, held_out_classes


def as_input(pictures: Array) -> Array:
    """What PREPROCESSING makes of pictures of the right size."""
    x: Array = ((pictures[:, np.newaxis] - MEAN) / STD).astype(np.float32)
    return x


def train(x: Array, classes: Array) -> nn.Sequential:
    """A network that learned from these pictures, ready to be used."""
    torch.manual_seed(0)
    pictures, targets = torch.from_numpy(x), torch.from_numpy(classes)
    network = small_resnet().train()
    batch = 64
    steps = EPOCHS * (len(pictures) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pictures))
        for chosen in order.split(batch)[: len(pictures) // batch]:
            loss = nn.functional.cross_entropy(network(pictures[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def export(network: nn.Sequential, path: Path) -> None:
    """Write the network as ONNX with an open batch size; BatchNormalization stays in the file."""
    with warnings.catch_warnings():
        # torch's newer exporter wants one package more; the older one is enough, and says that
        # it is the older one.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            path,
            input_names=["picture"],
            output_names=["logits"],
            dynamic_axes={"picture": {0: "N"}, "logits": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )


def write_pictures(pictures: Array, classes: Array, folder: Path) -> list[Path]:
    """The first picture of each digit as digit-0.png … digit-9.png, eight times as large."""
    paths = []
    for digit in range(10):
        picture = pictures[np.flatnonzero(classes == digit)[0]]
        image = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
        paths.append(folder / f"digit-{digit}.png")
        image.resize((64, 64), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def accuracy(logits: Array, classes: Array) -> float:
    return float(np.mean(np.argmax(logits, axis=1) == classes))


def show(name: str, value: float) -> None:
    print(f"  {name:<24} {value:7.2%}")


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Do it all; the accuracy on the held-out digits by who computed it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits"), help="folder to write to")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)

    learn, learn_classes, held_out, classes = digits()
    started = time.perf_counter()
    network = train(as_input(learn), learn_classes)
    print(f"Trained on {len(learn)} digits in {time.perf_counter() - started:.1f} s.\n")
    export(network, out / "digits.onnx")
    report = hubtool.convert(
        out / "digits.onnx",
        out / "model",
        labels=[str(digit) for digit in range(10)],
        preprocess=PREPROCESSING,
        overwrite=True,
    )
    print(f"{report}\n")

    x = as_input(held_out)
    with torch.no_grad():
        found = {"torch, the original": accuracy(network(torch.from_numpy(x)).numpy(), classes)}
    for backend in hubtool.backends():
        if backend["available"]:
            logits = hubtool.load(out / "model", backend=backend["name"])(x)
            found[f"hubtool on {backend['name']}"] = accuracy(logits, classes)
    hubtool.export(out / "model", out / "exported.onnx", overwrite=True)
    session = onnxruntime.InferenceSession(out / "exported.onnx")
    found["ONNX, exported again"] = accuracy(session.run(None, {"picture": x})[0], classes)
    print(f"Accuracy on {len(held_out)} held-out digits:")
    for name, value in found.items():
        show(name, value)

    print("\nPictures:")
    model = hubtool.load(out / "model")
    for path in write_pictures(held_out, classes, out):
        label, probability = hubtool.classify(model, path, top=1)[0]
        print(f"  {path.name}  shows {label}  ({probability:.1%})")
    return found


if __name__ == "__main__":
    main()
