"""Prefill of prompts whose shape came before: captured the second time, replayed from then on.

What prefill decides on the host follows from how many tokens each row has, how many of them are
visual, and the pruner's plan. Prompts that have all of this in common run the same kernels over the
same shapes. Questions about pictures of one size do once they are lengthened to one number of
tokens (:mod:`twigkit.generation.prompt_bucket`). Their tensors are copied into those of the
capture, and what a replay gives is copied out of it at once, so that nothing of one prompt can be
seen by another.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.arena import Arena
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.errors import FamilyWarning, PluginError, first_line
from twigkit.generation.captured_pieces import CapturedPieces, Piece
from twigkit.generation.prefill import Prefilled, Storage, prefill
from twigkit.generation.prompt_bucket import PromptBuckets
from twigkit.generation.step_snapshot import same
from twigkit.generation.visual_choice import ends_visual
from twigkit.interfaces.pruner import Pruner, Stage
from twigkit.twig.module import Twig

MOST_PROMPTS = 16
"""Shapes of prompts that are kept captured at once; the least recently used goes."""

MOST_TOKENS = 4096
"""Tokens of all rows beyond which launching kernels takes less time than they do themselves."""

Run = Callable[[Prompt, Storage], Prefilled]
"""Prefills a prompt as it is."""


@dataclass(frozen=True)
class _Captured:
    """A captured prefill.

    Attributes:
        inputs: Tensors of the prompt that it reads.
        filled: What it gives; its keys and values lie in the arena.
        replay: Replays it.
        run: What it captured: keeps a pruner that the key names by identity, or another one could
            come to have the same.
    """

    inputs: list[Tensor]
    filled: Prefilled
    replay: Piece
    run: Run

    def fill(self, prompt: Prompt) -> Prefilled:
        """Prefill a prompt of the same shape; nothing of what is returned is written again."""
        for mine, theirs in zip(self.inputs, tensors_of(prompt), strict=True):
            mine.copy_(theirs)
        self.replay()
        return self.filled.mapped(torch.clone)


class CapturedPrefill:
    """Prefills prompts, and captures prefill where prompts of the same shape come again.

    Attributes:
        most: Shapes that are kept at once, and those that are remembered to have come once.
        failed: Why nothing is captured any more; empty while all is well.
        replays: How many prompts were prefilled by a replay.
        misses: How many were not, but may be when they come again.
    """

    def __init__(self, make_runner: Callable[[], CapturedPieces], most: int = MOST_PROMPTS) -> None:
        """Start with nothing captured.

        Args:
            make_runner: Makes what captures, once it is needed.
            most: Shapes that are kept at once.
        """
        self.most, self.failed, self.replays, self.misses = most, "", 0, 0
        self._make_runner = make_runner
        self._runner: CapturedPieces | None = None
        self._arena = Arena()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._buckets = PromptBuckets()
        self._lock, self._full = threading.Lock(), False

    def __len__(self) -> int:
        """How many shapes are captured."""
        return len(self._captured)

    def fill(
        self,
        stack: LayerStack,
        prompt: Prompt,
        storage: Storage,
        *,
        twig: Twig | None = None,
        pruner: Pruner | None = None,
        stages: Iterable[Stage] = (),
        generator: torch.Generator | None = None,
    ) -> Prefilled:
        """Prefill a prompt, as :func:`twigkit.generation.prefill.prefill` does.

        While another thread prefills, a prompt is prefilled without a replay.
        """
        stages = list(stages)
        ends = ends_visual(prompt) if stages else []
        run = partial(
            prefill,
            stack,
            twig=twig,
            pruner=pruner,
            stages=stages,
            generator=generator,
            ends=ends,
        )
        if self.failed or not capturable(stack, prompt, pruner, stages):
            return run(prompt, storage)
        kind = twig is not None, None if pruner is None else plugin_key(pruner)
        alone = partial(run, storage=storage)
        longer = self._buckets.longer(prompt, ends, stack, twig, kind, alone)
        added = longer.ids.shape[1] - prompt.ids.shape[1]
        key = (storage, kind[0], _shape(longer), _plan(pruner, stages), tuple(ends))
        if not self._lock.acquire(blocking=False):
            return alone(longer).without_last(added)
        try:
            layers = stack.depth + (0 if twig is None else twig.depth)
            filled = self._fill(key, longer, storage, run, layers / stack.depth)
        finally:
            self._lock.release()
        return filled.without_last(added)

    def _fill(
        self, key: Hashable, prompt: Prompt, storage: Storage, run: Run, layers: float
    ) -> Prefilled:
        """Replay a prefill, or run it and perhaps capture it for the next time.

        Args:
            key: What prompts have in common that may share a capture.
            prompt: The prompt.
            storage: Layout of the cache.
            run: Prefills a prompt.
            layers: Layers of base and twig for one of the base.
        """
        captured = self._captured.get(key)
        if captured is not None:
            self._captured.move_to_end(key)
            self.replays += 1
            return captured.fill(prompt)
        self.misses += 1
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > self.most:  # so that many shapes in turn are not captured in turn
                self._seen.popitem(last=False)
            return run(prompt, storage)
        del self._seen[key]
        measured = Arena()
        filled = run(prompt, replace(storage, zeros=measured.zeros))
        # As much as the prompt takes unpruned and with drafts, so that room is made once.
        per_token = filled.cache.bytes_per_token()[0] * layers
        size = max(measured.used, int(prompt.ids.numel() * per_token))
        try:
            problem = self._capture(key, prompt, storage, run, filled, size)
        except torch.OutOfMemoryError:
            self._seen[key] = None  # whoever makes room may try it again
            raise
        if problem:
            self._give_up(problem)
        return filled

    def _capture(
        self,
        key: Hashable,
        prompt: Prompt,
        storage: Storage,
        run: Run,
        expected: Prefilled,
        size: int,
    ) -> str:
        """Capture a prefill and compare its first replay with what prefill gave.

        Args:
            key: What prompts have in common that may share it.
            prompt: The prompt.
            storage: Layout of the cache.
            run: Prefills a prompt.
            expected: What it gave.
            size: Bytes for keys and values.

        Returns:
            What went wrong; empty if nothing did.
        """
        try:
            if self._runner is None:
                self._runner = self._make_runner()
            arena = self._reserve(size, prompt.hidden.device)
            inputs, layout = prompt.mapped(torch.clone), replace(storage, zeros=arena.zeros)
            made: list[Prefilled] = []

            def first() -> None:
                arena.rewind()
                made.append(run(inputs, layout))

            self._runner.warm_up(first)
            filled = made.pop().mapped(lambda each: each if arena.holds(each) else each.clone())
            outputs = tensors_of(filled)

            def piece() -> None:
                arena.rewind()
                for mine, theirs in zip(outputs, tensors_of(run(inputs, layout)), strict=True):
                    if not arena.holds(theirs):
                        mine.copy_(theirs)

            replay = self._runner.record(piece)
            for tensor in outputs:
                tensor.zero_()  # so that a replay that does nothing is noticed
            replay()
            if not _same(outputs, tensors_of(expected), prompt.hidden.dtype):
                return "its replay gave other states, keys or values"
        except torch.OutOfMemoryError as error:
            if not self._full:
                self._full = True  # room is made once, not for every prompt in turn
                raise
            return first_line(error)
        except (RuntimeError, PluginError) as error:  # the latter of a pruner that waits
            return first_line(error)
        self._captured[key] = _Captured(tensors_of(inputs), filled, replay, run)
        while len(self._captured) > self.most:
            self._captured.popitem(last=False)
        return ""

    def _reserve(self, size: int, device: torch.device) -> Arena:
        """Return the arena, or a larger one; what was captured over the smaller one goes."""
        if self._arena.size < size:
            self._captured.clear()
            self._arena = Arena()  # before the next one is allocated
            step = 1 << max(size.bit_length() - 2, 0)  # so that it grows rarely
            self._arena = Arena(-(-size // step) * step, device)
        return self._arena

    def clear(self) -> None:
        """Free what was captured, and what it computes in; wait for a thread that uses it."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._captured.clear()
        self._runner, self._arena, self._buckets = None, Arena(), PromptBuckets()

    def _give_up(self, problem: str) -> None:
        self._clear()
        self._seen.clear()
        self.failed = problem
        warnings.warn(
            f"prefill could not be captured, so it runs as it is: {problem}; set runtime.graphs "
            "to 'off' to silence this",
            FamilyWarning,
            stacklevel=2,
        )


def capturable(
    stack: LayerStack, prompt: Prompt, pruner: Pruner | None, stages: Sequence[Stage]
) -> bool:
    """Say whether a prefill can be captured, and is worth it.

    Args:
        stack: The base; captured steps can serve it.
        prompt: The prompt.
        pruner: Scores tokens at the stages.
        stages: Where visual tokens go.
    """
    rows, tokens = prompt.ids.shape
    if rows * tokens > MOST_TOKENS or prompt.vision is not None or prompt.table:
        return False
    if stack.kernel == "flex" or (stack.kernel == "flash" and rows > 1):
        return False  # the latter packs padded rows by numbers on the host
    if pruner is None or not stages:
        return True
    # The rows of all text tokens are as many as the device counts.
    return "capturable" in pruner.capabilities and all(each.rows == "last" for each in stages)


def plugin_key(plugin: Any) -> Hashable:
    """Return what plug-ins of the same kind have in common if they do the same: their settings."""
    spec: Any = getattr(plugin, "spec", None)
    return type(plugin), spec.to_json() if hasattr(spec, "to_json") else id(plugin)


def _shape(prompt: Prompt) -> Hashable:
    """Return what prefill knows of a prompt on the host."""
    return (
        tuple(prompt.hidden.shape),
        prompt.hidden.dtype,
        prompt.hidden.device,
        tuple(prompt.lengths),
        tuple(prompt.visual_counts),
        prompt.span,
        tuple(prompt.inject),
        prompt.blocks is not None,
        prompt.blocks_slide,
        prompt.fillers is not None,
    )


def _plan(pruner: Pruner | None, stages: Sequence[Stage]) -> Hashable:
    """Return a pruner and its stages, whatever else a plug-in's own stages say."""
    return None if pruner is None else plugin_key(pruner), tuple(map(repr, stages))


def tensors_of(thing: Prompt | Prefilled) -> list[Tensor]:
    """Return all tensors of a prompt or of what prefill gave, always in the same order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    thing.mapped(note)
    return found


def _same(first: Sequence[Tensor], second: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Compare tensors in the states' precision, part by part, which needs less memory."""
    for one, other in zip(first, second, strict=True):
        if one.shape != other.shape:
            return False
        for a, b in zip(
            *(each.unbind(0) if each.ndim else [each] for each in (one, other)), strict=True
        ):
            if a.is_floating_point():
                a, b = a.to(dtype), b.to(dtype)
            if not same(a, b):
                return False
    return True


__all__ = ["MOST_PROMPTS", "MOST_TOKENS", "CapturedPrefill", "capturable", "plugin_key"]
