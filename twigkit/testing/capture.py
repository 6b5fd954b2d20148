"""A capture recorder: shows on any device whether a step could be captured as a CUDA graph.

A graph repeats the kernels of its capture, with the addresses, shapes and numbers that they had
then; none of the Python around them runs again. The recorder runs a piece of a step again in place
of a replay and compares, operation by operation, what both touched of the world outside.

Example:
    >>> import torch
    >>> state = torch.zeros(3)
    >>> record(lambda: state.add_(torch.ones(3)))()  # may be captured, and was run twice
    >>> state.tolist()
    [2.0, 2.0, 2.0]
    >>> record(lambda: state.mul_(state.sum().item()))
    Traceback (most recent call last):
    ...
    twigkit.testing.capture.CaptureError: aten._local_scalar_dense waits for the device
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twigkit.backbone.few_rows import stock_products
from twigkit.errors import TwigkitError
from twigkit.generation.captured_pieces import (
    MOST_GRAPHS,
    CapturedPieces,
    Piece,
    Rewinding,
    WithRoom,
    at_once,
)

_WAITS = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "nonzero_numpy",
    "unique_dim",
    "_unique2",
}
_ON_HOST = {"cpu", "numpy", "tolist", "__array__"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class CaptureError(TwigkitError):
    """A piece of a step that could not be captured, or would be wrong when replayed."""


Trace = list[tuple[str, tuple[Any, ...], tuple[int | float, ...]]]
"""Operations, each with what it touched from outside and the numbers that it was given."""


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation and what it touches from outside; refuses to wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace: Trace = []
        self._made: dict[int, tuple[Any, str]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func._schema.name.split("::")[1], kwargs or {}
        leaves = tree_leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._refuse(name, args, given)
        outside = tuple(self._described(tensor) for tensor in given if not self._own(tensor))
        output = func(*args, **kwargs)
        held = {_storage(tensor) for tensor in given}
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and _storage(leaf) not in held and not self._own(leaf):
                reference: Any = StorageWeakRef(leaf.untyped_storage())  # type: ignore[no-untyped-call]
                self._made[_storage(leaf)] = (reference, name)
        numbers = tuple(leaf for leaf in leaves if isinstance(leaf, int | float))
        self.trace.append((name, outside, numbers))
        return output

    def _refuse(self, name: str, args: Any, given: list[Tensor]) -> None:
        if name in _WAITS:
            raise CaptureError(f"aten.{name} waits for the device")
        if name in ("lift_fresh", "lift_fresh_copy"):
            raise CaptureError("a tensor was made of numbers on the host; allocate it before")
        if name in _INDEXED and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1] or ()
        ):
            raise CaptureError(f"aten.{name} with a bool index waits for the device; use where")
        if name == "repeat_interleave" and isinstance(args[-1], Tensor):
            raise CaptureError("repeat_interleave with a tensor of counts waits for the device")
        if len({tensor.device for tensor in given}) > 1 and name in ("copy_", "_to_copy"):
            raise CaptureError(f"aten.{name} copies between devices")

    def _own(self, tensor: Tensor) -> bool:
        made = self._made.get(_storage(tensor))
        return made is not None and not made[0].expired()

    def _described(self, tensor: Tensor) -> tuple[Any, ...]:
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype

    def left(self) -> list[str]:
        """Name the operations whose results are still there."""
        for collected in (False, True):
            if collected:
                gc.collect()  # what is in a circle only waits for it
            found = [name for reference, name in self._made.values() if not reference.expired()]
            if not found:
                break
        return found


class _HostReads(TorchFunctionMode):
    """Refuses what reads a tensor on the host without an operation that could be seen."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ON_HOST:
            raise CaptureError(f"Tensor.{name}() waits for the device")
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _traced(piece: Callable[[], object]) -> Trace:
    """Run a piece and return its trace.

    Raises:
        CaptureError: If it waits for the device, or something that it allocated outlives it.
    """
    with _Tracer() as tracer, _HostReads():
        piece()
    left = tracer.left()
    if left:
        raise CaptureError(
            f"what aten.{left[0]} allocated outlives the piece; copy it into a tensor that was "
            "allocated before"
        )
    trace: Trace = tracer.trace
    return trace


def record(piece: Callable[[], object]) -> Piece:
    """Run a piece as if it were captured; return what runs it again as if it were replayed.

    Args:
        piece: Works on tensors that were allocated before.

    Returns:
        A function without arguments. It raises :class:`CaptureError` if the piece now does another
        operation than at the capture, or touches another tensor from outside: one with another
        address, shape, stride or dtype.

    Raises:
        CaptureError: If the piece waits for the device, makes tensors of numbers on the host, or
            leaves something that it allocated.
    """
    piece = _as_on_a_gpu(piece)
    captured = _traced(piece)

    def replay() -> None:
        now = _traced(piece)
        for place, (then, again) in enumerate(zip(captured, now, strict=False)):
            if then != again:
                raise CaptureError(_difference(place, then, again))
        if len(captured) != len(now):
            raise CaptureError(f"{len(captured)} operations were captured and {len(now)} replayed")

    return replay


def _as_on_a_gpu(piece: Callable[[], object]) -> Piece:
    """Return a piece whose products are torch's own: a CPU chooses ways to compute them."""

    def run() -> None:
        with stock_products():
            piece()

    return run


def _difference(place: int, then: tuple[Any, ...], again: tuple[Any, ...]) -> str:
    if then[0] != again[0]:
        return f"operation {place} was aten.{then[0]} when captured and is aten.{again[0]} now"
    if then[1] == again[1]:
        return (
            f"aten.{then[0]} was given the numbers {then[2]} when captured and {again[2]} now; a "
            "graph keeps the old ones"
        )
    if len(then[1]) != len(again[1]):
        return f"aten.{then[0]} touched {len(then[1])} tensors from outside and {len(again[1])} now"
    pairs = [pair for pair in zip(then[1], again[1], strict=True) if pair[0] != pair[1]]
    names = ("address", "shape", "stride", "dtype")
    facts = zip(names, *pairs[0], strict=True)
    what, old, new = next((name, a, b) for name, a, b in facts if a != b)
    return f"aten.{then[0]} touches a tensor whose {what} was {old} when captured and is {new} now"


class CaptureRecorder(CapturedPieces):
    """Runs the pieces of steps on any device as if they were captured and replayed.

    What could not be captured, or would be wrong when replayed, raises :class:`CaptureError`
    instead of falling back.

    Attributes:
        captured: How many pieces were recorded.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        """Start with nothing captured."""
        super().__init__(most)
        self.captured = 0
        self._shadow: Any = None

    def drop(self) -> None:
        """Forget what was captured, and where Python was; the next steps are others."""
        super().drop()
        self._shadow = None

    def record(self, piece: Piece) -> Piece:
        """Record a piece."""
        self.captured += 1
        return record(piece)

    def run(
        self, key: Hashable, piece: Piece, step: Rewinding, with_room: WithRoom = at_once
    ) -> bool:
        """Run a piece, and capture it if it ran under its key before."""
        usual = super().run(key, _as_on_a_gpu(piece), step, with_room)
        self._shadow = step.mark()
        return usual

    def replay(self, key: Hashable, step: Rewinding) -> bool:
        """Replay a piece; afterwards Python is where it was, as after a real replay."""
        python = step.mark()
        if self._shadow is not None:
            step.back(self._shadow)
        replayed = super().replay(key, step)
        if replayed:
            self._shadow = step.mark()
        step.back(python)
        return replayed


__all__ = ["CaptureError", "CaptureRecorder", "record"]
