"""A home of its own for every test of the hub, and a small model to publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hubtool

VARIABLES = ("HUBTOOL_HUB", "HUBTOOL_TOKEN", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HUBTOOL_HOME, empty; nothing of the machine's own settings is left."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "home"


def convolution(target: Path, seed: int = 0, channels: int = 64) -> Path:
    """A converted model of one Conv and one Relu; about 150 kB of weights, made of the seed."""
    weights = np.random.default_rng(seed).standard_normal((channels, 64, 3, 3), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["y"], ["z"], "relu"),
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", channels, 8, 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, target.with_suffix(".onnx"))
    hubtool.convert(target.with_suffix(".onnx"), target)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A converted model without a card."""
    return convolution(tmp_path / "convolution")
