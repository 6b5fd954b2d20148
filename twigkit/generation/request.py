"""What a call of ``generate`` asks for, resolved once: strategies, settings, seeds and inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from twigkit.backbone.context import context_length
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt, place_inputs
from twigkit.errors import CapabilityError, InputError
from twigkit.generation.config import resolve_settings
from twigkit.generation.embedded_prompt import (
    check_needs_no_ids,
    given_embedded,
    with_stand_in,
)
from twigkit.generation.inputs import check_names, check_prompt, check_pruner, check_request
from twigkit.generation.outputs import Outputs
from twigkit.generation.sequences import StopConditions
from twigkit.generation.strategy import (
    Memories,
    Strategy,
    drafter_name,
    make_drafter,
    make_pruner,
)
from twigkit.generation.token_selection import TokenSelection, TokenSelector, row_seeds
from twigkit.interfaces.adapter import Adapter
from twigkit.interfaces.drafter import Drafter
from twigkit.interfaces.pruner import Pruner
from twigkit.specs.run import DrafterSpec, PrunerSpec
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.twig.module import Twig


class NoDrafter:
    """Proposes nothing: plain decoding."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    capacity: ClassVar[int] = 1
    size: ClassVar[int] = 1
    height: ClassVar[int] = 0

    def __init__(self, spec: Any = None) -> None:
        """Take no settings."""
        self.heads: tuple[str, ...] = ()
        self.linear = True

    def draft(self, draft_model: Any, candidates: Candidates, room: int) -> DraftTree:
        """Return the root alone."""
        return candidates


class Wrapped(Protocol):
    """What a request needs of the model that is asked."""

    base: Any
    adapter: Adapter
    stack: LayerStack
    twig: Twig | None
    memories: Memories

    @property
    def generate(self) -> Callable[..., Any]:
        """What was called; its arguments are suggested where another was misspelt."""
        ...


@dataclass(frozen=True)
class GenerationRequest:
    """One call of ``generate`` with everything in its final form.

    Attributes:
        stop: When sequences stop.
        drafter: Proposes tokens.
        selection: How the target's tokens are selected.
        seeds: One seed per row, if tokens are drawn.
        pruner: Chooses the visual tokens that stay; ``None`` prunes nothing.
        budget: What the pruner is asked for.
        wipe_layer: Layer after which no visual token is left; ``None`` leaves it to the pruner.
        strict: Whether a budget that a row cannot meet is an error.
        draft_cache: Prompt tokens that the twig keeps for drafting, ``"full"`` or ``"kept"``.
        bucketed: Whether steps have fixed shapes; ``None`` has them on anything but a CPU.
        generator: Random numbers for pruners that draw.
        input_ids: The prompts as given, ``[batch, tokens]``; no tokens if they came embedded.
        inputs: What the base's front end is given, on its device.
        outputs: What is returned.
        answers: Answers per prompt, next to each other.
        selector: Selects the target's tokens where they are neither drawn nor processed, and keeps
            no state, so that a captured step replays it; equal ones share captured steps.
            ``None`` for the most likely ones.
    """

    stop: StopConditions
    drafter: Drafter = field(default_factory=NoDrafter)
    selection: TokenSelection = field(default_factory=TokenSelection)
    seeds: Sequence[int] = ()
    pruner: Pruner | None = None
    budget: int | float = 1.0
    wipe_layer: int | float | None = None
    strict: bool = False
    draft_cache: str = "full"
    bucketed: bool | None = None
    generator: torch.Generator | None = None
    input_ids: Tensor | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)
    answers: int = 1
    selector: TokenSelector | None = None

    @classmethod
    def resolve(
        cls,
        model: Wrapped,
        inputs: Tensor | None,
        arguments: dict[str, Any],
        strategy: Strategy,
        *,
        bucketed: bool | None = None,
        generator: torch.Generator | None = None,
        seed: Any = None,
    ) -> GenerationRequest:
        """Check and merge what a call gives, the base's generation config and the defaults.

        Args:
            model: Base, adapter and twig.
            inputs: The prompts' ids, unless ``arguments`` holds them.
            arguments: The processor's outputs and transformers' generation settings.
            strategy: How to prune and draft.
            bucketed: As for ``TwigModel.generate``, like the others.
            generator: Random numbers.
            seed: Of the tokens that are drawn.

        Raises:
            InputError: If the prompt or a setting cannot be used.
            CapabilityError: If something is asked for that base, adapter or twig cannot do.
        """
        arguments = _with_prompt(arguments, inputs)
        embedded = given_embedded(arguments)
        if embedded:
            arguments = with_stand_in(arguments, model.stack.visual_ids)
        ids = check_prompt(arguments)
        spec, drafter = strategy.resolve(model.twig)
        context, visual = context_length(model.stack.config), model.stack.visual_ids
        settings = resolve_settings(model.base, ids.shape[1], arguments, visual, context)
        if embedded:
            check_needs_no_ids(settings)
        ids = ids.repeat_interleave(settings.answers, 0)[:, : 0 if embedded else None]
        chosen = _in_lockstep(drafter, settings.selection)
        check_drafts(model.stack, chosen, ids.shape[0])
        made = NoDrafter() if chosen is None else make_drafter(chosen, model.twig, model.memories)
        prunes = spec.budget is not None
        check_names(model.base, settings.inputs, model.generate)
        check_request(model.adapter, settings.inputs, model.base.config.model_type, prunes=prunes)
        return cls(
            stop=settings.stop,
            drafter=made,
            selection=settings.selection,
            seeds=row_seeds(seed, generator, ids.shape[0]) if settings.selection.draws else [],
            pruner=_pruner(model, spec.pruner) if prunes else None,
            budget=spec.budget if spec.budget is not None else 1.0,
            wipe_layer=spec.wipe_layer,
            strict=spec.strict,
            draft_cache=spec.draft_cache,
            bucketed=bucketed,
            generator=generator,
            input_ids=ids,
            inputs=place_inputs(settings.inputs, model.stack.entry, model.stack.dtype),
            outputs=settings.outputs,
            answers=settings.answers,
        )

    def stream_prompts(self, prompt: Prompt) -> None:
        """Hand each streamer its prompt: of several rows without padding, of one as it is.

        A prompt that came embedded has no ids, so that it is handed none.
        """
        assert self.input_ids is not None
        streamers = self.stop.streamers
        for row, streamer in enumerate(streamers):
            given = self.input_ids[row : row + 1]
            if len(streamers) > 1 and given.shape[1]:
                given = prompt.ids[row : row + 1, prompt.valid[row]]
            streamer.put(given.cpu())

    def embed(self, stack: LayerStack) -> Prompt:
        """Run the prompts through what comes before the first layer, once for all answers."""
        looks = self.pruner is not None and "vision" in self.pruner.capabilities
        embed = stack.embed_with_vision if looks else stack.embed_prompt
        prompt = embed(**self.inputs)
        if self.answers == 1:
            return prompt
        rows = [row for row in range(len(prompt.ids)) for _ in range(self.answers)]
        everything = torch.arange(prompt.hidden.shape[1], device=prompt.hidden.device)
        picked = torch.tensor(rows, device=prompt.hidden.device)
        return prompt.select(
            everything.expand(len(rows), -1),
            prompt.valid[picked],
            [prompt.lengths[row] for row in rows],
            [prompt.visual_counts[row] for row in rows],
            picked,
        )


def _pruner(model: Wrapped, spec: PrunerSpec) -> Pruner:
    """Make the pruner, and refuse one that looks at what the adapter does not show."""
    pruner = make_pruner(spec, model.twig)
    check_pruner(pruner, spec.kind, model.adapter, model.base.config.model_type)
    return pruner


def _with_prompt(arguments: dict[str, Any], inputs: Tensor | None) -> dict[str, Any]:
    """Name the prompt's ids, which may come as the first argument."""
    if inputs is None:
        return arguments
    if isinstance(inputs, Mapping):
        raise InputError(f"the prompt is a {type(inputs).__name__}; unpack it: generate(**inputs)")
    if arguments.get("input_ids") is not None:
        raise InputError("the prompt was given twice, as the first argument and input_ids")
    return {**arguments, "input_ids": inputs}


def check_drafts(stack: LayerStack, drafter: DrafterSpec | Drafter | None, rows: int) -> None:
    """Refuse drafts that the base cannot verify, and rows that it mixes.

    Args:
        stack: The base.
        drafter: Proposes tokens; ``None`` for nobody.
        rows: Rows of the batch.

    Raises:
        CapabilityError: If they cannot be had.
    """
    _check_rolls_back(stack, drafter)
    _check_rows_apart(stack, drafter, rows)


def _check_rolls_back(stack: LayerStack, drafter: DrafterSpec | Drafter | None) -> None:
    """Refuse to draft for a base whose layers cannot forget a rejected draft."""
    if not stack.recurrent or drafter is None or drafter_name(drafter) == "plain":
        return
    raise CapabilityError(
        f"the drafter {drafter_name(drafter)!r} cannot be used: {len(stack.recurrent)} of the "
        f"{stack.depth} layers of a {stack.model.config.model_type} carry a state from token to "
        "token, which cannot be rolled back when a draft is rejected; pass drafter='plain'"
    )


def _check_rows_apart(stack: LayerStack, drafter: DrafterSpec | Drafter | None, rows: int) -> None:
    """Refuse what would differ where a token's states depend on the tokens passed beside it."""
    plain = drafter is None or drafter_name(drafter) == "plain"
    if (plain and rows == 1) or not stack.mixes_rows:
        return
    asked = "a batch" if plain or drafter is None else f"the drafter {drafter_name(drafter)!r}"
    raise CapabilityError(
        f"{asked} cannot be used: the base's quantised layers give a token other states beside "
        "other tokens, so answers would differ from its own generate; load it with "
        "BitsAndBytesConfig(llm_int8_threshold=0.0), or give one prompt at a time with "
        "drafter='plain'"
    )


def _in_lockstep(
    drafter: DrafterSpec | Drafter, selection: TokenSelection
) -> DrafterSpec | Drafter | None:
    """Return the drafter, or ``None`` where something must see all rows at once."""
    name = drafter_name(drafter)
    if not selection.lockstep or name == "plain":
        return drafter
    names = ", ".join(selection.lockstep)
    warnings.warn(
        f"{names}: not known to depend on the ids of one row alone, so the drafter {name!r} is "
        "left out and decoding is plain",
        stacklevel=4,
    )
    return None


__all__ = ["GenerationRequest", "NoDrafter", "Wrapped", "check_drafts"]
