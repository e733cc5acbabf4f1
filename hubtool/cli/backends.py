"""`hubtool backends`"""

from __future__ import annotations

import click

import hubtool
from hubtool.cli.output import json_option, print_json, print_table

__all__ = ["backends"]


@click.command(epilog="Example: hubtool backends --json")
@json_option
def backends(as_json: bool) -> None:
    """List the backends: devices, precisions, or why one is not there.

    --json has their element types and options too.
    """
    rows = hubtool.backends()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("backend", "version", "devices", "precisions"),
        [
            (
                f"{row['name']}{' (default)' if row['default'] else ''}",
                row.get("version", "-"),
                ", ".join(row["devices"]) if row["available"] else row["reason"],
                _precisions(row["precisions"]) if row["available"] else "-",
            )
            for row in rows
        ],
    )


def _precisions(known: dict[str, list[str]]) -> str:
    """What all devices have; else each device with its own."""
    listed = {device: ", ".join(precisions) for device, precisions in known.items()}
    if len({*listed.values()}) == 1:
        return next(iter(listed.values()))
    return "; ".join(f"{device}: {precisions}" for device, precisions in listed.items())
