"""Running batches that calls of ``generate`` share, and what was captured for them."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.module_look import address
from twigkit.backbone.slot_cache import row_bucket
from twigkit.errors import CapabilityError
from twigkit.generation.captured_pieces import CapturedPieces
from twigkit.generation.captured_prefill import MOST_PROMPTS, CapturedPrefill, plugin_key
from twigkit.generation.cuda_graphs import CudaGraphs
from twigkit.generation.request import GenerationRequest
from twigkit.generation.slot_batch import SlotBatch
from twigkit.generation.step_parts import obstacle
from twigkit.twig.module import Twig

Made = TypeVar("Made")

GraphMode = Literal["auto", "on", "off"]
"""Whether steps are captured: where that is possible on a GPU, always or with an error, never."""

MOST_BATCHES = 8
"""Running batches that are kept at once; the one that was not used for longest goes.

Each keeps the slots of its rows, as large as its longest prompt and answer asked for (0.5 MB for
each token of a 7B in bf16 without grouped heads, so some 0.5 GB for one row of 1,000), and what its
graphs compute with, which is the size of one step's activations and logits. Steps of more drafters
in turn than this are captured anew in every call.
"""


class BatchPool:
    """Keeps running batches from one call of ``generate`` to the next.

    A batch serves calls with the same drafter, ways to select tokens and bucket of rows, or the
    requests of a server with the same drafter. All go when the base or the twig is no longer what
    it was.

    Attributes:
        mode: Whether steps are captured.
        most: Batches that are kept at once.
        most_prompts: Shapes of prompts whose prefill is kept captured at once.
        make_runner: Makes what captures and replays, for a device.
        model: What base and twig were like when a batch was last asked for.
    """

    def __init__(
        self,
        mode: GraphMode = "auto",
        *,
        make_runner: Callable[[torch.device], CapturedPieces] = CudaGraphs,
        most: int = MOST_BATCHES,
    ) -> None:
        """Start empty.

        Args:
            mode: Whether steps are captured.
            make_runner: Makes what captures and replays, for a device.
            most: Batches that are kept at once.
        """
        self.mode, self.most, self.most_prompts = mode, most, MOST_PROMPTS
        self.make_runner = make_runner
        self._kept: OrderedDict[Hashable, SlotBatch] = OrderedDict()
        self.model: ModelLook | None = None
        self._prefill: CapturedPrefill | None = None

    def __len__(self) -> int:
        """How many batches are kept."""
        return len(self._kept)

    @property
    def misses(self) -> int:
        """Pieces and prompts, of all that is kept, that were not replayed but may be next time."""
        prefill = 0 if self._prefill is None else self._prefill.misses
        return prefill + sum(batch.runner.misses for batch in self._kept.values())

    def captures(self, stack: LayerStack, reason: str) -> bool:
        """Say whether steps are to be captured.

        Args:
            stack: The base.
            reason: Why they cannot be; empty if they can.

        Raises:
            CapabilityError: If they must be and cannot.
        """
        if self.mode == "off" or (self.mode == "auto" and stack.entry.type != "cuda"):
            return False
        if reason and self.mode == "on":
            raise CapabilityError(
                f"runtime.graphs is 'on', but steps cannot be captured: {reason}; set it to 'auto'"
            )
        return not reason

    def serves(self, stack: LayerStack, request: GenerationRequest) -> bool:
        """Say whether the steps of a call are to be captured.

        Raises:
            CapabilityError: If they must be and cannot.
        """
        if self.mode == "off" or (self.mode == "auto" and stack.entry.type != "cuda"):
            return False
        return self.captures(stack, reason_against(stack, request))

    @contextmanager
    def batch(
        self,
        stack: LayerStack,
        twig: Twig | None,
        request: GenerationRequest,
        cache: LayerCache,
        compiled: Callable[..., Tensor] | None = None,
    ) -> Iterator[SlotBatch]:
        """Lend a running batch that the rows of a prefilled call can join.

        Nobody else has it meanwhile. After an error it is not kept.

        Args:
            stack: The base.
            twig: The twig, if the drafter uses one.
            request: The call.
            cache: What prefill filled.
            compiled: A compiled verification step.
        """
        used = twig if request.drafter.heads else None
        rows = row_bucket(len(cache.base[0].lengths.host))
        layers = tuple((segment.first, segment.last) for segment in cache.base)
        key = (rows, layers, cache.twig is None, *_kind(request), compiled)
        batch = self.take(key, stack, twig)
        if batch is None or not batch.accepts(cache):
            batch = SlotBatch(
                stack,
                used,
                request.drafter,
                rows=rows,
                selection=request.selection,
                runner=self.make_runner(stack.entry),
                compiled=compiled,
                selector=request.selector,
                with_room=self.with_room,
            )
            batch.made_for = self.model
        else:
            batch.renew(request.drafter)  # which knows the texts of its own call
        del cache  # whose storage may be freed once its rows have joined
        yield batch
        for number in batch.numbers:
            batch.leave(number)
        self.keep(key, batch)

    def take(self, key: Hashable, stack: LayerStack, twig: Twig | None) -> SlotBatch | None:
        """Take a batch that was kept under a key, unless base or twig are no longer what they were.

        Args:
            key: The key.
            stack: The base.
            twig: The twig, if there is one.
        """
        self._look(stack, twig)
        return self._kept.pop(key, None)

    def prefill(self, stack: LayerStack, twig: Twig | None) -> CapturedPrefill:
        """Return what prefills the prompts of captured steps, and captures that too.

        Args:
            stack: The base.
            twig: The twig, if there is one.
        """
        self._look(stack, twig)
        if self._prefill is None:
            self._prefill = CapturedPrefill(partial(self.make_runner, stack.entry))
        self._prefill.most = self.most_prompts
        return self._prefill

    def _look(self, stack: LayerStack, twig: Twig | None) -> None:
        """Drop everything if base or twig are no longer what they were."""
        now = ModelLook(stack, twig)
        if self.model is None or not self.model.same(now):
            self.drop()
            self.model = now

    def keep(self, key: Hashable, batch: SlotBatch) -> None:
        """Keep a batch whose rows have all left; the one that was not used for longest goes.

        One that was made for another base or twig is not kept.
        """
        if batch.made_for is not self.model:
            return
        self._kept[key] = batch
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def with_room(self, work: Callable[[], Made]) -> Made:
        """Run something; if the device's memory is full, free what no call uses and run it again.

        Args:
            work: What needs memory; it must be possible to run it again after it failed.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self._kept and self._prefill is None:
                raise
        self._kept.clear()  # not while the error holds on to what failed
        if self._prefill is not None:
            self._prefill.clear()
        gc.collect()  # answers that are over, and refer to themselves
        return work()

    def drop(self) -> None:
        """Free all slots and graphs; those of a call that runs go when it ends."""
        self._kept.clear()
        self.model = self._prefill = None


def reason_against(stack: LayerStack, request: GenerationRequest) -> str:
    """Say why the steps of a call cannot be captured; empty if they can."""
    drafter, selection = request.drafter, request.selection
    if request.outputs.scores or request.outputs.logits:
        return "scores or logits are wanted"
    if request.stop.joint:
        return "a stopping criterion sees all rows after every token"
    if not selection.greedy and any(step.settings is None for step in selection.steps):
        return "a logits processor is not twigkit's own"
    return obstacle(stack, drafter, selection)


def _kind(request: GenerationRequest) -> tuple[Hashable, ...]:
    """What calls must have in common to share a batch."""
    steps = tuple(step.settings for step in request.selection.steps)
    chosen = (request.selection.draws, request.selection.sampling, steps)
    selector: Any = request.selector
    return plugin_key(request.drafter), chosen, selector


class ModelLook:
    """What a base and a twig were like, so that a change is noticed.

    What runs a layer is another object once anything about the layer has changed, as of the last
    prompt; of all others, weights and buffers by address, and hooks.
    """

    def __init__(self, stack: LayerStack, twig: Twig | None) -> None:
        """Look at what a step runs through."""
        parts: list[nn.Module] = [stack.text, stack.model.get_output_embeddings()]
        layers: list[Any] = [stack.text.layers]
        self._runners: list[Any] = [*stack.layers]
        if twig is not None:
            parts.append(twig)
            layers.append(twig.layers)
            self._runners += [twig, *twig.runners(stack)]
        self._found: list[tuple[int, ...]] = []
        while parts:
            module = parts.pop()
            if any(module is each for each in layers):
                continue
            parts += [part for part in module._modules.values() if part is not None]
            self._found.append((*module._forward_hooks, *module._forward_pre_hooks))
            held = (*module._parameters.values(), *module._buffers.values())
            self._found.append(tuple(map(address, held)))

    def same(self, other: ModelLook) -> bool:
        """Say whether nothing has changed."""
        return (
            len(self._runners) == len(other._runners)
            and all(a is b for a, b in zip(self._runners, other._runners, strict=True))
            and self._found == other._found
        )


__all__ = ["BatchPool", "GraphMode", "reason_against"]
