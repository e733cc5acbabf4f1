from __future__ import annotations

import subprocess

import pytest

from hubtool.formats.axon.names import Variables, alias, floating, layer_name, literal, prose

NASTY = [
    "plain",
    "a.b-c/d e",
    'say "hi"',
    "back\\slash",
    "new\nline\r\ttab",
    "#{System.halt(7)}",
    "##{1}#",
    "\\#{1}",
    '"""',
    "~s(x)",
    "'); System.halt(7); ('",
    "naïve ☃ 日本 𝒳",
    "nul\x00 bell\x07 delete\x7f",
    "right-to-left \u202e mark",
    "line\u2028separator",
    "",
]


def test_a_literal_is_the_text_and_runs_nothing(elixir: str, tmp_path) -> None:
    script = "\n".join(f"IO.puts(Base.encode16({literal(text)}))" for text in NASTY)
    (tmp_path / "literals.exs").write_text(script, encoding="utf-8")
    printed = subprocess.run(
        [elixir, tmp_path / "literals.exs"], capture_output=True, text=True, check=True
    )
    told = [bytes.fromhex(line).decode() for line in printed.stdout.split("\n")[:-1]]
    assert told == NASTY


@pytest.mark.parametrize("text", NASTY)
def test_a_literal_stands_on_one_line_of_visible_characters(text: str) -> None:
    assert literal(text).replace(" ", "").isprintable()
    assert "#{" not in literal(text).replace("\\#{", "")


def test_a_name_on_which_axon_would_count_is_given_by_a_function() -> None:
    assert layer_name("conv{n}") == 'fn _, _ -> "conv{n}" end'
    assert layer_name("conv1") == '"conv1"'


def test_names_that_look_alike_become_different_variables() -> None:
    variables = Variables()
    made = [variables.of(name) for name in ("a.b", "a_b", "a-b", "A B", "a_b_2")]
    assert made == ["a_b", "a_b_2", "a_b_3", "a_b_4", "a_b_2_2"]


def test_variables_are_what_elixir_takes(elixir: str) -> None:
    variables = Variables()
    names = ["end", "fn", "nil", "0", "_", "___", "日本", "", "Do", "__MODULE__", "when", "after"]
    made = [variables.of(name) for name in names]
    code = "\n".join(f"{variable} = 7; IO.puts({variable})" for variable in made)
    printed = subprocess.run([elixir, "-e", code], capture_output=True, text=True, check=True)
    assert (printed.stdout, printed.stderr) == ("7\n" * len(names), "")


def test_a_variable_is_not_one_that_is_taken() -> None:
    assert Variables(["model"]).of("model") == "model_2"


def test_a_long_name_becomes_its_end() -> None:
    variable = Variables().of("/encoder" * 30 + "/MatMul")
    assert len(variable) <= 48
    assert variable.endswith("encoder_matmul")


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("resnet34-v1", "resnet34-v1"),
        ("a\n\n```elixir\nSystem.halt()\n```", r"a \`\`\`elixir System.halt\(\) \`\`\`"),
        ("# Title", r"\# Title"),
        ("<script>", r"\<script\>"),
        ("[x](http://y)", r"\[x\]\(http\:\/\/y\)"),
        ("*bold* _it_", r"\*bold\* \_it\_"),
        ("layer1.0_conv/2", "layer1.0_conv/2"),
        ("\x00\u202e", ""),
    ],
)
def test_prose_is_one_line_that_does_nothing(text: str, markdown: str) -> None:
    assert prose(text) == markdown


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-5, "1.0e-5"),
        (9.999999747378752e-06, "1.0e-5"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (-2.5e-7, "-2.5e-7"),
        (1e20, "1.0e20"),
        (3.4028235e38, "3.4028235e38"),
        (0.0, "0.0"),
    ],
)
def test_floats_are_as_short_as_their_float32(number: float, text: str) -> None:
    assert floating(number) == text


def test_a_model_name_becomes_a_module_name() -> None:
    assert alias("resnet34-v1") == "Resnet34V1"
    assert alias("3d.net") == "Model3dNet"
    assert alias("日本") == "Model"
