"""A card is made of the author's words and the folder's facts, and making it twice is once."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st

import hubtool
from hubtool.errors import InputError, ReadError
from hubtool.graph import Value
from hubtool.hub.card import build, facts, front_matter, lint
from hubtool.hub.card_text import FACTS, SECTIONS

from .card_folders import SHA256, URL, small


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return facts(small(tmp_path_factory.mktemp("cards") / "digits"), source_url=URL)


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    place = tmp_path_factory.mktemp("sketch")
    hubtool.zoo.sketch("resnet18-v1", place / "x.onnx")
    hubtool.convert(place / "x.onnx", place / "x")
    return place / "x"


WORDS = st.sampled_from(
    [
        *("# Title", "## Uses", "## Usage", "Title\n===", "Under\n---", "words", "- item", "", ""),
        *("```", "~~~", "<!-- a comment -->", "<!--", "## Training data", "### Deep", "> quote"),
        *("<!-- hubtool:use begin -->old<!-- hubtool:use end -->", "#### x ####", "    code"),
        "Difference <!-- hubtool:difference begin -->?<!-- hubtool:difference end --> here",
        *("<!-- hubtool:gaps begin -->\nold\n<!-- hubtool:gaps end -->", "\ttab", "  "),
    ]
)
PROSE = st.lists(WORDS | st.text(st.characters(exclude_categories=("Cs",))), max_size=8)


@given(PROSE.map("\n".join), st.booleans())
@example("---\ntags: [a]\n---\nText\r\n", True)
@example("<!-- hubtool:title begin -->\n# Old\n<!-- hubtool:title end -->\n\n# Mine", False)
def test_building_twice_changes_nothing(digits, prose, untrained) -> None:
    known = replace(digits, untrained=untrained)
    try:
        card = build(known, prose)
    except InputError:
        return
    assert build(known, card) == card


@given(PROSE.map("\n".join))
def test_every_line_of_the_author_stays(digits, prose) -> None:
    plain = re.sub(r"(?s)<!-- hubtool.*?-->", "", prose)
    try:
        card = build(digits, plain)
    except InputError:
        return
    left = iter(card.splitlines())
    lines = plain.replace("\r\n", "\n").replace("\r", "\n").splitlines()
    missing = [line for line in lines if line.strip() and line not in left]
    assert not missing


def test_a_card_without_prose_is_whole(sketch) -> None:
    card = build(facts(sketch, repository="axon/resnet18-v1", source_url=URL))
    report = json.loads((sketch / "report.json").read_text())
    assert front_matter(card) == {
        "license": "apache-2.0",
        "library_name": "hubtool",
        "pipeline_tag": "image-classification",
    }
    for said in (
        "# resnet18-v1\n",
        "this model is untrained",
        'hubtool.classify("axon/resnet18-v1", "cat.jpg")',
        "hubtool run axon/resnet18-v1 cat.jpg",
        "| Source file | `x.onnx`, 46,820,965 bytes |",
        f"| Source URL | <{URL}> |",
        report["source"]["sha256"],
        "| Opset | 7, lifted to 28 |",
        "`data` `float32[N,3,224,224]`",
        "69: 20 Conv, 20 BatchNormalization",
        "| Parameters | 11,699,112 |",
        "`model.safetensors`, 46,806,880 bytes, `",
        "1,000, named in `graph.json`",
        "mean (0.485, 0.456, 0.406)",
        f"{report['verification']['difference']:.1e} of the largest",
        report["verification"]["judge"],
        f"hubtool {hubtool.__version__}",
        "Axon: every layer can be said in Axon.",
        "open `resnet18-v1.livemd` in Livebook, or put `resnet18_v1.ex`",
        "The author has not said what data it was trained on.",
    ):
        assert said in card, said
    assert ModelCard(card).data.license == "apache-2.0"
    (sketch / "README.md").write_text(card)
    found = lint(sketch)
    assert {problem.severity for problem in found} == {"warning"}
    gaps = {f"section-{one.name}" for one in SECTIONS} - {"section-how-to-use"}
    assert {problem.rule for problem in found} == gaps


def test_every_fact_can_be_named_in_a_sentence(digits) -> None:
    assert tuple(digits.texts()) == FACTS
    prose = "\n\n".join(f"<!-- hubtool:{n} begin -->?<!-- hubtool:{n} end -->." for n in FACTS)
    card = build(digits, prose)
    for name, text in digits.texts().items():
        assert f"<!-- hubtool:{name} begin -->{text}<!-- hubtool:{name} end -->." in card
    assert "3.0e-07" in card
    assert f"`{SHA256}`" in card


def test_tags_are_what_the_author_gives(digits) -> None:
    prose = "---\ntags:\n- Axon\n- onnx\n---\nText"
    assert "tags" not in front_matter(build(digits))
    assert front_matter(build(digits, prose))["tags"] == ["Axon", "onnx"]
    assert front_matter(build(digits, prose, tags=["Elixir", "Axon"]))["tags"] == [
        *("Axon", "onnx", "Elixir")
    ]
    assert front_matter(build(digits, tags=["Axon"]))["tags"] == ["Axon"]
    with pytest.raises(InputError, match="no list"):
        build(digits, "---\ntags:\n Axon\n Elixir\n---\n", tags=["onnx"])


def test_the_author_s_header_comes_before_what_is_known(digits) -> None:
    prose = "---\n# mine\nlicense: isc\nlibrary_name: onnx\npipeline_tag: other\n---\nText"
    assert build(digits, prose).startswith(prose[:60])


def test_a_picture_task_needs_preprocessing_and_labels(digits) -> None:
    for lacking in (replace(digits, preprocessing=None), replace(digits, labels=0)):
        card = build(lacking)
        assert "pipeline_tag" not in front_matter(card)
        assert "hubtool.classify" not in card
        assert "np.zeros((1, 64), 'float32')" in card
        assert "hubtool run digits x.npy" in card
    assert "The model does not say how its inputs" in build(replace(digits, preprocessing=None))


def test_the_python_of_a_card_runs(digits, monkeypatch, tmp_path) -> None:
    small(tmp_path / "two words")
    monkeypatch.chdir(tmp_path)
    card = build(replace(facts(tmp_path / "two words"), labels=0))
    (python,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, object] = {}
    exec(python, names)
    assert names["outputs"]["y"].shape == (1, 2)
    assert "hubtool run 'two words' x.npy" in card


def test_several_or_odd_inputs_are_still_shown(digits) -> None:
    odd = {"ids": Value("tensor", "int64", ("N", None)), "past": Value("sequence", "float32", None)}
    card = build(replace(digits, inputs=odd, labels=0))
    assert '{"ids": np.zeros((1, 1), \'int64\'), "past": ...}' in card
    assert "hubtool run digits inputs.npz" in card


def test_random_weights_claim_no_training_and_no_results(digits) -> None:
    prose = "---\ndatasets: [a/b]\nmetrics: [accuracy]\nmodel-index: []\ntags: [x]\n---\nText"
    assert {"datasets", "metrics", "model-index"} <= set(front_matter(build(digits, prose)))
    untrained = build(replace(digits, untrained=True), prose)
    assert set(front_matter(untrained)) == {"tags", "license", "library_name", "pipeline_tag"}
    assert "Warning: this model is untrained" in untrained
    assert "untrained" not in build(digits, prose)


def test_a_gap_goes_when_the_author_fills_it(digits) -> None:
    card = build(digits, "# Digits\n")
    gap = "The author has not said what data it was trained on."
    assert gap in card
    filled = build(digits, f"{card}\n## Training data\n\nScanned digits.\n")
    assert gap not in filled
    every = "".join(f"## {one.title}\n\nSaid.\n\n" for one in SECTIONS)
    assert "hubtool:gaps" not in build(digits, f"{card}\n{every}")


def test_a_title_of_the_author_s_replaces_ours(digits) -> None:
    card = build(digits)
    assert "\n# digits\n" in card
    titled = card.replace("# digits", "").replace(
        "<!-- hubtool:summary", "# Mine\n<!-- hubtool:summary"
    )
    assert [line for line in build(digits, titled).splitlines() if line.startswith("# ")] == [
        "# Mine"
    ]


def test_parts_stay_where_the_author_put_them(digits) -> None:
    prose = "# T\n\n## Z\n\nlast\n\n<!-- hubtool:use begin --><!-- hubtool:use end -->\n\nend"
    card = build(digits, prose)
    assert card.index("## Model details") < card.index("## Z") < card.index("## How to use")
    assert "hubtool:use end -->\n\nend" in card


def test_markers_in_code_are_an_example_and_no_place(digits) -> None:
    prose = "```\n<!-- hubtool:sha256 begin -->?<!-- hubtool:sha256 end -->\n```\n"
    assert prose in build(digits, prose)


@pytest.mark.parametrize(
    ("prose", "said"),
    [
        ("---\na: [\n---\n", "line 3"),
        ("---\na: 1\n# Title", "never closed"),
        ("Text\n~~~~\n~~~\n", "code that begins in line 2"),
        ("---\na: 1\n---\n\nText <!-- never", "comment that begins in line 5"),
        ("<!-- hubtool:use begin -->", "opens or closes nothing"),
        ("<!-- hubtool:use end -->", "opens or closes nothing"),
        (
            "<!-- hubtool:accuracy begin -->?<!-- hubtool:accuracy end -->",
            "no fact named 'accuracy'",
        ),
    ],
)
def test_prose_that_cannot_be_understood_is_refused(digits, prose, said) -> None:
    with pytest.raises(InputError) as caught:
        build(digits, prose)
    assert said in str(caught.value)


def test_verification_is_told_as_it_was(digits, tmp_path) -> None:
    unverified = facts(small(tmp_path / "a", difference=None))
    assert "**Not verified**: it was not asked for." in build(unverified)
    assert unverified.texts()["difference"] == "not measured"
    failed = {
        **digits.verification,
        "status": "failed",
        "difference": float("inf"),
        "reason": "NaN",
    }
    card = build(replace(digits, verification=failed))
    assert "**Failed**" in card
    assert "; NaN." in card
    (small(tmp_path / "b") / "report.json").unlink()
    assert "holds no report" in build(facts(tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report["source"].update(sha256="cd" * 32), "another model"),
        (lambda report: report.pop("verification"), "no report"),
        (lambda report: report["verification"].update(difference="small"), "no report"),
        (lambda report: report["verification"].update(judge=None), "no report"),
    ],
)
def test_a_report_that_is_none_is_refused(tmp_path, change, said) -> None:
    path = small(tmp_path / "a") / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    with pytest.raises(ReadError, match=said):
        facts(tmp_path / "a")


def test_a_source_url_is_a_web_address(tmp_path) -> None:
    small(tmp_path / "a")
    for wrong in ("file:///home/me/x.onnx", "/home/me/x.onnx", "https://a b", "javascript:x"):
        with pytest.raises(InputError, match="no http"):
            facts(tmp_path / "a", source_url=wrong)


def test_names_of_strangers_stay_words(tmp_path) -> None:
    evil = "a|b`c\n# T <!-- hubtool:use end --> [x](javascript:y) <script>"
    source = {"file": evil, "sha256": SHA256, "size": 1, "opset": 7}
    folder = small(tmp_path / "a", name=evil, source=source, zoo=7, licence=["x"])
    (folder / "report.json").unlink()
    known = facts(folder)
    card = build(known)
    assert (known.zoo, known.licence) == (None, None)
    assert build(known, card) == card
    assert "<script" not in card
    assert "](javascript" not in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        r"# a|b\`c \# T ‹!-- hubtool:use end --\> \[x\] (javascript:y) ‹script\>"
    ]


def test_what_is_given_beats_what_the_folder_says(tmp_path) -> None:
    known = facts(small(tmp_path / "a"), licence="isc", repository="me/d")
    assert (known.licence, known.repository) == ("isc", "me/d")
    assert "Axon: every layer can be said in Axon." in build(known)
    assert "open `d.livemd` in Livebook" in build(known)
    assert {field.name for field in fields(known)} >= {"weights", "hubtool", "opset"}
