"""`hubtool serve`"""

from __future__ import annotations

import click

import hubtool

__all__ = ["serve"]


@click.command(epilog="Example: hubtool serve models --port 8000")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Of that address; 0 for any that is free.",
)
@click.option("--lfs", is_flag=True, help="Tell every client to send large files by LFS.")
def serve(folder: str | None, host: str, port: int, lfs: bool) -> None:
    """Serve the hub in DIR (the embedded one by default) until Ctrl-C.

    The official huggingface_hub client works with it: HF_ENDPOINT=http://127.0.0.1:7860 hf …
    Nobody needs an account on this machine's own address; on any other, writing is refused.
    """

    def announce(url: str) -> None:
        click.echo(f"{url}  serves {folder or 'the embedded hub'}; Ctrl-C ends it", err=True)
        click.echo(f"hubtool list --hub {url}", err=True)
        click.echo(f"HF_ENDPOINT={url} hf models ls", err=True)

    hubtool.serve(folder, host=host, port=port, lfs=lfs, announce=announce)
