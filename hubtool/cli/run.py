"""`hubtool run`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import hubtool
from hubtool.cli.output import hub_option, json_option, print_json, print_table

__all__ = ["run"]


@click.command(epilog="Example: hubtool run resnet34 cat.jpg --backend torch")
@click.argument("model")
@click.argument("file")
@click.option("--backend", help="One of `hubtool backends`; the fastest that is there by default.")
@click.option("--device", help="Where: cpu, cuda, cuda:1 …")
@click.option("--threads", type=click.IntRange(min=1), help="Threads for one run.")
@click.option("--top", type=click.IntRange(min=1), default=5, help="So many classes (5).")
@click.option("--output", metavar="FILE", help="Write the outputs as .npz, or one as .npy.")
@click.option("--overwrite", is_flag=True, help="Replace the --output file if it exists.")
@click.option("--revision", help="Of a model on a hub: a branch, tag or commit.")
@hub_option
@json_option
def run(
    model: str,
    file: str,
    top: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Run MODEL on FILE: a picture gives the most probable classes, .npy or .npz the outputs.

    MODEL is a folder, an .onnx file, or an id such as axon/resnet34-v1, which is fetched. An .npz
    file names each input; an .npy file is the only one.
    """
    loaded = hubtool.load(model, **where)
    if Path(file).suffix.lower() not in (".npy", ".npz"):
        _classify(loaded, file, top, as_json)
        return
    from hubtool.feeds import read_arrays, write_arrays

    outputs = loaded.run(read_arrays(file, loaded.graph))
    if output:
        write_arrays(output, outputs, overwrite=overwrite)
    _describe(outputs, as_json)


def _classify(model: hubtool.Model, file: str, top: int, as_json: bool) -> None:
    classes = hubtool.classify(model, file, top=top)
    if as_json:
        print_json([{"label": label, "probability": share} for label, share in classes])
    else:
        print_table(("probability", "label"), [(f"{share:.4f}", label) for label, share in classes])
    if model.graph.meta.get("untrained"):
        click.echo("This model is untrained: its weights are random and mean nothing.", err=True)


def _describe(outputs: dict[str, Any], as_json: bool) -> None:
    rows = []
    for name, value in outputs.items():
        dtype, shape, begins = _summary(value)
        rows.append({"name": name, "dtype": dtype, "shape": shape, "begins": begins})
    if as_json:
        print_json(rows)
    else:
        print_table(("output", "dtype", "shape", "begins"), [tuple(row.values()) for row in rows])


def _summary(value: Any) -> tuple[str, list[int], str]:
    """What a value is, its shape (the length of a sequence or map), and how it begins."""
    if value is None:
        return "optional", [], "no value"
    if isinstance(value, list):
        return "sequence", [len(value)], "; ".join(_summary(item)[2] for item in value[:2])
    if isinstance(value, dict):
        shown = (
            f"{key}: {item:.6g}" if isinstance(item, float) else f"{key}: {item}"
            for key, item in [*value.items()][:4]
        )
        return "map", [len(value)], ", ".join(shown)
    flat = value.reshape(-1)[:4].tolist()
    shown = (f"{item:.6g}" if isinstance(item, float) else str(item) for item in flat)
    dtype = "string" if value.dtype.hasobject else str(value.dtype)
    return dtype, list(value.shape), ", ".join(shown)
