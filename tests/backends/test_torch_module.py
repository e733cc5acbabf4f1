"""A graph as a torch module: torch's own gradients, the frozen untouched and the learned saved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from passes.builders import floats, layer, tensor
from torch import nn
from torch.nn import functional as F

from hubtool import Graph, Model, Tensor
from hubtool.backends.torch_module import Module
from hubtool.errors import InputError, RunError

C, K = 3, 5


class Net(nn.Module):
    """What torch itself makes of the graph below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)
        self.norm = nn.BatchNorm2d(C, momentum=0.1)
        self.head = nn.Linear(C, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.conv(x)) + x)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


def graph_of(net: Net) -> Graph:
    """The same, with the names of its state."""
    state = {key: value.numpy().copy() for key, value in net.state_dict().items() if value.ndim}
    norm = dict(zip(("scale", "B", "input_mean", "input_var"), NORM, strict=True))
    return Graph(
        layers=[
            layer("Conv", {"X": "x", "W": "conv.weight", "B": "conv.bias"}, "c", pads=[1, 1, 1, 1]),
            layer("BatchNormalization", {"X": "c", **norm}, "n"),
            layer("Add", {"A": "n", "B": "x"}, "a"),
            layer("Relu", {"X": "a"}, "r"),
            layer("GlobalAveragePool", {"X": "r"}, "p"),
            layer("Flatten", {"input": "p"}, "f"),
            layer("Gemm", {"A": "f", "B": "head.weight", "C": "head.bias"}, "y", transB=1),
        ],
        inputs={"x": floats("N", C, 4, 4)},
        outputs={"y": floats("N", K)},
        tensors={key: Tensor.of(array) for key, array in state.items()},
        meta={"name": "net", "source": {"file": "net.onnx", "sha256": "0" * 64}, "labels": ["a"]},
    )


NORM = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, C, 4, 4, generator=generator)
    return x, torch.randint(0, K, (6,), generator=generator)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 1) -> float:
    x, y = batch(seed)
    optimizer.zero_grad()
    loss = F.cross_entropy(module(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_its_names_are_those_of_the_folder_and_of_torch(net: Net) -> None:
    module = Module(graph_of(net))
    assert dict(module.named_parameters()).keys() == dict(net.named_parameters()).keys()
    wanted = {key for key, value in net.named_buffers() if value.ndim}
    assert dict(module.named_buffers()).keys() == wanted
    module.load_state_dict({k: v for k, v in net.state_dict().items() if v.ndim})
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_its_gradients_are_torchs_own(net: Net, training: bool) -> None:
    module = Module(graph_of(net)).train(training)
    net.train(training)
    x, y = batch()
    for each in (module, net):
        F.cross_entropy(each(x), y).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(module.get_parameter(name).grad, parameter.grad)
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(module.get_buffer(name), net.get_buffer(name))


def test_it_trains_as_torch_does_and_what_was_learned_is_saved(net: Net) -> None:
    module = Module(graph_of(net))
    both = [(each, torch.optim.SGD(each.parameters(), lr=0.1)) for each in (module, net)]
    losses = [[step(*each, seed=n % 3) for n in range(12)] for each in both]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert sum(losses[0][-3:]) < sum(losses[0][:3])
    graph = module.graph("better", data="noise", epochs=4)
    module.eval()
    x, _ = batch(9)
    wanted = module(x).detach().numpy()
    for backend in ("numpy", "torch", "onnxruntime"):
        np.testing.assert_allclose(Model(graph, backend=backend)(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_saved_graph_tells_where_it_comes_from_and_claims_nothing_of_its_source(net: Net) -> None:
    module = Module(graph_of(net))
    module.freeze("conv.*")
    meta = module.graph("better", data="noise").meta
    assert meta["name"] == "better" and meta["labels"] == ["a"] and "source" not in meta
    assert meta["training"] == {
        "base": {"name": "net", "source": {"file": "net.onnx", "sha256": "0" * 64}},
        "trained_parameters": 2 * C + K * C + K,
        "frozen_parameters": 9 * C * C + C,
        "data": "noise",
    }


def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(net: Net) -> None:
    module = Module(graph_of(net))
    assert module.freeze("conv.*", "norm.*") == ["conv.weight", "conv.bias", *NORM]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        step(module, optimizer)
    moved = {name for name, value in module.state_dict().items() if not value.equal(before[name])}
    assert moved == {"head.weight", "head.bias"}
    graph = module.graph()
    assert {n for n, t in graph.tensors.items() if t != graph_of(net).tensors[n]} == moved
    module.unfreeze("norm.running_*")
    step(module, optimizer)
    assert not module.get_buffer("norm.running_mean").equal(before["norm.running_mean"])


def test_a_pattern_that_names_nothing_is_refused(net: Net) -> None:
    with pytest.raises(InputError, match="no weight is called 'layer4'"):
        Module(graph_of(net)).freeze("conv.*", "layer4")


def test_a_copy_is_a_module_of_its_own(net: Net) -> None:
    module = Module(graph_of(net))
    other = copy.deepcopy(module)
    step(other, torch.optim.SGD(other.parameters(), lr=1.0))
    assert not other.get_parameter("head.weight").equal(module.get_parameter("head.weight"))
    x, _ = batch()
    net.eval(), module.eval()
    torch.testing.assert_close(module(x), net(x))


def test_dropout_drops_in_training_only() -> None:
    graph = Graph(
        layers=[layer("Dropout", {"data": "x", "ratio": "r"}, "y")],
        inputs={"x": floats(1000)},
        outputs={"y": floats(1000)},
        tensors={"r": Tensor.of(np.array(0.25, np.float32))},
    )
    module, x = Module(graph), torch.ones(1000)
    kept = module(x).detach()
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert 600 < int((kept > 0).sum()) < 900
    assert module.eval()(x).equal(x)
    assert not dict(module.named_parameters()), "a rate is not learned"


def test_names_that_torch_would_not_take_are_kept() -> None:
    names = ["a", "a.b", "forward", "x..y", "0"]
    graph = Graph(
        layers=[
            layer("Mul", {"A": "in", "B": names[0]}, "v0"),
            *[
                layer("Mul", {"A": f"v{i}", "B": name}, f"v{i + 1}")
                for i, name in enumerate(names[1:])
            ],
        ],
        inputs={"in": floats(2)},
        outputs={"v4": floats(2)},
        tensors={name: tensor((2,), n) for n, name in enumerate(names)},
    )
    module = Module(graph)
    assert {*dict(module.named_parameters())} == {*names} == {*module.state_dict()}
    module(torch.ones(2)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().min() > 0 for p in module.parameters())
    again = Module(graph)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(module.state_dict())
    assert again(torch.ones(2)).equal(module(torch.ones(2)))


def test_inputs_are_taken_in_order_or_by_name_and_told_when_wrong(net: Net) -> None:
    module = Module(graph_of(net)).eval()
    x, _ = batch()
    assert module(x=x).equal(module(x)) and module(x.numpy()).equal(module(x))
    with pytest.raises(InputError, match=r"'x' is missing\n  - 'z' is no input"):
        module(z=x)
    with pytest.raises(InputError, match="2 inputs were given"):
        module(x, x)


def test_a_gradient_that_cannot_pass_the_host_is_an_error() -> None:
    graph = Graph(
        layers=[
            layer("Mul", {"A": "x", "B": "w"}, "m"),
            layer("Unique", {"X": "m"}, "y"),
        ],
        inputs={"x": floats(3)},
        outputs={"y": floats(None)},
        tensors={"w": tensor((3,), 0)},
    )
    module = Module(graph)
    with pytest.raises(RunError, match="no gradient passes through it"):
        module(torch.ones(3))
    module.freeze("w")
    assert module(torch.ones(3)).tolist() == sorted(graph.tensors["w"].array.tolist())
