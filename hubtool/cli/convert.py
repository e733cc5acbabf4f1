"""`hubtool convert`"""

from __future__ import annotations

from typing import Any

import click

import hubtool
from hubtool.cli.output import json_option, print_json, working

__all__ = ["convert"]


@click.command(epilog="Example: hubtool convert resnet34.onnx resnet34 --preprocess imagenet")
@click.argument("source")
@click.argument("target", required=False)
@click.option("--overwrite", is_flag=True, help="Replace a folder that exists, once all is done.")
@click.option("--verify/--no-verify", default=True, help="Compare with ONNX Runtime (default).")
@click.option("--sample", metavar="NPZ", help="Inputs to verify on, instead of seeded ones.")
@click.option("--tolerance", type=float, help="Part of the largest value that may differ: 1e-4.")
@click.option("--force", is_flag=True, help="Keep a folder that does not pass verification.")
@click.option("--optimize", is_flag=True, help="Fold BatchNormalization for good.")
@click.option("--labels", metavar="FILE", help="Class names, one a line, or 'imagenet'.")
@click.option("--preprocess", metavar="NAME", help="How pictures become inputs: 'imagenet'.")
@json_option
def convert(source: str, target: str | None, as_json: bool, **options: Any) -> None:
    """Turn the ONNX file SOURCE into the native folder TARGET (./<name>/ by default).

    The folder is verified against ONNX Runtime on the source before it is put in place, and keeps
    the report. Nothing is left behind when anything fails.
    """
    with working(f"converting {source}"):
        report = hubtool.convert(source, target, **options)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report)
