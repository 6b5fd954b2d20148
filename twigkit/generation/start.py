"""From a prompt and a request to a prefilled generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.context import check_length, warn_of_length
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.loop import Generation
from twigkit.generation.prefill import Prefilled, Storage, prefill
from twigkit.generation.pruning_plan import meet_budget
from twigkit.generation.request import GenerationRequest
from twigkit.interfaces.pruner import PromptLayout, Stage
from twigkit.plugins.blame import blamed_on
from twigkit.twig.module import Twig


def begin(
    stack: LayerStack,
    request: GenerationRequest,
    twig: Twig | None,
    compiled: Callable[..., Tensor] | None,
    batches: BatchPool,
) -> Generation:
    """Embed a prompt and start, also where captured steps of other calls fill the memory.

    Args:
        stack: The base.
        request: What is asked for.
        twig: The twig, if drafter or pruner uses one.
        compiled: A compiled verification step.
        batches: Captured steps of earlier calls; they go if there is no room beside them.

    Returns:
        As :func:`start`.

    Raises:
        InputError: As :func:`start`, or if the base refuses the prompt.
        BudgetError: As :func:`start`.
    """
    generator = torch.default_generator if request.generator is None else request.generator
    before = generator.get_state()

    def embed_and_start() -> Generation:
        generator.set_state(before)  # so that a pruner draws the same the second time
        return start(stack, request.embed(stack), request, twig, compiled, batches)

    return batches.with_room(embed_and_start)


def start(
    stack: LayerStack,
    prompt: Prompt,
    request: GenerationRequest,
    twig: Twig | None = None,
    compiled: Callable[..., Tensor] | None = None,
    batches: BatchPool | None = None,
) -> Generation:
    """Plan the pruning of a prompt, lay out the KV cache, and prefill.

    Args:
        stack: The base.
        prompt: The prompt before the first layer.
        request: What is asked for.
        twig: The twig, if drafter or pruner uses one.
        compiled: A compiled verification step.
        batches: Captured steps of earlier calls; ``None`` captures none.

    Returns:
        The generation; its ``run`` does the rest.

    Raises:
        InputError: If prompt and answer do not fit the model's table of positions.
        BudgetError: If the budget cannot be met.
    """
    check_length(stack.text, prompt.span + request.stop.max_new_tokens)
    warn_of_length(stack.config, prompt.span)
    if request.bucketed is None:
        request = replace(request, bucketed=prompt.hidden.device.type != "cpu")
    if batches is not None and not batches.serves(stack, request):
        batches = None
    storage = Storage(  # the rows of a running batch have slots for the answer
        0, drafts=bool(request.drafter.heads), kept_only=request.draft_cache == "kept"
    )
    if batches is None:
        new, drafter = request.stop.max_new_tokens, request.drafter
        storage = replace(
            storage,
            room=new + drafter.capacity,
            deep_room=new + drafter.size,
            bucketed=bool(request.bucketed),
        )

    def fill(prompt: Prompt) -> Prefilled:
        run = prefill if batches is None else batches.prefill(stack, twig).fill
        return run(
            stack,
            prompt,
            storage,
            twig=twig,
            pruner=request.pruner,
            stages=plan_stages(stack, prompt, request, twig),
            generator=request.generator,
        )

    return Generation(stack, prompt, fill, request, twig=twig, compiled=compiled, batches=batches)


def plan_stages(
    stack: LayerStack, prompt: Prompt, request: GenerationRequest, twig: Twig | None
) -> list[Stage]:
    """Ask the pruner at which layers visual tokens go; a prompt without any has no stages."""
    if request.pruner is None:
        return []
    layout = PromptLayout(
        visual=prompt.visual_counts,
        depth=stack.depth,
        exit_layer=None if twig is None else twig.exit_layer,
        budget=request.budget,
        wipe_layer=request.wipe_layer,
        strict=request.strict,
    )
    with blamed_on("pruner", request.pruner):
        return meet_budget(request.pruner, layout)


__all__ = ["begin", "plan_stages", "start"]
