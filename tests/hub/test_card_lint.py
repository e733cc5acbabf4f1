"""Every rule has a card that breaks it, at its line, and a near miss that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtool.errors import ReadError
from hubtool.hub.card import (
    Problem,
    build,
    facts,
    front_matter,
    lint,
    lint_front_matter,
    lint_header,
)
from hubtool.hub.card_licenses import LICENSES, PIPELINE_TAGS, nearest
from hubtool.zoo import find

from .card_folders import CLEAN, SECTIONS, SHA256, URL, rules, small

CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.fixture
def judged(tmp_path):
    """Rule and line of every problem of a card file with this text."""

    def judge(text: str) -> set[tuple[str, int]]:
        path = tmp_path / "card.md"
        path.write_text(text, encoding="utf-8")
        return rules(path)

    return judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small(tmp_path_factory.mktemp("lint") / "digits")


@pytest.fixture(scope="module")
def whole(folder):
    """The card of that folder, with nothing to be found."""
    return build(facts(folder, source_url=URL), CLEAN)


def test_a_whole_card_is_clean(judged, folder, whole) -> None:
    assert judged(CLEAN) == set()
    assert rules(folder, card=whole) == set()


@pytest.mark.parametrize("name", ["resnet18-v1", "resnet34-v1", "resnet50-v1"])
def test_the_zoos_cards_are_clean_and_can_be_built(name, folder) -> None:
    path = CARDS / f"{name}.md"
    assert lint(path) == []
    assert front_matter(path.read_text())["tags"][:2] == ["Axon", "Elixir"]
    found = lint(folder, card=build(facts(folder), path.read_text()))
    assert {problem.rule for problem in found} == {"licence-differs"}


@pytest.mark.parametrize("name", ["resnet18-v1", "resnet34-v1", "resnet50-v1"])
def test_the_zoos_cards_say_what_was_published(name) -> None:
    model, text = find(name), (CARDS / f"{name}.md").read_text()
    ((result,),) = [entry["results"] for entry in front_matter(text)["model-index"]]
    assert [metric["value"] for metric in result["metrics"]] == [model.top1, model.top5]
    row = f"| {model.top1:.2f} | {model.top5:.2f} |"
    for said in (row, model.sha256, f"{model.bytes:,} bytes", f"`{model.output}`", model.url):
        assert said in text, said


HEADERS = [
    ("license: apache2.0", "license: apache-2.0", "licence-unknown", 2, "`apache-2.0`"),
    ("license: 2", "license: [mit, isc]", "licence-unknown", 2, "listed at"),
    (
        "license: other\nlicense_name: x",
        "license: other\nlicense_name: x\nlicense_link: LICENSE",
        *("licence-unnamed", 2, "license_link"),
    ),
    ("tags: [a]\nlicence: mit", "license: unknown", "licence-missing", 3, "apache-2.0"),
    ("tags:\n Axon\n Elixir", "tags:\n- Axon\n- Elixir", "tags-no-list", 2, "`- Axon` `- Elixir`"),
    ("tags: Axon", "tags: [Axon]", "tags-no-list", 2, "`- Axon`"),
    ("tags: {a: 1}", "tags: []", "tags-no-list", 2, "`- word`"),
    ("tags:\n- a\n- 1.0", "tags:\n- a\n- '1.0'", "tags-no-text", 4, "quotes"),
    ("tags:\n-", "tags:\n- a b", "tags-no-text", 3, "quotes"),
    ("tags:\n- a, b", "tags:\n- a-b", "tags-comma", 3, "`- a` `- b`"),
    ("datasets: a/b", "datasets: [a/b]", "datasets-no-list", 2, "hyphen"),
    ("metrics: accuracy", "metrics: [accuracy]", "metrics-no-list", 2, "hyphen"),
    ("language: no", "language: 'no'", "language-no-text", 2, "quotes"),
    (
        "pipeline_tag: imageclassification",
        "pipeline_tag: image-classification",
        *("pipeline-tag-unknown", 2, "`image-classification`"),
    ),
    ("pipeline_tag: [x]", "pipeline_tag: other", "pipeline-tag-unknown", 2, "listed at"),
    (
        "datasets:\n- ImageNet-1k",
        "datasets:\n- ILSVRC/imagenet-1k",
        *("dataset-id", 3, "ILSVRC/imagenet-1k"),
    ),
]


@pytest.mark.parametrize(("wrong", "right", "rule", "line", "mend"), HEADERS)
def test_the_header(judged, tmp_path, wrong, right, rule, line, mend) -> None:
    assert (rule, line) in judged(f"---\n{wrong}\n---\n{SECTIONS}")
    found = [problem for problem in lint(tmp_path / "card.md") if problem.rule == rule]
    assert mend in found[0].mend
    assert rule not in {name for name, _ in judged(f"---\n{right}\n---\n{SECTIONS}")}


def test_lost_hyphens_are_explained() -> None:
    (problem,) = lint_front_matter({"license": "mit", "tags": "Axon Elixir"})
    assert "without hyphens YAML joins the lines" in problem.message
    assert str(problem) == (
        "README.md:1: error: `tags` is no list, but the one text `Axon Elixir`: without hyphens "
        "YAML joins the lines  →  write each on a line of its own that begins with a hyphen: "
        "`- Axon` `- Elixir`"
    )


def test_a_header_full_of_faults_is_told_in_a_hundred_short_ones() -> None:
    found = lint_front_matter({"license": "x" * 100_000, "tags": [1] * 100_000})
    assert len(found) == 100
    assert max(len(str(problem)) for problem in found) < 400


def test_a_header_alone_is_judged_as_in_a_card(judged) -> None:
    for text in (CLEAN, SECTIONS, "---\ntags: x\n---\n", "---\na: [\n---\n"):
        header = {(problem.rule, problem.line) for problem in lint_header(text)}
        assert header == {pair for pair in judged(text) if not pair[0].startswith("section")}


INDEX = """license: mit
model-index:
- name: digits
  results:
  - task:
      type: image-classification
    dataset:
      type: ylecun/mnist
      name: MNIST
      split: test
    metrics:
    - type: accuracy
      value: 98.5
    source:
      name: upstream
      url: https://example.org
"""


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("", "", set()),
        ("      split: test\n", "", {("result-no-split", 8)}),
        (INDEX[INDEX.index("    source") :], "", {("result-no-source", 6)}),
        ("ylecun/mnist", "mnist", {("dataset-id", 9)}),
        ("      type: image-classification\n", "      name: x\n", {("model-index", 3)}),
        ("      url: https://example.org\n", "", {("model-index", 3)}),
        (INDEX[INDEX.index("- name") :], " digits\n", {("model-index", 3)}),
        ("- name: digits\n", "- nom: digits\n", {("model-index", 3)}),
    ],
)
def test_results_are_read_as_the_hub_reads_them(judged, old, new, found) -> None:
    assert judged(f"---\n{INDEX.replace(old, new) if old else INDEX}---\n{SECTIONS}") == found


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        (SECTIONS, "header-missing", 1),
        ("---\nlicense: mit\n" + SECTIONS, "header-missing", 1),
        ("---\nlicense: mit\ntags: [\n---\n" + SECTIONS, "header-broken", 4),
        ("---\nlicense: mit\nlicense: mit\n---\n" + SECTIONS, "header-broken", 3),
        ("---\njust words\n---\n" + SECTIONS, "header-broken", 2),
        (CLEAN + "\n```sh\nls\n", "unclosed", 41),
        (CLEAN + "\n<!-- never\n", "unclosed", 41),
        (CLEAN + "<!-- hubtool:use begin -->\n", "marker", 40),
        (CLEAN + "<!-- hubtool:x begin -->1<!-- hubtool:x end -->\n", "marker", 40),
        (CLEAN + "measured at conversion\n", "unfilled", 40),
    ],
)
def test_the_frame_of_a_card(judged, text, rule, line) -> None:
    assert (rule, line) in judged(text)


def test_what_waits_for_the_conversion_waits_only_in_a_card_alone(judged, folder, whole) -> None:
    waiting = (
        "<!-- hubtool:difference begin -->Measured at conversion<!-- hubtool:difference end -->"
    )
    assert judged(f"{CLEAN}{waiting}\n") == set()
    line = whole.count("\n") + 1
    assert rules(folder, card=f"{whole}{waiting}\n") == {("unfilled", line)}


@pytest.mark.parametrize(
    ("title", "rule"),
    [
        ("## Uses", "section-uses"),
        ("## Out-of-scope use", "section-out-of-scope"),
        ("## Bias, risks and limitations", "section-limitations"),
        ("## Training data", "section-training-data"),
        ("## Results", "section-evaluation"),
        ("## Usage", "section-how-to-use"),
        ("## Citation", "section-citation"),
        ("## Environmental impact", "section-environmental-impact"),
    ],
)
def test_sections_that_are_missing_or_empty(judged, title, rule) -> None:
    assert judged(CLEAN.replace(title, "## Otherwise")) == {(rule, 39)}
    start = CLEAN.index(title) + len(title)
    end = CLEAN.find("\n## ", start)
    empty = CLEAN[:start] + "\n\n<!-- nothing yet -->\n" + (CLEAN[end:] if end > 0 else "")
    assert {name for name, _ in judged(empty)} == {rule}
    assert judged(CLEAN.replace(title, f"```\n{title}\n```\n## Otherwise")) != set()


@pytest.mark.parametrize(
    "title",
    [
        *("### Direct Use", "# Intended uses & limitations", "Use cases\n---------"),
        *("## 🚀 Applications", "## **Uses**", "## Primary uses ##"),
    ],
)
def test_usual_names_of_a_section_count(judged, title) -> None:
    assert judged(CLEAN.replace("## Uses", title)) == set()


def test_gaps_that_hubtool_names_are_still_missing(folder, whole) -> None:
    card = build(facts(folder, source_url=URL), CLEAN.replace("## Citation", "## Otherwise"))
    assert "The author has not said how to cite" in card
    line = card.splitlines().index("## Citation") + 1
    assert rules(folder, card=card) == {("section-citation", line)}


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("[the licence](LICENSE.txt)", True),
        ("![curve](figures/loss.png)", True),
        ('<img src="loss.png">', True),
        ("`config.json`", True),
        ("`other.onnx`", True),
        ("`graph.json`, `model.safetensors`, `report.json`, `README.md`", False),
        ("`digits.onnx`, [the graph](./graph.json#L1), [here](#usage), [all](.)", False),
        ("[web](https://example.org/x.md), [mail](mailto:a@b.c), `hubtool run x.onnx`", False),
        ("`cat.jpg`, `*.onnx`, `numpy.load`", False),
        ("```sh\ncat config.json\n```\n", False),
    ],
)
def test_files_that_the_card_names(folder, whole, said, missing) -> None:
    line = whole.count("\n") + 2
    found = {("file-missing", line)} if missing else set()
    assert rules(folder, card=f"{whole}\n{said}\n") == found


def test_only_what_is_published_counts(folder, whole) -> None:
    files = ["graph.json", "model.safetensors", "report.json"]
    assert (
        rules(folder, card=f"{whole}\n`notes.md`\n", published_files=[*files, "notes.md"]) == set()
    )
    found = lint(folder, card=whole, published_files=[*files, "x/graph.json", "a.onnx", "b.onnx"])
    assert [(p.rule, p.file) for p in found] == [
        ("many-models", "x/graph.json"),
        ("many-models", "b.onnx"),
    ]
    found = lint(folder, card=whole, published_files=[*files, "a.onnx", "spare.safetensors"])
    assert [(p.rule, p.file) for p in found] == [("many-models", "spare.safetensors")]


def test_two_models_in_one_folder(tmp_path) -> None:
    small(tmp_path / "a")
    small(tmp_path / "a" / "b")
    (tmp_path / "a" / "README.md").write_text(build(facts(tmp_path / "a", source_url=URL), CLEAN))
    assert [problem.rule for problem in lint(tmp_path / "a")] == ["many-models"]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (URL, "elsewhere", "fact-source-url"),
        ("| Opset | 17", "| Opset | 170", "fact-opset"),
        ("64]", "65]", "fact-shapes"),
        ("3.0e-07", "small", "fact-difference"),
        ("reprocessing", "reparing", "fact-preprocessing"),
    ],
)
def test_facts_of_the_conversion_are_missed(folder, whole, old, new, rule) -> None:
    assert old in whole
    assert rules(folder, card=whole.replace(old, new)) == {(rule, 1)}


def test_a_folder_that_does_not_know_its_facts(tmp_path) -> None:
    folder = small(tmp_path / "a", difference=None, preprocessing=None)
    card = build(facts(folder, source_url=URL), CLEAN)
    assert rules(folder, card=card) == {("fact-difference", 1), ("fact-preprocessing", 1)}
    own = card + "\n## Preprocessing\n\nNone: feed it pixels.\n"
    assert rules(folder, card=own) == {("fact-difference", 1)}


def test_a_card_of_another_model_is_an_error(folder, whole) -> None:
    line = whole.splitlines().index("<!-- hubtool:details begin -->") + 1
    stale = whole.replace(SHA256, "cd" * 32)
    assert rules(folder, card=stale) == {("stale", line), ("fact-sha256", 1)}


def test_a_damaged_folder_is_an_error(tmp_path, whole) -> None:
    folder = small(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"")
    (problem,) = lint(folder, card=whole)
    assert (problem.rule, problem.severity, problem.file) == ("folder", "error", "graph.json")


def test_random_weights_must_be_called_so(tmp_path) -> None:
    folder = small(tmp_path / "a", untrained=True)
    card = build(facts(folder, source_url=URL), CLEAN)
    assert rules(folder, card=card) == set()
    silent = card.replace("untrained", "fresh")
    assert ("untrained", 1) in rules(folder, card=silent)
    boasting = card.replace("license: mit\n", INDEX)
    assert ("untrained-results", 3) in rules(folder, card=boasting)


def test_the_tags_of_a_model_that_axon_cannot_say(folder, whole, monkeypatch) -> None:
    tagged = whole.replace("- digits\n", "- digits\n- Axon\n- axonal\n- elixir\n")
    assert rules(folder, card=tagged) == set()
    reasons = ["Unique 'u': what it gives has no size beforehand"]
    monkeypatch.setattr("hubtool.formats.axon.coverage", lambda graph: reasons)
    assert rules(folder, card=tagged) == {("tag-axon", 5), ("tag-axon", 7)}
    assert all(problem.severity == "error" for problem in lint(folder, card=tagged))


def test_another_licence_than_the_folder_s(folder, whole) -> None:
    assert rules(folder, card=whole.replace("license: mit", "license: isc")) == {
        ("licence-differs", 2)
    }


def test_files_that_are_no_cards(tmp_path) -> None:
    with pytest.raises(ReadError, match="no card"):
        lint(tmp_path / "absent.md")
    with pytest.raises(ReadError, match="no card"):
        lint(tmp_path)
    (tmp_path / "README.md").write_bytes(b"---\n\xff\n---\n")
    assert rules(tmp_path / "README.md") == {("no-utf8", 1)}
    (tmp_path / "README.md").write_bytes(b" " * 1_000_001)
    with pytest.raises(ReadError, match="1,000,000"):
        lint(tmp_path / "README.md")


def test_windows_lines_are_counted_once(judged) -> None:
    assert judged(f"{CLEAN}\nTODO\n".replace("\n", "\r\n")) == {("placeholder", 41)}


def test_problems_come_in_the_order_of_lines(tmp_path) -> None:
    text = f"---\ntags: Axon\nlicense: x\n---\n{SECTIONS}\nTODO\n/home/ann/x\n"
    (tmp_path / "card.md").write_text(text)
    found = lint(tmp_path / "card.md")
    assert [problem.line for problem in found] == [2, 3, 39, 40]
    assert all(problem.mend and problem.message for problem in found)
    assert str(found[0]).startswith(f"{tmp_path}/card.md:2: error: ")


def test_the_hub_s_words() -> None:
    assert len(LICENSES) == 83
    assert len(PIPELINE_TAGS) == 57
    for word, meant in {
        "apache2.0": "apache-2.0",
        "Apache License 2.0": "apache-2.0",
        "MIT License": "mit",
        "GPLv3": "gpl-3.0",
        "CC BY 4.0": "cc-by-4.0",
        "proprietary": None,
    }.items():
        assert nearest(word, LICENSES) == meant
    assert Problem("error", "r", "m", "n") == Problem("error", "r", "m", "n", "README.md", 1)
