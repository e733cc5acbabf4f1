"""A model made to break out: every word of it that ends in a notebook tries to run code."""

from __future__ import annotations

from hubtool.graph import Graph

from .graphs import PREPROCESSING, classifier

MARK = "BROKEN_OUT"

RUN = f'File.write!("{MARK}", "")'
"""What must never run."""

ATTACKS = [
    f"#{{{RUN}}}",
    f'"); {RUN}; IO.inspect("',
    f'"\n{RUN}\n"',
    f"\n```\n\n```elixir\n{RUN}\n```\n",
    f'"""\n{RUN}\n"""',
    f"\\#{{{RUN}}}",
    f"\\\\#{{{RUN}}}",
    f"~s({{{RUN}}})\r\n```elixir\r\n{RUN}\r\n```",
    f"x\u2028```elixir\u2028{RUN}",
    f"{{n}}#{{{RUN}}}",
    f"<script>{RUN}</script><!-- livebook:{{}} -->",
    f"end\n\ndef model do\n{RUN}\nend",
]
"""Interpolation, the end of a string or line, a cell of its own, the end of a heredoc."""


def hostile() -> Graph:
    """The classifier, all its names replaced by attacks."""
    graph = classifier()
    renamed: dict[str, str] = {}

    def attack(name: str) -> str:
        if name not in renamed:
            text = ATTACKS[len(renamed) % len(ATTACKS)]
            renamed[name] = f"{text}{len(renamed)}"
        return renamed[name]

    for layer in graph.layers:
        layer.name = attack(f"layer {layer.name}")
        for formal, value in layer.inputs.items():
            assert isinstance(value, str)
            layer.inputs[formal] = attack(value)
        layer.outputs = [attack(name) for name in layer.outputs]
    graph.tensors = {attack(name): tensor for name, tensor in graph.tensors.items()}
    graph.inputs = {attack(name): value for name, value in graph.inputs.items()}
    graph.outputs = {attack(name): value for name, value in graph.outputs.items()}
    graph.meta = {
        "title": f"{ATTACKS[3]}{ATTACKS[0]}",
        "name": ATTACKS[4] + ATTACKS[3],
        "licence": ATTACKS[3] + ATTACKS[0],
        "labels": [ATTACKS[3], f"```elixir\n{RUN}\n```", ATTACKS[0]],
        "preprocessing": PREPROCESSING,
        "notes": [ATTACKS[3]],
    }
    return graph
