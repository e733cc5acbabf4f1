"""Writes docs/cli.md: the help of every command, as the command line prints it."""

from __future__ import annotations

from pathlib import Path

import click

from hubtool.cli import cli

__all__ = ["render"]

HEAD = """# Command line

What `--help` prints, for every command. (`python docs/make_cli.py` writes this page.)

Exit codes: 0 done, 1 failed (the message says what, where, and what to do next), 2 wrong usage.
stdout is data, stderr is talk. `hubtool --debug …` shows a traceback. Completion of commands and
options: `hubtool completion bash >> ~/.bashrc` (or zsh, fish).
"""


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections(cli, "hubtool", None)])


def _sections(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    settings = {**cli.context_settings, "max_content_width": 90, "terminal_width": 90}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    sections = [f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            sections += _sections(command.commands[child], child, context)
    return sections


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(render(), encoding="utf-8")
