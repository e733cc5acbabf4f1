"""The `hubtool` command: each subcommand is the shell of one public function.

One module per noun. stdout is data, stderr is talk. Exit codes: 0 done, 1 failed (any HubtoolError,
mapped here and nowhere else), 2 wrong usage (click's own). A traceback is shown with --debug only.
"""

from __future__ import annotations

from typing import Any

import click

import hubtool
from hubtool.cli import (
    backends,
    bench,
    cache,
    card,
    check,
    completion,
    convert,
    elixir,
    export,
    hub,
    info,
    list,
    pull,
    push,
    run,
    serve,
    zoo,
)
from hubtool.errors import HubtoolError

__all__ = ["cli", "main"]


class Hubtool(click.Group):
    """A group that turns what a command raises into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except HubtoolError as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"hubtool: {error}", err=True)
        except Exception as error:
            if ctx.params["debug"]:
                raise
            click.echo(
                f"hubtool: {type(error).__name__}: {error}\n"
                "This is a fault in hubtool, not in what you gave it. `hubtool --debug …` shows "
                "where; please report it.",
                err=True,
            )
        ctx.exit(1)


@click.group(
    cls=Hubtool,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: hubtool convert resnet34.onnx && hubtool run resnet34 cat.jpg",
)
@click.version_option(hubtool.__version__, prog_name="hubtool")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def cli(debug: bool) -> None:
    """ONNX models as native layer graphs: convert, run on any backend, publish and find."""


for command in (
    convert.convert,
    check.check,
    info.info,
    run.run,
    export.export,
    elixir.import_,
    elixir.axon_hub,
    card.card,
    push.push,
    pull.pull,
    list.list_,
    serve.serve,
    hub.hub,
    zoo.zoo,
    cache.cache,
    backends.backends,
    bench.bench,
    completion.completion,
):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    cli(prog_name="hubtool")
