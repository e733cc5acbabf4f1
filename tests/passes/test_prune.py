from hubtool.graph import Graph
from hubtool.passes import prune

from .builders import floats, layer, tensor


def test_what_no_output_needs_goes_in_subgraphs_too():
    def branch() -> Graph:
        return Graph(
            layers=[
                layer("Relu", {"X": "x"}, "r"),
                layer("Neg", {"X": "r"}, "unused"),
            ],
            outputs={"r": floats(3)},
            tensors={"spare": tensor((2,), 0)},
        )

    graph = Graph(
        layers=[
            layer("Neg", {"X": "x"}, "y"),
            layer("Neg", {"X": "w"}, "z"),
        ],
        inputs={"x": floats(3)},
        outputs={"y": floats(3)},
        tensors={"w": tensor((3,), 0)},
        values={"z": floats(3)},
    )
    graph.layers[0].attrs["body"] = branch()
    pruned = prune(graph)
    assert [made.outputs for made in pruned.layers] == [["y"]]
    assert (pruned.tensors, pruned.values) == ({}, {})
    body = pruned.layers[0].subgraphs()["body"]
    assert [made.outputs for made in body.layers] == [["r"]]
    assert body.tensors == {}
    assert len(graph.layers[0].subgraphs()["body"].layers) == 2
