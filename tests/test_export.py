"""The forms that a model is exported to, by function and by command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hub.conftest import convolution

import hubtool
from hubtool import Graph, Layer, Value
from hubtool.cli import cli, export
from hubtool.errors import InputError, UnsupportedError, WriteError
from hubtool.export import FORMATS


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolution(tmp_path_factory.mktemp("export") / "conv-net")


@pytest.fixture
def beyond(tmp_path: Path) -> Path:
    """A model that Axon cannot say: its output has no size before it has run."""
    graph = Graph(
        layers=[Layer("where", "NonZero", {"X": "x"}, ["y"])],
        inputs={"x": Value("tensor", "float32", ("N", 4))},
        outputs={"y": Value("tensor", "int64", (2, None))},
        tensors={},
        meta={"name": "beyond"},
    )
    hubtool.save(graph, tmp_path / "beyond")
    return tmp_path / "beyond"


def test_the_suffix_or_the_name_says_the_form(folder: Path, tmp_path: Path) -> None:
    for name, form in (("m.onnx", "onnx"), ("m.livemd", "livemd"), ("m.ex", "axon")):
        done = hubtool.export(folder, tmp_path / name)
        assert (done.target, done.format) == (str(tmp_path / name), form)
        assert (done.opset is not None) == (form == "onnx")
        assert (tmp_path / name).stat().st_size > 100
    for name, form in (("m.onnx", "livemd"), ("m.livemd", "onnx"), ("m", "axon")):
        with pytest.raises(WriteError, match="does not end in"):
            hubtool.export(folder, tmp_path / name, to=form)
    with pytest.raises(WriteError, match="does not say what to write"):
        hubtool.export(folder, tmp_path / "m.pt")
    with pytest.raises(WriteError, match="no form to export to"):
        hubtool.export(folder, tmp_path / "m", to="keras")
    assert export.FORMATS == FORMATS


def test_without_a_target_it_is_named_after_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = convolution(tmp_path / "My.Net-2")
    monkeypatch.chdir(tmp_path)
    assert Path(hubtool.export(own, to="onnx").target).resolve() == tmp_path / "My.Net-2.onnx"
    assert hubtool.export(own, to="livemd").target == str(own / "My.Net-2.livemd")
    module = hubtool.export(own, to="axon").target
    assert module == str(own / "my_net_2.ex")
    assert "defmodule MyNet2 do" in Path(module).read_text()


def test_what_exists_is_kept_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.livemd").write_text("mine")
    with pytest.raises(WriteError, match="exists already"):
        hubtool.export(folder, tmp_path / "m.livemd")
    assert (tmp_path / "m.livemd").read_text() == "mine"
    hubtool.export(folder, tmp_path / "m.livemd", overwrite=True)
    assert (tmp_path / "m.livemd").read_text().startswith("# conv")


def test_options_of_another_form_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for ONNX files only"):
        hubtool.export(folder, tmp_path / "m.livemd", opset=13)


def test_a_notebook_needs_the_weights_of_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the weights of a native folder"):
        hubtool.export(hubtool.read(folder), tmp_path / "m.livemd")
    with pytest.raises(InputError, match="needs the weights of a native folder"):
        hubtool.export(folder.with_suffix(".onnx"), tmp_path / "m.livemd")


def test_what_cannot_be_said_is_refused_beforehand_and_by_check(
    beyond: Path, folder: Path, tmp_path: Path
) -> None:
    assert hubtool.check(folder, target="axon") == []
    (reason,) = hubtool.check(beyond, target="axon")
    assert "NonZero" in reason and "where" in reason
    with pytest.raises(UnsupportedError) as refused:
        hubtool.export(beyond, tmp_path / "m.livemd")
    assert reason in refused.value.problems
    assert not (tmp_path / "m.livemd").exists()
    assert hubtool.check(folder, target="transformers") != []
    with pytest.raises(UnsupportedError, match="no ResNet as transformers"):
        hubtool.export(folder, tmp_path / "t", to="transformers")
    assert not (tmp_path / "t").exists()
    with pytest.raises(InputError, match="no form to check for"):
        hubtool.check(folder, target="keras")


def test_the_commands_are_shells_of_the_functions(
    folder: Path, beyond: Path, tmp_path: Path
) -> None:
    assert "2 layers as Axon calls" in run("export", folder, tmp_path / "a.livemd").stdout
    assert "opset 7" in run("export", folder, tmp_path / "a.onnx").stdout
    assert "no problem found" in run("check", folder, "--for", "axon").stdout
    assert "NonZero" in run("check", beyond, "--for", "axon", code=1).stdout
    failed = run("export", beyond, tmp_path / "b.ex", code=1)
    assert "cannot be said in Axon" in failed.stderr and "NonZero" in failed.stderr
    run("axon-hub", tmp_path / "axon_hub.ex")
    assert (tmp_path / "axon_hub.ex").read_text().startswith("defmodule AxonHub do")
    assert "exists already" in run("axon-hub", tmp_path / "axon_hub.ex", code=1).stderr
    assert "axon.json" in run("import", tmp_path / "axon.json", code=1).stderr


def test_a_published_notebook_fetches_from_its_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubtool.hub.server.run import Background

    for name in ("HUBTOOL_HUB", "HUBTOOL_TOKEN", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    with Background(tmp_path / "hub") as url:
        done = hubtool.push(folder, "axon/conv-net-v1", hub=url)
        assert {"conv-net-v1.livemd", "conv_net_v1.ex"} <= set(done.files)
        (found,) = hubtool.search(tags=["Axon", "Elixir"], hub=url)
        pulled = hubtool.pull(found.name, hub=url)
        notebook = (pulled / "conv-net-v1.livemd").read_text()
        assert f'url = "{url}/axon/conv-net-v1/resolve/main/"' in notebook
        assert "defmodule ConvNetV1 do" in (pulled / "conv_net_v1.ex").read_text()
        card = (pulled / "README.md").read_text()
        assert "open `conv-net-v1.livemd` in Livebook" in card
        assert "every layer can be said in Axon" in card
        hubtool.export("axon/conv-net-v1", tmp_path / "n.livemd", hub=url)
        pinned = (tmp_path / "n.livemd").read_text()
        assert f"{url}/axon/conv-net-v1/resolve/{done.revision}/" in pinned


def test_what_axon_cannot_say_is_published_without_its_tags(
    beyond: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HUBTOOL_HUB", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBTOOL_HOME", str(tmp_path / "home"))
    done = hubtool.push(beyond, "axon/beyond")
    assert not [name for name in done.files if name.endswith((".livemd", ".ex"))]
    assert hubtool.search(tags=["Axon"]) == []
    with pytest.raises(InputError) as refused:
        hubtool.push(beyond, "axon/beyond", tags=["Axon"])
    assert "cannot be said in Axon" in str(refused.value) and "NonZero" in str(refused.value)


def test_a_resnet_is_written_for_transformers_inside_its_folder(
    tmp_path: Path, sketch18: Path
) -> None:
    native = tmp_path / "resnet18-v1"
    hubtool.convert(sketch18, native, verify=False)
    said = run("export", native, "--to", "transformers").stdout
    assert "ResNetForImageClassification, basic" in said
    place = native / "transformers"
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in place.iterdir()} == names
    assert "exists already" in run("export", native, "--to", "transformers", code=1).stderr
    run("export", native, "--to", "transformers", "--overwrite")
    card = hubtool.create_card(native, name="axon/resnet18-v1")
    assert 'subfolder="transformers"' in card and 'subdir: "transformers"' in card
    assert (native / "README.md").is_file()
