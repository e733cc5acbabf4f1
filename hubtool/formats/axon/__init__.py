"""Elixir's Axon: the same model as a Livebook notebook, or as a module.

    Graph ──lower──▶ a list of Axon calls ──▶ notebook (.livemd)
                                          └─▶ module (.ex)

`lower` says what each operator is in Axon; `notebook` and `module` print it, with the prose around
it. Everything is channels first, as ONNX has it, so weights are used as they lie in the file.
`coverage` tells beforehand what cannot be said.
"""

from __future__ import annotations

from hubtool.formats.axon.lower import lower
from hubtool.formats.axon.module import module
from hubtool.formats.axon.notebook import notebook
from hubtool.graph import Graph

__all__ = ["coverage", "module", "notebook"]


def coverage(graph: Graph) -> list[str]:
    """Everything that cannot be said in Axon, each naming its layer and why; [] if all can be.

    Reads no weights but a few small ones, which take part in shapes.

    Example: `coverage(hubtool.read("resnet34"))`
    """
    return lower(graph).problems
