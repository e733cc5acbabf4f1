"""`hubtool backends`"""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import json_option, print_json, print_table

__all__ = ["backends"]


@click.command(epilog="Example: hubtool backends --json")
@json_option
def backends(as_json: bool) -> None:
    """List the backends: which are available, on which devices, or why not."""
    rows = hubtool.backends()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("backend", "version", "devices"),
        [
            (
                f"{row['name']}{' (default)' if row['default'] else ''}",
                row.get("version", "-"),
                ", ".join(row["devices"]) if row["available"] else row["reason"],
            )
            for row in rows
        ],
    )
