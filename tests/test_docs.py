"""The documentation says what is: help, operators, links and examples are checked, not trusted."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

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
