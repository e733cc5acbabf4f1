"""The hub's commands as a user meets them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

import hubtool
from hubtool.cli import cli, list
from hubtool.hub.search import SORTS

NAME = "axon/convolution-v1"
CARD = "---\nlicense: apache2.0\ntags:\n Axon\n Elixir\n---\n# A model\n\nTODO\n"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="hubtool")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_publish_find_fetch_in_a_row(home: Path, folder: Path, tmp_path: Path) -> None:
    pushed = run("push", folder, NAME, "--tag", "Axon", "-m", "First")
    lines = dict(line.split(maxsplit=1) for line in pushed.stdout.splitlines())
    assert lines["hub"].startswith("the embedded hub")
    assert lines["url"].endswith(f"{NAME}/tree/{lines['revision']}")
    assert "Nothing left this machine" in pushed.stderr
    assert NAME in run("list", "--tag", "Axon").stdout
    shown = run("info", NAME).stdout
    assert lines["revision"] in shown and "model.safetensors" in shown
    place = Path(run("pull", NAME).stdout.strip())
    assert (place / "graph.json").is_file()
    assert run("pull", NAME, "--to", tmp_path / "copy").stdout.strip() == str(tmp_path / "copy")
    assert "no problem found" in run("check", tmp_path / "copy").stdout
    assert NAME in run("cache", "ls").stdout
    assert NAME in run("cache", "rm", NAME).stdout
    assert "Nothing was pulled yet" in run("cache", "ls").stderr


def test_every_listing_has_json(home: Path, folder: Path) -> None:
    plan = json.loads(run("push", folder, NAME, "--dry-run", "--json").stdout)
    assert plan["revision"] is None and "graph.json" in plan["files"]
    assert json.loads(run("list", "--json").stdout) == []
    done = json.loads(run("push", folder, NAME, "--json").stdout)
    (found,) = json.loads(run("list", "--json").stdout)
    assert found["name"] == NAME and found["library"] == "hubtool"
    assert json.loads(run("info", NAME, "--json").stdout)["revision"] == done["revision"]
    assert Path(json.loads(run("pull", NAME, "--json").stdout)["folder"]).is_dir()
    assert json.loads(run("cache", "ls", "--json").stdout)[0]["name"] == NAME
    run("card", "create", folder)
    assert all("mend" in p for p in json.loads(run("card", "lint", folder, "--json").stdout))


def test_an_empty_embedded_hub_says_so_and_names_the_public_one(home: Path) -> None:
    said = run("list")
    assert said.stdout == ""
    assert "No model found at the embedded hub" in said.stderr and "--hub hf" in said.stderr


def test_a_dry_run_shows_the_card_and_the_files(home: Path, folder: Path) -> None:
    said = run("push", folder, NAME, "--dry-run")
    assert "model.safetensors" in said.stdout
    assert "# convolution" in said.stderr and "Nothing was sent" in said.stderr
    assert not (home / "hub").exists()


def test_more_than_the_limit_is_told(home: Path, folder: Path) -> None:
    for number in range(3):
        run("push", folder, f"axon/model-{number}")
    said = run("list", "--limit", 2)
    assert len(said.stdout.splitlines()) == 3 and "There are more" in said.stderr
    assert len(run("list", "--limit", 3).stdout.splitlines()) == 4
    names = [row["name"] for row in json.loads(run("list", "--sort", "created", "--json").stdout)]
    assert names == ["axon/model-2", "axon/model-1", "axon/model-0"]


def test_a_list_goes_by_everything_that_a_card_says(home: Path, folder: Path) -> None:
    header = "license: mit\npipeline_tag: image-classification\nlibrary_name: hubtool\n"
    header += "datasets: [ILSVRC/imagenet-1k]\ntags: [Axon, mine]\n"
    card = folder.parent / "card.md"
    card.write_text(f"---\n{header}---\n# A convolution\n\nA model.\n")
    run("push", folder, "axon/carded", "--card", card)
    run("push", folder, "other/plain")
    for option, value, other in (
        ("--author", "axon", "nobody"),
        ("--tag", "mine", "Mine"),
        ("--pipeline", "image-classification", "text-generation"),
        ("--library", "hubtool", "keras"),
        ("--licence", "mit", "apache-2.0"),
        ("--license", "mit", "gpl-3.0"),
        ("--dataset", "ILSVRC/imagenet-1k", "mnist"),
        ("--search", "MINE axon/", "mine nothing"),
    ):
        names = [m["name"] for m in json.loads(run("list", option, value, "--json").stdout)]
        assert "axon/carded" in names and (option == "--library" or len(names) == 1), option
        assert json.loads(run("list", option, other, "--json").stdout) == []
    assert "axon/carded" in run("list", "card", "--search", "ax", "--tag", "Axon").stdout
    found = hubtool.search("carded", licence="mit", dataset="ILSVRC/imagenet-1k", library="hubtool")
    assert [model.name for model in found] == ["axon/carded"]


def test_the_card_is_linted_with_line_and_mend(home: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(CARD)
    said = run("card", "lint", tmp_path / "card.md", code=1)
    assert "card.md:2: error" in said.stdout and "apache-2.0" in said.stdout
    assert "card.md:9: warning" in said.stdout and "errors" in said.stderr
    refused = run("push", folder, NAME, "--card", tmp_path / "card.md", code=1)
    assert "not fit to be published" in refused.stderr and "Axon Elixir" in refused.stderr
    assert "there is no card" in run("card", "lint", tmp_path / "none.md", code=1).stderr


def test_warnings_fail_only_where_they_are_asked_to(home: Path, folder: Path) -> None:
    run("card", "create", folder, "--tag", "Axon")
    assert "0 errors" in run("card", "lint", folder).stderr
    run("card", "lint", folder, "--strict", code=1)


def test_a_card_keeps_the_words_of_its_author(home: Path, folder: Path, tmp_path: Path) -> None:
    words = "# My model\n\n## Limitations\n\nIt knows nothing of penguins.\n"
    (tmp_path / "words.md").write_text(words)
    run("card", "create", folder, "--prose", tmp_path / "words.md", "--name", NAME)
    card = (folder / "README.md").read_text()
    assert "It knows nothing of penguins." in card and f"hubtool pull {NAME}" in card
    refused = run("card", "create", folder, "--prose", tmp_path / "words.md", code=1)
    assert "exists already" in refused.stderr and "--prose" in refused.stderr
    run("card", "create", folder, "--name", NAME)
    assert (folder / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "resnet"], "no id of a model"),
        (["push", "{folder}", "resnet"], "no id of a model"),
        (["push", "nowhere", NAME], "there is no folder 'nowhere'"),
        (["pull", NAME], "there is no such model, or it is private"),
        (["info", NAME], "there is no such model, or it is private"),
        (["run", NAME, "x.npy"], f"there is no file or folder '{NAME}', and cannot fetch"),
        (["list", "--hub", "huggingface.co"], "Did you mean --hub https://huggingface.co?"),
        (["list", "--hub", "http://127.0.0.1:9"], "127.0.0.1:9 cannot be reached"),
        (["cache", "rm", NAME], "the cache holds no model"),
        (["card", "create", "nowhere"], "there is no folder 'nowhere'"),
        (["zoo", "fetch", "resnet19-v1"], "no model 'resnet19-v1'"),
        (
            ["zoo", "publish", "resnet18-v1", "--to", "axon", "--from", "no.onnx"],
            "no file 'no.onnx'",
        ),
        (["serve", "--port", "0", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_every_mistake_has_one_clear_message(
    home: Path, folder: Path, arguments: list[str], said: str
) -> None:
    failed = run(*(argument.format(folder=folder) for argument in arguments), code=1)
    assert failed.stderr.startswith("hubtool: ") and said in failed.stderr
    assert len(failed.stderr.splitlines()) <= 2 and failed.stdout == ""


def test_wrong_usage_is_exit_code_2(home: Path) -> None:
    run("push", "folder", code=2)
    run("list", "--sort", "beauty", code=2)
    run("info", NAME, "--hub", "embedded", "--shape", "x=1x2", code=2)


def test_the_sorts_of_the_command_are_those_of_the_function() -> None:
    assert tuple(SORTS) == list.SORTS
    with pytest.raises(hubtool.InputError, match="cannot be sorted by 'beauty'"):
        hubtool.search(sort="beauty")


def test_serve_answers_until_it_is_told_to_end(home: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "hubtool", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = server.stderr.readline().split()[0]
            pushed = json.loads(run("push", folder, NAME, "--hub", url, "--json").stdout)
            with urlopen(pushed["url"], timeout=30) as page:  # what a push prints can be opened
                assert page.headers["X-Repo-Commit"] == pushed["revision"]
                assert f"<h1>{NAME}</h1>" in page.read().decode()
            assert NAME in run("list", "--hub", url).stdout
        finally:
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "Traceback" not in log
    # The same models without the server: it served the embedded hub's own folder.
    assert NAME in run("list").stdout
