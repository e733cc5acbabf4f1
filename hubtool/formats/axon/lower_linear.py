"""Matrix products: Axon.dense where a weight is the matrix, else Nx.dot."""

from __future__ import annotations

from hubtool.formats.axon.lower import Builder, lowers
from hubtool.formats.axon.lower_activation import number
from hubtool.formats.axon.lower_body import Body
from hubtool.formats.axon.lower_data import Parameter, Unsayable
from hubtool.formats.axon.lower_elementwise import is_integer
from hubtool.formats.axon.names import brackets
from hubtool.graph import Layer

__all__: list[str] = []


@lowers("Gemm")
def gemm(b: Builder, layer: Layer) -> None:
    """Axon.dense has its kernel as [in, out], so one that is transposed is turned when loaded."""
    A, B, C = (layer.inputs.get(formal) for formal in "ABC")
    attrs = layer.attrs
    plain = attrs["alpha"] == 1.0 and not attrs["transA"] and b.plain(B, rank=2)
    biased = C is not None and attrs["beta"] != 0
    biased_plainly = not biased or (attrs["beta"] == 1.0 and b.plain(C, rank=1))
    if plain and biased_plainly:
        turn = "&Nx.transpose/1" if attrs["transB"] else ""
        parameters = [b.parameter("kernel", B, turn)]
        parameters += [b.parameter("bias", C)] if biased else []
        _dense(b, layer, A, b.facts.shapes[layer.outputs[0]][0][1], parameters)
        return
    body = Body(b, layer)
    a, w = body.read("A"), body.read("B")
    a = f"Nx.transpose({a})" if attrs["transA"] else a
    w = f"Nx.transpose({w})" if attrs["transB"] else w
    y = _times(b, layer, f"Nx.dot({a}, {w})", "alpha")
    if biased:
        y = f"Nx.add({y}, {_times(b, layer, body.read('C'), 'beta')})"
    body.returns(y)


def _times(b: Builder, layer: Layer, text: str, key: str) -> str:
    factor = layer.attrs[key]
    assert isinstance(factor, float)
    if factor == 1.0:
        return text
    whole = is_integer(b.dtype(layer.outputs[0]))
    return f"Nx.multiply({text}, {int(factor) if whole else number(layer, key)})"


def _dense(b: Builder, layer: Layer, x: object, units: int, parameters: list[Parameter]) -> None:
    options = [] if len(parameters) == 2 else [("use_bias", "false")]
    b.call(layer, "Axon.dense", [b.variable(x), str(units)], options, parameters)


@lowers("MatMul")
def mat_mul(b: Builder, layer: Layer) -> None:
    """As numpy's matmul: the last two axes are matrices, those before them are a batch."""
    A, B = str(layer.inputs["A"]), str(layer.inputs["B"])
    a, w = b.rank(A), b.rank(B)
    if b.plain(B, rank=2) and a >= 2:
        _dense(b, layer, A, b.facts.shapes[B][0][1], [b.parameter("kernel", B)])
        return
    body = Body(b, layer)
    left, right = body.read("A"), body.read("B")
    if a == 1 or w <= 2:
        contracted = max(w - 2, 0)
        if w > 2:  # a vector times a stack of matrices
            body.returns(f"Nx.dot({left}, [0], {right}, [{contracted}])")
        else:
            body.returns(f"Nx.dot({left}, [-1], {right}, [{contracted}])")
        return
    batch = list(range(max(a, w) - 2))
    wanted = b.dims(layer.outputs[0])[: len(batch)]
    lines = []
    for name, value, text in (("a", A, left), ("b", B, right)):
        if b.dims(value)[:-2] != wanted:
            rank = b.rank(value)
            sizes = [body.size(dim) for dim in wanted]
            sizes += [body.axis(value, axis) for axis in (rank - 2, rank - 1)]
            lines.append(f"{name} = Nx.broadcast({text}, {{{', '.join(sizes)}}})")
            left, right = (name, right) if value == A else (left, name)
    last = len(batch) + 1
    product = f"{left}, [{last}], {batch}, {right}, [{last - 1}], {batch}"
    body.returns(*lines, f"Nx.dot({product})")


@lowers("Einsum")
def einsum(b: Builder, layer: Layer) -> None:
    """Of one or two operands whose letters are all different, as a sum or one product."""
    names = layer.inputs["Inputs"]
    equation = str(layer.attrs["equation"]).replace(" ", "")
    left, arrow, wanted = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        wanted = "".join(sorted(c for c in {*left} - {","} if left.count(c) == 1))
    if "." in equation or len(terms) > 2 or any(len({*t}) < len(t) for t in terms):
        raise Unsayable(f"its equation '{equation}' is more than a product of two")
    body = Body(b, layer)
    operands = []
    for i, (term, name) in enumerate(zip(terms, names, strict=True)):
        others = {*wanted, *"".join(terms[:i] + terms[i + 1 :])}
        text = body.read("ab"[i], name)
        gone = [axis for axis, c in enumerate(term) if c not in others]
        text = f"Nx.sum({text}, axes: {gone})" if gone else text
        operands.append((text, "".join(c for c in term if c in others)))
    if len(operands) == 1:
        ((text, letters),) = operands
    else:
        text, letters = _product(operands, wanted)
    order = [letters.index(c) for c in wanted]
    body.returns(text if order == sorted(order) else f"Nx.transpose({text}, axes: {order})")


def _product(operands: list[tuple[str, str]], wanted: str) -> tuple[str, str]:
    (x, a), (y, c) = operands
    batch = [letter for letter in a if letter in c and letter in wanted]
    inner = [letter for letter in a if letter in c and letter not in wanted]
    rows = [letter for letter in a if letter not in c]
    columns = [letter for letter in c if letter not in a]

    def arranged(text: str, letters: str, order: list[str]) -> str:
        axes = [letters.index(letter) for letter in order]
        return text if axes == sorted(axes) else f"Nx.transpose({text}, axes: {axes})"

    x, y = arranged(x, a, batch + rows + inner), arranged(y, c, batch + inner + columns)
    n, k = len(batch), len(inner)
    shared = brackets(range(n))
    first = brackets(range(n + len(rows), n + len(rows) + k))
    second = brackets(range(n, n + k))
    return f"Nx.dot({x}, {first}, {shared}, {y}, {second}, {shared})", "".join(
        batch + rows + columns
    )
