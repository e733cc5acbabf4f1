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
@click.option("--lfs", is_flag=True, help="Take large files by Git LFS where Xet is not installed.")
@click.option(
    "--proxy",
    default="",
    metavar="URL",
    help="The address of a proxy in front, which speaks TLS: https://hub.example.org.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=5_000,
    show_default=True,
    metavar="N",
    help="Requests of one kind that one client may make in five minutes; 0 for any number.",
)
def serve(folder: str | None, host: str, port: int, lfs: bool, proxy: str, limit: int) -> None:
    """Serve the hub in DIR (the embedded one by default) until Ctrl-C.

    The official huggingface_hub client works with it: HF_ENDPOINT=http://127.0.0.1:7860 hf …
    As long as the hub has no users, nobody needs an account on this machine's own address, and on
    any other writing is refused. With users (hubtool hub users add NAME) writing needs a token
    everywhere. Tokens travel in clear, since this speaks no TLS: on a network put a proxy that does
    in front, and name it with --proxy.
    """

    def announce(url: str) -> None:
        click.echo(f"{url}  serves {folder or 'the embedded hub'}; Ctrl-C ends it", err=True)
        click.echo(f"hubtool list --hub {url}", err=True)
        click.echo(f"HF_ENDPOINT={url} hf models ls", err=True)

    hubtool.serve(
        folder, host=host, port=port, lfs=lfs, proxy=proxy, limit=limit, announce=announce
    )
