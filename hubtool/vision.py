"""Pictures in, labelled classes out.

How a picture becomes an input is a fact about the model, so it stands in the model's own metadata
(`graph.meta["preprocessing"]`), every step of it, in the order in which it is done:

    channels       "RGB", "BGR" or "L" (grey)
    resize         the length of the shorter side, in pixels
    interpolation  "nearest", "box", "bilinear", "bicubic" or "lanczos"
    crop           the side of the square that is cut out of the centre
    range          what black and white become: [0, 1], [-1, 1], [0, 255]
    mean, std      x = (x - mean) / std, a number for each channel
    layout         "NCHW" or "NHWC"

Nothing is guessed: a missing or unknown key is an error, and so is a model that does not say.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubtool.errors import InputError, ReadError

if TYPE_CHECKING:
    from PIL.Image import Image

    from hubtool.model import Model

__all__ = [
    "PRESETS",
    "classify",
    "imagenet_labels",
    "load_image",
    "preprocess",
    "preprocessing",
    "read_labels",
    "top_k",
]

Array = Any
Spec = dict[str, Any]

PRESETS: dict[str, Spec] = {
    "imagenet": {
        "channels": "RGB",
        "resize": 256,
        "interpolation": "bilinear",
        "crop": 224,
        "range": [0, 1],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "layout": "NCHW",
    },
}
"""Preprocessing by name. "imagenet" is what the ONNX Model Zoo's ResNets were trained with."""

CHANNELS = ("RGB", "BGR", "L")
INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
LAYOUTS = ("NCHW", "NHWC")

LARGEST_SIDE = 4096
"""The largest `resize`: what a model's file says must not decide how much memory is taken."""

SMALLEST_STD = 1e-6


def preprocessing(spec: str | Mapping[str, Any]) -> Spec:
    """A preprocessing that is known to be whole: a preset by name, or the dict given, checked.

    Raises InputError with everything that is wrong with it.

    Example: `hubtool.vision.preprocessing({**PRESETS["imagenet"], "crop": 192})`
    """
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise InputError(
                f"there is no preprocessing named '{spec}'",
                hint=f"Known are {', '.join(PRESETS)}; or give a dict, all keys of it.",
            )
        return deepcopy(PRESETS[spec])
    problems = _problems(spec) if isinstance(spec, Mapping) else [f"it is {spec!r}, no dict"]
    if problems:
        raise InputError(
            "this preprocessing cannot be used:",
            problems=problems,
            hint=f"A whole one is {json.dumps(PRESETS['imagenet'])}.",
        )
    return deepcopy(dict(spec))


def _problems(spec: Mapping[str, Any]) -> list[str]:
    known = PRESETS["imagenet"]
    problems = [f"unknown key '{key}'" for key in spec if key not in known]
    problems += [f"'{key}' is missing" for key in known if key not in spec]
    for key, choices in (
        ("channels", CHANNELS),
        ("interpolation", INTERPOLATIONS),
        ("layout", LAYOUTS),
    ):
        if key in spec and spec[key] not in choices:
            problems.append(f"'{key}' is {spec[key]!r}, not one of {', '.join(choices)}")
    sizes = {key: spec[key] for key in ("resize", "crop") if key in spec}
    wrong = [key for key, size in sizes.items() if not _is_size(size)]
    problems += [
        f"'{key}' is {sizes[key]!r}, not a number of pixels from 1 to {LARGEST_SIDE}"
        for key in wrong
    ]
    if len(sizes) == 2 and not wrong and sizes["crop"] > sizes["resize"]:
        problems.append(f"'crop' ({sizes['crop']}) is larger than 'resize' ({sizes['resize']})")
    channels = 1 if spec.get("channels") == "L" else 3
    for key, count in {"range": 2, "mean": channels, "std": channels}.items():
        if key in spec and not _are_numbers(spec[key], count):
            problems.append(f"'{key}' is {spec[key]!r}, not a list of {count} plain numbers")
        elif key == "std" and key in spec and min(spec[key]) < SMALLEST_STD:
            problems.append(f"'std' is {spec[key]!r}, and {SMALLEST_STD} is the least")
    return problems


def _is_size(value: Any) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and 1 <= value <= LARGEST_SIDE


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        and all(abs(v) < 1e6 for v in values)
    )


def load_image(path: str | os.PathLike[str]) -> Image:
    """The picture of a file, upright, as 8-bit "L" (where it is grey) or "RGB".

    Turned as its EXIF orientation says; what is transparent is laid on white; of 16 bits the
    upper 8 are kept; of an animation the first frame. Raises ReadError.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return _eight_bits(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be an attack"
        hint = "Make the picture smaller first."
    except FileNotFoundError:
        problem, hint = "there is no such file", "Check the name."
    except UnidentifiedImageError:
        problem, hint = "it is no picture of a kind that Pillow reads", "Give a PNG or a JPEG."
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them meet
        problem = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        hint = "It may be damaged, cut off, or of a kind that Pillow cannot turn into RGB."
    raise ReadError(f"cannot read the picture '{path}': {problem}", hint=hint)


def _eight_bits(image: Image) -> Image:
    """Any picture as "L" or "RGB"."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise ValueError("its 32-bit numbers do not say what black and white are")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its floating-point numbers do not say what black and white are")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return image.convert(mode)


def preprocess(image: Image, spec: str | Mapping[str, Any]) -> Array:
    """The input that a model takes for a picture: float32 [1,C,H,W], or [1,H,W,C] for "NHWC".

    Raises InputError where the spec is not whole, or the picture is a mere line.
    """
    spec = preprocessing(spec)
    grey = spec["channels"] == "L"
    image = _eight_bits(image).convert("L" if grey else "RGB")
    x: Array = np.asarray(_crop(_resize(image, spec), spec["crop"]), np.float32)
    if grey:
        x = x[:, :, np.newaxis]
    elif spec["channels"] == "BGR":
        x = x[:, :, ::-1]
    black, white = spec["range"]
    x = x * np.float32((white - black) / 255) + np.float32(black)
    x = (x - np.asarray(spec["mean"], np.float32)) / np.asarray(spec["std"], np.float32)
    if spec["layout"] == "NCHW":
        x = x.transpose(2, 0, 1)
    return np.ascontiguousarray(x[np.newaxis])


def _resize(image: Image, spec: Spec) -> Image:
    """The picture with its shorter side at `resize`; the longer one in proportion, rounded down."""
    from PIL import Image

    width, height = image.size
    shorter = min(width, height)
    size = (spec["resize"] * width // shorter, spec["resize"] * height // shorter)
    if math.prod(size) > 4 * LARGEST_SIDE**2:
        raise InputError(
            f"a picture of {width} x {height} pixels would become one of {size[0]} x {size[1]}",
            hint="Cut out the part that matters first.",
        )
    return image.resize(size, Image.Resampling[spec["interpolation"].upper()])


def _crop(image: Image, side: int) -> Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def classify(model: Model, image: Any, top: int = 5) -> list[tuple[str, float]]:
    """The `top` most probable classes of a picture, as (label, probability).

    image: a file's name, a PIL image, or an array that the model takes as it is. Raises InputError
    where the model's metadata do not say how a picture becomes an input, and ReadError.

    Example: `hubtool.vision.classify(hubtool.load("resnet34"), "cat.jpg")[0]`
    """
    from PIL import Image

    meta = model.graph.meta
    if isinstance(image, str | os.PathLike):
        image = load_image(image)
    if isinstance(image, Image.Image):
        if "preprocessing" not in meta:
            raise InputError(
                f"the model '{meta.get('name', '?')}' does not say how a picture becomes an input",
                hint="Convert it again with `--preprocess imagenet`, or your own (docs/format.md).",
            )
        image = preprocess(image, meta["preprocessing"])
    return top_k(model(image), meta.get("labels"), top)


def top_k(logits: Array, labels: list[str] | None, k: int) -> list[tuple[str, float]]:
    """The k most probable of one row of classes, the likeliest first; all where there are fewer.

    Numbers that are at least 0 and sum to 1 (within 1e-3) are taken for probabilities, others for
    logits, and go through softmax. Without labels a class is "class 281". Raises InputError.
    """
    values = np.asarray(logits).astype(np.float64)
    if not values.size or values.size != max(values.shape, default=1):
        raise InputError(
            f"the classes of one picture are wanted, and this has shape {list(values.shape)}",
            hint="Give one row at a time.",
        )
    values = values.reshape(-1)
    problems = [] if k >= 1 else [f"the number of classes to show is {k}, and at least 1 is wanted"]
    if not np.isfinite(values).all():
        problems.append("its output holds NaN or infinity")
    if labels is not None and not _are_labels(labels):
        problems.append("its labels are no list of strings")
    elif labels is not None and len(labels) != len(values):
        problems.append(f"it has {len(values)} classes and {len(labels)} labels")
    if problems:
        raise InputError("the model's output cannot be read as classes:", problems=problems)
    if values.min() < 0 or abs(values.sum() - 1) > 1e-3:
        values = np.exp(values - values.max())
        values /= values.sum()
    best = np.argsort(-values, kind="stable")[:k]
    return [(labels[i] if labels else f"class {i}", float(values[i])) for i in best]


def imagenet_labels() -> list[str]:
    """The names of ILSVRC2012's 1,000 classes, in the order of the zoo's outputs."""
    path = resources.files("hubtool").joinpath("data", "imagenet_labels.txt")
    return path.read_text(encoding="utf-8").splitlines()


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """The labels of a file, in the order of the classes; "imagenet" stands for ILSVRC2012's.

    The file holds one a line (a WordNet identifier before each, as in the zoo's synset.txt, is
    taken off), or as .json a list, or an object {"0": label, …}. Raises ReadError.
    """
    if path == "imagenet":
        return imagenet_labels()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        labels = _json_labels(text) if Path(path).suffix == ".json" else _line_labels(text)
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    else:
        return labels
    raise ReadError(
        f"cannot read labels from '{path}': {problem}",
        hint='Write one label a line; or a JSON list, or {"0": label, …}, in a .json file.',
    )


def _line_labels(text: str) -> list[str]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or "" in lines:
        raise ValueError(f"line {lines.index('') + 1} is empty" if lines else "it is empty")
    synset = re.compile(r"n\d{8}\s+")
    if all(map(synset.match, lines)):
        return [synset.sub("", line, count=1) for line in lines]
    return lines


def _json_labels(text: str) -> list[str]:
    found = json.loads(text)
    if isinstance(found, dict):
        indices = [str(index) for index in range(len(found))]
        if set(found) != set(indices):
            raise ValueError('its keys are not "0", "1", …')
        found = [found[index] for index in indices]
    if not isinstance(found, list) or not found:
        raise ValueError("it holds neither a list nor an object, or an empty one")
    if not _are_labels(found):
        raise ValueError("not every label in it is a string")
    return list(found)


def _are_labels(labels: Any) -> bool:
    return isinstance(labels, list) and all(isinstance(label, str) for label in labels)
