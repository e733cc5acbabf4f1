"""Runs that are made ready once for the shapes that are fed, and then repeated.

    feeds ──key──▶ seen before? ── no ──▶ make: record a CUDA graph, or compile
                        └── yes ──▶ repeat it

What a run does on the device is the same for the same shapes, dtypes and elements of the inputs
that serve as shapes; these are the key. So many are kept, and the one that was not used for longest
goes first. A CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) reads
and writes memory of its own: what is fed is copied in, and what it made is copied out before the
next run may write there. Its runs stand one behind the other on one stream, whatever the thread.

`Cuda` is all that touches torch.cuda. What surrounds it is tested with a stand-in.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np

from hubtool.backends.torch_dtypes import Carried
from hubtool.errors import BackendError
from hubtool.interpreter import Both

__all__ = ["LIMIT", "Compiler", "Cuda", "Graphs", "PerShape", "Recorder"]

Feeds = Mapping[str, Any]
Results = dict[str, Any]
Run = Callable[[Feeds], Results]

LIMIT = 8
"""The combinations of shapes that are kept, where the caller gives no number."""

WARM_UPS = 3
"""Runs before one is recorded: libraries choose kernels and take memory in the first of them."""


class PerShape:
    """A run for each combination of shapes: `make(feeds)` gives it, the last `limit` are kept.

    static: the inputs whose elements count too. One run at a time, where `alone`.
    """

    def __init__(
        self, make: Callable[[Feeds], Run], static: Collection[str], limit: int, *, alone: bool
    ) -> None:
        self.make = make
        self.static = static
        self.limit = limit
        self.alone = alone
        self.lock = threading.RLock()
        self.runs: OrderedDict[tuple[Any, ...], Run] = OrderedDict()

    def __call__(self, feeds: Feeds) -> Results:
        key = tuple(self._part(name, feed) for name, feed in sorted(feeds.items()))
        given = {name: _on_device(feed) for name, feed in feeds.items()}
        with self.lock:
            run = self.runs.get(key) or self.make(given)
            self.runs[key] = run
            self.runs.move_to_end(key)
            while len(self.runs) > self.limit:
                self.runs.popitem(last=False)
            if self.alone:
                return run(given)
        return run(given)

    def _part(self, name: str, feed: Any) -> tuple[Any, ...]:
        array = _on_device(feed)
        elements = array.tobytes() if name in self.static else b""
        return name, str(array.dtype).rpartition(".")[2], tuple(array.shape), elements


class Recorder(Protocol):
    """What records work on a device, as `Cuda` does."""

    def aside(self, feeds: Feeds, made: Results) -> AbstractContextManager[None]:
        """Work inside the block follows what the caller did, and what he does next follows it;
        `made` is filled inside it with what he is to have."""

    def warm(self, function: Callable[[], Results]) -> None:
        """Run it, so that nothing is left to be prepared."""

    def record(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        """What the function makes, and what makes it again in the same memory."""


class Graphs:
    """Makes recorded runs of `run`, for `PerShape`. keeping: see `TorchSpace.keeping`.

    notes: what could not be recorded, and why; such a run goes layer by layer, after a warning.
    """

    def __init__(
        self, run: Run, recorder: Recorder, keeping: Callable[[Any], AbstractContextManager[None]]
    ) -> None:
        self.run = run
        self.recorder = recorder
        self.keeping = keeping
        self.notes: list[str] = []

    def __call__(self, feeds: Feeds) -> Run:
        buffers = {name: _copied(feed) for name, feed in feeds.items()}
        constants: dict[Any, Any] = {}  # alive as long as what reads them
        with self.recorder.aside(feeds, {}), self.keeping(constants):
            self.recorder.warm(lambda: self.run(buffers))
            try:
                outputs, again = self.recorder.record(lambda: self.run(buffers))
            except Exception as error:
                return self._unrecorded(feeds, error)

        def replay(given: Feeds) -> Results:
            assert constants is not None
            made: Results = {}
            with self.recorder.aside(given, made):
                for name, buffer in buffers.items():
                    _fill(buffer, given[name])
                again()
                made.update((name, _copied(value)) for name, value in outputs.items())
            return made

        return replay

    def _unrecorded(self, feeds: Feeds, error: Exception) -> Run:
        shapes = ", ".join(f"{name} {list(feed.shape)}" for name, feed in feeds.items())
        note = f"runs with {shapes} could not be recorded and go layer by layer: {error}"
        self.notes.append(note)
        warnings.warn(f"{note}; options={{'cuda_graphs': False}} asks for that", stacklevel=2)
        return self.run


def _on_device(feed: Any) -> Any:
    """The feed without its double on the host: where that counts, it is fed on the host alone."""
    return feed.device if isinstance(feed, Both) else feed


def _copied(value: Any) -> Any:
    """The value in memory of its own."""
    if isinstance(value, Carried):
        return Carried(value.dtype, value.tensor.clone())
    if value is None:
        return None
    return value.copy() if isinstance(value, np.ndarray) else value.clone()


def _fill(buffer: Any, value: Any) -> None:
    if isinstance(buffer, np.ndarray):
        return  # its elements are part of the key
    if isinstance(buffer, Carried):
        buffer, value = buffer.tensor, value.tensor
    buffer.copy_(value)


class Cuda:
    """Records CUDA graphs on a stream of its own; written by torch's documentation."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.torch = torch
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @contextmanager
    def aside(self, feeds: Feeds, made: Results) -> Iterator[None]:
        current = self.torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        for tensor in self._tensors([*feeds.values()]):
            tensor.record_stream(self.stream)
        with self.torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)
        for tensor in self._tensors([*made.values()]):
            tensor.record_stream(current)

    def warm(self, function: Callable[[], Results]) -> None:
        for _ in range(WARM_UPS):
            function()

    def record(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        graph = self.torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        recording = self.torch.cuda.graph(
            graph, stream=self.stream, capture_error_mode="thread_local"
        )
        with recording:
            made = function()
        return made, graph.replay

    def _tensors(self, values: list[Any]) -> Iterator[Any]:
        for value in values:
            tensor = value.tensor if isinstance(value, Carried) else value
            if isinstance(tensor, self.torch.Tensor):
                yield tensor


class Compiler:
    """Makes compiled runs of `run`, for `PerShape`: torch.compile of what a run does with tensors.

    The run is written down first, as a graph of torch's own operators for the shapes at hand; what
    layers compute on the host is constant in it. Compiled by `torch.compile` with these options.
    """

    def __init__(self, run: Run, torch: Any, **options: Any) -> None:
        self.run = run
        self.torch = torch
        self.options = options

    def __call__(self, feeds: Feeds) -> Run:
        from torch.fx.experimental.proxy_tensor import make_fx

        fed = [name for name, feed in feeds.items() if isinstance(feed, self.torch.Tensor)]
        known = {name: feed for name, feed in feeds.items() if name not in fed}
        fixed: Results = {}
        varying: set[str] = set()

        def flat(*tensors: Any) -> list[Any]:
            made = self.run({**known, **dict(zip(fed, tensors, strict=True))})
            varying.update(n for n, v in made.items() if isinstance(v, self.torch.Tensor))
            fixed.update((n, None if n in varying else v) for n, v in made.items())
            return [made[n] for n in made if n in varying]

        try:
            graph = make_fx(flat)(*(feeds[name] for name in fed))
            compiled = self.torch.compile(graph, fullgraph=True, dynamic=False, **self.options)
            compiled(*(feeds[name] for name in fed))
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = " ".join(lines[:2]) or type(error).__name__
            raise BackendError(
                f"torch cannot compile this model: {reason}",
                hint="Leave the option 'compile' out; the model runs without it, layer by layer.",
            ) from error

        def run(given: Feeds) -> Results:
            made = iter(compiled(*(given[name] for name in fed)))
            return {n: next(made) if n in varying else value for n, value in fixed.items()}

        return run
