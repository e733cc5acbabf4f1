"""The table of the ONNX Model Zoo, and writing a sketch to a file."""

from __future__ import annotations

import re

import onnx
import pytest

from hubtool import zoo
from hubtool.errors import InputError, UnsupportedError, WriteError


def test_the_table_holds_both_families_at_five_depths_and_one_quantized():
    wanted = {f"resnet{d}-v{v}" for v in (1, 2) for d in (18, 34, 50, 101, 152)}
    assert set(zoo.ZOO) == wanted | {"resnet50-v1-int8"}
    assert [model.name for model in zoo.models() if model.quantized] == ["resnet50-v1-int8"]
    for name, model in zoo.ZOO.items():
        assert model.name == name
        assert name.startswith(f"resnet{model.depth}-v{model.version}")


def test_hashes_outputs_and_paths_are_well_formed_and_distinct():
    for model in zoo.models():
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert re.fullmatch(rf"resnetv{model.version}\d_dense0_fwd", model.output)
        assert model.url.startswith("https://huggingface.co/onnxmodelzoo/legacy_models/resolve/")
        assert model.url.endswith(f"/validated/vision/classification/resnet/model/{model.file}")
        assert 60 < model.top1 < model.top5 < 100
    assert len({model.sha256 for model in zoo.models()}) == len(zoo.ZOO)
    assert len({model.path for model in zoo.models()}) == len(zoo.ZOO)


def test_a_published_row_is_the_one_of_the_readme():
    model = zoo.find("resnet34-v1")
    assert (model.bytes, model.top1, model.top5) == (87_302_588, 73.73, 91.40)
    assert model.output == "resnetv16_dense0_fwd"
    assert model.file == "resnet34-v1-7.onnx"
    assert model.licence == "apache-2.0"


def test_a_file_is_known_by_its_hash_in_either_case():
    model = zoo.find("resnet152-v2")
    assert zoo.find_by_sha256(model.sha256) is model
    assert zoo.find_by_sha256(model.sha256.upper()) is model
    assert zoo.find_by_sha256("0" * 64) is None


@pytest.mark.parametrize("name", ["resnet34v1", "resnet34-v1-7", "ResNet34-v1"])
def test_a_name_nearly_right_brings_suggestions(name):
    with pytest.raises(InputError, match=rf"(?s)no model '{name}'.*Did you mean .*resnet34-v1"):
        zoo.find(name)


def test_a_name_unlike_any_brings_the_list():
    with pytest.raises(InputError, match=r"(?s)no model 'yolo'.*It has resnet18-v1, "):
        zoo.find("yolo")


def test_a_sketch_is_written_whole_and_says_what_it_is(tmp_path):
    path = tmp_path / "resnet18.onnx"
    assert zoo.sketch("resnet18-v1", path) is zoo.find("resnet18-v1")
    assert [found.name for found in tmp_path.iterdir()] == ["resnet18.onnx"]
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "hubtool.untrained": "true",
        "hubtool.zoo": '"resnet18-v1"',
    }
    assert 200 < path.stat().st_size - zoo.find("resnet18-v1").bytes < 250


def test_an_existing_file_is_kept_unless_overwrite_is_given(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(WriteError, match="exists already"):
        zoo.sketch("resnet18-v2", path)
    assert path.read_bytes() == b"mine"
    zoo.sketch("resnet18-v2", path, overwrite=True)
    assert path.stat().st_size > zoo.find("resnet18-v2").bytes


def test_the_quantized_model_has_no_sketch_and_says_why(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(UnsupportedError, match=r"(?s)calibration.*resnet50-v1.*https://"):
        zoo.sketch("resnet50-v1-int8", path)
    assert not path.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WriteError, match="nowhere"):
        zoo.sketch("resnet18-v1", tmp_path / "nowhere" / "model.onnx")
