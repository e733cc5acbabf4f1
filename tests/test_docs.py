"""The documentation says what is: help, operators, links and examples are checked, not trusted."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

from hubtool.backends.native.lower import LOWER
from hubtool.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    found = [(name, command)]
    if isinstance(command, click.Group):
        for child, inner in command.commands.items():
            found += commands(inner, f"{name} {child}")
    return found


COMMANDS = commands(cli, "hubtool")


def test_the_command_line_page_is_what_the_help_prints() -> None:
    render = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["render"]
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == render(), "run: python docs/make_cli.py"


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    assert command.help
    assert (command.epilog or "").startswith("Example: hubtool")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in COMMANDS:
        if not isinstance(command, click.Group):
            group = " ".join(
                name.split()[:3]
            )  # of `hubtool hub users ls` and add and rm one is enough
            assert group in text, name


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second rank."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_column(text: str) -> list[str]:
    """The names in the first column of the tables in a text."""
    rows = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_the_engines_page_names_every_operator_with_a_kernel_and_no_other() -> None:
    assert sorted(first_column(section("engine.md", "Operators"))) == sorted(LOWER)


def test_the_engines_page_names_every_variable_that_is_read() -> None:
    code = [*(ROOT / "hubtool" / "backends" / "native").glob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in code]
    read = {name for text in texts for name in re.findall(r"HUBTOOL_NATIVE_\w+", text)}
    assert {*first_column(section("engine.md", "Environment variables"))} == read


def test_links_into_a_page_lead_to_a_heading() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            there = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
            plain = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert anchor in plain, f"{page.name}: {target}#{anchor}"
