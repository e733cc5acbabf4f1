"""What a run changes of torch's settings, and puts back.

They are torch's own and hold for the whole process: there is no TF32 for one thread alone. So of
runs at the same moment the first sets what it needs and the last puts back what was there; a run
that needs something else waits for those before it. What is computed outside of hubtool meanwhile
is computed so too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["float32_products", "thread_count"]

REDUCTIONS = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)
"""Whether cuBLAS may add up products of 16-bit floats in 16 bits; torch lets it."""


@contextmanager
def thread_count(torch: Any, count: int | None) -> Iterator[None]:
    """So many threads inside the block; None leaves the number as it is."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Shared:
    """How float32 is multiplied in the runs of this moment: their number, whether in TF32, and
    what puts back the settings that were there before."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs = 0
        self.tf32 = False
        self.put_back: Callable[[], None] = lambda: None


SHARED = Shared()


@contextmanager
def float32_products(torch: Any, tf32: bool = False) -> Iterator[None]:
    """float32 products and convolutions in full, or with factors in TF32 on a GPU that has it; and
    sums of 16-bit products in float32."""
    with SHARED.changed:
        SHARED.changed.wait_for(lambda: not SHARED.runs or SHARED.tf32 == tf32)
        if not SHARED.runs:
            SHARED.tf32, SHARED.put_back = tf32, _set(torch, tf32)
        SHARED.runs += 1
    try:
        yield
    finally:
        with SHARED.changed:
            SHARED.runs -= 1
            if not SHARED.runs:
                SHARED.put_back()
                SHARED.changed.notify_all()


def _set(torch: Any, tf32: bool) -> Callable[[], None]:
    """Set it, and give what puts it back."""
    cuda, cudnn, mkldnn = (getattr(torch.backends, key) for key in ("cuda", "cudnn", "mkldnn"))
    changes: list[tuple[Any, str, Any]] = [(cuda.matmul, key, False) for key in REDUCTIONS]
    precision: str | None = None
    try:
        precision = torch.get_float32_matmul_precision()
        changes.append((cudnn, "allow_tf32", tf32))
        before = [(owner, key, getattr(owner, key)) for owner, key, _ in changes]
    except RuntimeError:  # somebody uses torch's newer settings; the older cannot be read then
        precision = None
        word = "tf32" if tf32 else "ieee"
        changes = changes[: len(REDUCTIONS)]
        changes += [(each, "fp32_precision", word) for each in (cuda.matmul, cudnn.conv, cudnn.rnn)]
        changes += [(each, "fp32_precision", "ieee") for each in (mkldnn.matmul, mkldnn.conv)]
        before = [(owner, key, getattr(owner, key)) for owner, key, _ in changes]

    def put(settings: list[tuple[Any, str, Any]], word: str | None) -> None:
        if word is not None:
            torch.set_float32_matmul_precision(word)
        for owner, key, value in settings:
            setattr(owner, key, value)

    put(changes, precision and ("high" if tf32 else "highest"))
    return lambda: put(before, precision)
