"""The folder that transformers (and Bumblebee, where it is right) opens in one line.

    config.json                how the net is built, and what its classes are called
    model.safetensors          the weights under transformers' own names
    preprocessor_config.json   how a picture becomes its input, where the model says so

Only a ResNet whose topology is the one of transformers' `ResNetForImageClassification` can be said
this way (https://huggingface.co/docs/transformers/model_doc/resnet); whether a graph is one,
`transformers_resnet` reads off its wiring. Normalizations stay normalizations, so the net can be
trained further.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubtool import files
from hubtool.errors import UnsupportedError
from hubtool.formats import safetensors
from hubtool.formats.native_elements import parts
from hubtool.formats.transformers_resnet import resnet
from hubtool.graph import Graph

__all__ = ["bumblebee", "fits", "write"]

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}
"""Pillow's numbers of the interpolations, which transformers and Bumblebee use."""

SIDE = 224
"""The only height and width that Bumblebee's ResNet takes."""

BUMBLEBEE_ACTIVATIONS = {"gelu", "leaky_relu", "mish", "relu", "relu6", "sigmoid", "silu", "tanh"}
"""What hidden_act may say so that Axon has an activation of the same name and meaning."""


def fits(graph: Graph) -> list[str]:
    """Why the graph is no ResNet of transformers, layer by layer; empty where it is one.

    Example: `fits(hubtool.read("resnet18-v2"))`
    """
    try:
        resnet(graph)
    except UnsupportedError as error:
        return error.problems
    return []


def write(graph: Graph, folder: Path) -> dict[str, Any]:
    """Write the files into `folder`, which is new or empty; the facts that a card should tell.

    files: their names. layer_type: "basic" or "bottleneck". labels, preprocessing: why the
    model's own could not be written; "" where they were. bumblebee: where Bumblebee 0.7 would not
    compute the same; "" where it does. Raises UnsupportedError with all reasons, WriteError.

    Example: `write(hubtool.read("resnet34"), Path("resnet34/transformers"))`
    """
    net = resnet(graph)
    (classes,) = net.tensors["classifier.1.bias"].shape
    names, labels_missing = _labels(graph.meta.get("labels"), classes)
    processor, processor_missing = _processor(
        graph.meta.get("preprocessing"), net.config["num_channels"]
    )
    documents = {"config.json": _config(net.config, names)}
    if processor:
        documents["preprocessor_config.json"] = processor
    stored = [part for key, tensor in net.tensors.items() for part in parts(key, tensor)]
    with files.telling(folder):
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.write(folder / "model.safetensors", stored, {"format": "pt"})
        for name, document in documents.items():
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    return {
        "files": sorted([*documents, "model.safetensors"]),
        "layer_type": net.config["layer_type"],
        "labels": labels_missing,
        "preprocessing": processor_missing,
        "bumblebee": _bumblebee(graph, net.config, processor),
    }


def bumblebee(graph: Graph) -> str:
    """Where Bumblebee 0.7 would not compute what `write` says of a graph that fits; "" where it
    does. Raises UnsupportedError for one that does not fit."""
    net = resnet(graph)
    processor, _ = _processor(graph.meta.get("preprocessing"), net.config["num_channels"])
    return _bumblebee(graph, net.config, processor)


def _config(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        **config,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "torch_dtype": "float32",
    }


def _labels(labels: Any, classes: int) -> tuple[list[str], str]:
    """A name for every class, no two alike, and why they are not the model's own."""
    unnamed = [f"LABEL_{index}" for index in range(classes)]
    if labels is None:
        return unnamed, "the model has no labels"
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return unnamed, "the model's labels are no list of texts"
    if len(labels) != classes:
        return unnamed, f"the model has {len(labels)} labels and {classes} classes"
    taken = {*labels}
    seen: set[str] = set()
    names = []
    for label in labels:
        name, count = label, 1
        while name in seen or (count > 1 and name in taken):
            count += 1
            name = f"{label} ({count})"
        seen.add(name)
        names.append(name)
    return names, ""


def _processor(spec: Any, channels: int) -> tuple[dict[str, Any], str]:
    """The settings of an image processor that does the same steps; or none, and why.

    black + p (white - black) / 255 - mean  is  p · rescale_factor - image_mean
    """
    reason = _unsayable(spec, channels)
    if reason:
        return {}, reason
    black, white = spec["range"]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": spec["channels"] == "RGB",
        "do_resize": True,
        "size": {"shortest_edge": spec["resize"]},
        "resample": RESAMPLE[spec["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": spec["crop"], "width": spec["crop"]},
        "do_rescale": True,
        "rescale_factor": (white - black) / 255,
        "do_normalize": True,
        "image_mean": [mean - black for mean in spec["mean"]],
        "image_std": spec["std"],
    }, ""


def _unsayable(spec: Any, channels: int) -> str:
    """Why no processor of transformers does these steps; "" where one does."""
    if spec is None:
        return "the model does not say how a picture becomes its input"
    if not isinstance(spec, Mapping) or not _is_whole(spec):
        return "the model's preprocessing is not whole"
    if spec["channels"] not in ("RGB", "L"):
        return f"transformers' processor does not make the order {spec['channels']}"
    if len(spec["mean"]) != channels:
        return f"it is for {len(spec['mean'])} channels, and the model takes {channels}"
    if spec["layout"] != "NCHW":
        return f"its layout is {spec['layout']}, and transformers' is NCHW"
    if spec["interpolation"] not in RESAMPLE:
        return f"transformers' processor does not know the interpolation {spec['interpolation']}"
    return "black and white are the same in it" if len({*spec["range"]}) == 1 else ""


def _is_whole(spec: Mapping[str, Any]) -> bool:
    """Whether every step is there (docs/format.md), and of the kind of value that it has."""
    kinds = {str: ("channels", "interpolation", "layout"), int: ("resize", "crop")}
    numbers = [spec.get(key) for key in ("range", "mean", "std")]
    return (
        {*spec} == {*kinds[str], *kinds[int], "range", "mean", "std"}
        and all(isinstance(spec[key], kind) for kind, keys in kinds.items() for key in keys)
        and all(isinstance(n, list) and all(isinstance(v, int | float) for v in n) for n in numbers)
        and (len(spec["range"]), len(spec["mean"])) == (2, len(spec["std"]))
    )


def _bumblebee(graph: Graph, config: Mapping[str, Any], processor: Mapping[str, Any]) -> str:
    """Where Bumblebee 0.7 does not compute what this folder says; "" where it does."""
    reasons = []
    if config["downsample_in_bottleneck"]:
        reasons.append(
            "it ignores downsample_in_bottleneck and puts the stride of a bottleneck on its 3x3, "
            "so the logits are silently wrong"
        )
    if config["hidden_act"] not in BUMBLEBEE_ACTIVATIONS:
        reasons.append(f"it does not know the activation {config['hidden_act']}")
    (value,) = graph.free_inputs.values()
    sides = {side for side in (value.shape or ())[2:] if isinstance(side, int)}
    sides |= {*processor.get("crop_size", {}).values()}
    if sides - {SIDE}:
        reasons.append(f"it takes pictures of {SIDE}x{SIDE} only")
    return "; ".join(reasons)
