"""The workbench of the kit: a tiny model with an adapter on it, twigs for it, watched runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twigkit.backbone.prompt import Prompt
from twigkit.errors import CapabilityError
from twigkit.families.resolve import make_stack
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.prefill import Prefilled
from twigkit.generation.request import GenerationRequest, NoDrafter
from twigkit.generation.sequences import StopConditions
from twigkit.generation.start import start
from twigkit.interfaces.tiny_models import TinyFamily, TinyRow, spread_weights
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import TwigSpec
from twigkit.testing.capture import CaptureRecorder
from twigkit.testing.reference import end_tokens, extended, masked_logits, own_tokens
from twigkit.testing.scripted import AGREEMENTS, ScriptedHead, middle
from twigkit.testing.watch import LayerWatch, WatchedDrafter, WatchedPruner
from twigkit.twig.module import Twig, grow

NEW_TOKENS = 12
"""Tokens that a check generates."""

MEDIA: dict[str, tuple[str, ...]] = {
    "text-only": (),
    "image": ("image",),
    "multi-image": ("image", "image"),
    "video": ("video",),
    "mixed-media": ("image", "video"),
}
"""What a prompt holds, by the capability that it needs."""


@dataclass(frozen=True)
class FollowUp(TinyRow):
    """A prompt that goes on after its answer.

    Attributes:
        said: What follows the first turn: its answer and the next question.
    """

    said: tuple[int, ...] = ()


@dataclass(frozen=True)
class PictureLast(TinyRow):
    """A prompt that ends with the last visual token of its picture."""


@dataclass
class Trace:
    """One generation, with all that was seen of it.

    Attributes:
        rows: What was asked.
        tokens: What came out of each row.
        gains: Tokens that each verification gained, by row.
        prompt: The prompt before pruning.
        prefilled: What prefill returned.
        drafter: Its steps and the problems that the cache audits found.
        pruner: What it was asked and said; ``None`` without one.
        prompt_calls: Tokens that each base layer computed of the prompt, call by call.
        logits: What the base's head returned, call by call; the first call is the prompt's.
    """

    rows: list[TinyRow]
    tokens: list[list[int]]
    gains: list[list[int]]
    prompt: Prompt
    prefilled: Prefilled
    drafter: WatchedDrafter
    pruner: WatchedPruner | None
    prompt_calls: list[list[int]]
    logits: list[Tensor] = field(default_factory=list)

    def kept(self, row: int, stage: int) -> list[int]:
        """Sequence indices of a row that a stage kept, in the order in which they lie there."""
        kept = self.prefilled.kept[stage]
        places = kept.positions[row][kept.alive[row]]
        return self.prompt.index[row, places].tolist()

    def seen_by_layer(self, row: int, depth: int) -> list[Tensor | None]:
        """Which prompt positions each layer sees, ``[prompt]`` bool or ``None`` for all."""
        seen: list[Tensor | None] = [None] * depth
        for number, kept in enumerate(self.prefilled.kept):
            mask = torch.zeros(self.prompt.lengths[row], dtype=torch.bool)
            mask[self.kept(row, number)] = True
            seen[kept.stage.layer :] = [mask] * (depth - kept.stage.layer)
        return seen


class Lab:
    """A tiny model with an adapter on it.

    Attributes:
        family: The tiny model as its maker handed it over, with drawn weights.
        adapter: The adapter.
        stack: The model as the adapter exposes it.
        own: A copy of the model that nothing was ever attached to.
        exit_layer: Where twigs grow.
    """

    def __init__(self, adapter: Any, family: TinyFamily, exit_layer: int = 2) -> None:
        """Draw the weights, keep an untouched copy, and let the adapter wrap the model."""
        self.adapter, self.family, self.exit_layer = adapter, family, exit_layer
        spread_weights(family.model)
        self.own: Any = copy.deepcopy(family.model)
        self.stack = make_stack(adapter, family.model)
        self._never_say((*self.stack.visual_ids, *end_tokens(self.own)))
        self._twigs: dict[tuple[str, tuple[str, ...]], Twig] = {}
        self._own: dict[tuple[TinyRow, ...], list[list[int]]] = {}

    @property
    def capabilities(self) -> frozenset[str]:
        """What the adapter declares."""
        return frozenset(self.adapter.capabilities)

    @property
    def own_layers(self) -> Any:
        """The decoder layers of the untouched copy."""
        for name, module in self.family.model.named_modules():
            if module is self.stack.text:
                return self.own.get_submodule(name).layers
        return pytest.fail(
            f"{type(self.adapter).__name__}.stack() wraps a {type(self.stack.text).__name__} that "
            "is no part of the model; hand LayerStack the model's own language model"
        )

    def _never_say(self, tokens: tuple[int, ...]) -> None:
        """Keep some tokens out of the answers; random weights would end or spoil them."""
        models: tuple[Any, ...] = (self.own, self.family.model)
        for model in models:
            with torch.no_grad():
                model.get_output_embeddings().weight[list(tokens)] = 0.0

    # -- prompts -----------------------------------------------------------------------------------

    def row(self, capability: str, words: int = 4, seed: int = 1) -> TinyRow:
        """Return a prompt that needs a capability."""
        return TinyRow(MEDIA[capability], words, seed)

    def visual_row(self, words: int = 4, seed: int = 1) -> TinyRow:
        """Return a prompt with as many visual tokens as the family easily takes."""
        kinds = [kind for kind in ("multi-image", "image", "video") if kind in self.capabilities]
        if not kinds:
            pytest.skip("the family takes neither images nor videos")
        return self.row(kinds[0], words, seed)

    def batch(self) -> list[TinyRow]:
        """Return prompts of different lengths, one for each kind of media that is declared."""
        kinds = [kind for kind in MEDIA if kind in self.capabilities]
        rows = [self.row(kind, 2 + 3 * place, 20 + place) for place, kind in enumerate(kinds)]
        return rows if len(rows) > 1 else [*rows, self.row(kinds[0], 9, 40)]

    def next_turn(self, row: TinyRow, answer: list[int]) -> FollowUp:
        """Return a prompt with its answer and another question of text after it."""
        return FollowUp(row.media, row.words, row.seed, (*answer, *answer[2::-1]))

    def inputs(self, rows: list[TinyRow]) -> dict[str, Any]:
        """Return what the family's processor would make of some prompts, or of one further turn."""
        inputs = self.family.inputs(rows)
        if any(isinstance(row, PictureLast) for row in rows):
            return self._cut_after_picture(inputs)
        (said,) = {row.said if isinstance(row, FollowUp) else () for row in rows}
        return extended(inputs, said) if said else inputs

    def _cut_after_picture(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Drop the text after the last visual token of a single prompt."""
        ids = inputs["input_ids"]
        visual = self.stack.visual_positions(ids, inputs)
        end = int(visual[0].nonzero().max()) + 1
        return {
            name: value[:, :end]
            if isinstance(value, Tensor) and value.shape[:2] == ids.shape
            else value
            for name, value in inputs.items()
        }

    # -- references --------------------------------------------------------------------------------

    def own_tokens(self, rows: list[TinyRow], new_tokens: int = NEW_TOKENS) -> list[list[int]]:
        """Return what the untouched model's own ``generate`` adds to some prompts."""
        key = (*rows, TinyRow((), new_tokens, -1))
        if key not in self._own:
            self._own[key] = own_tokens(self.own, self.inputs(rows), new_tokens)
        return self._own[key]

    def own_logits(
        self, row: TinyRow, tokens: list[int], seen: list[Tensor | None] | None = None
    ) -> Tensor:
        """Return the untouched model's logits after every token of one prompt and its answer."""
        seen = [None] * self.stack.depth if seen is None else seen
        inputs, answers = self.inputs([row]), self.family.answers
        return masked_logits(self.own, self.own_layers, inputs, tokens, seen, answers)

    # -- twigs -------------------------------------------------------------------------------------

    def twig(self, agreement: str = "untrained", heads: tuple[str, ...] = ("lm",)) -> Twig:
        """Return a twig on the model.

        Args:
            agreement: One of ``scripted.AGREEMENTS`` for a twig that drafts by script, or
                ``"untrained"`` for two layers of random weights.
            heads: Names of its heads, which are also their registered kinds.
        """
        key = (agreement, heads)
        if key not in self._twigs:
            scripted = agreement in AGREEMENTS
            spec = TwigSpec(
                base="tiny",
                exit_layer=self.exit_layer,
                depth=self.stack.depth - self.exit_layer if scripted else 2,
                init="copy" if scripted else "random",
                heads={name: {"kind": name} for name in heads},
            )
            twig = grow(spec, self.stack).eval()
            if scripted and "lm" in heads:
                head: Any = ScriptedHead(twig.heads["lm"], agreement, self._middle(agreement))  # type: ignore[arg-type]
                twig.heads["lm"] = head
            self._twigs[key] = twig
        return self._twigs[key]

    def _middle(self, agreement: str) -> float:
        """Return the threshold that splits the states of the model's own answers in halves."""
        if agreement != "half":
            return 0.0
        states: list[Tensor] = []
        head = self.own.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda module, args: states.append(args[0][0]))
        try:
            text_alone = self.capabilities.isdisjoint(("multi-image", "image", "video"))
            usual = self.batch()[0] if text_alone else self.visual_row()
            for row in (usual, self.batch()[0], self.batch()[-1]):
                tokens = self.own_tokens([row])[0]
                self.own_logits(row, tokens[:-1])
                states[-1] = states[-1][-len(tokens) :]
        finally:
            handle.remove()
        return middle(torch.cat(states))

    # -- runs --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(
        self,
        rows: list[TinyRow],
        drafter: Any = None,
        *,
        twig: Twig | None = None,
        pruner: Any = None,
        new_tokens: int = NEW_TOKENS,
        ends: frozenset[int] | None = None,
        **asked: Any,
    ) -> Trace:
        """Generate, and watch.

        Args:
            rows: What to ask.
            drafter: Proposes tokens; ``None`` for plain decoding.
            twig: The twig, if drafter or pruner needs one.
            pruner: Chooses visual tokens; ``None`` prunes nothing.
            new_tokens: Most tokens per row.
            ends: Tokens that end a row; ``None`` for the model's own.
            **asked: More fields of :class:`GenerationRequest`, such as ``selection`` and ``seeds``;
                the budget is 0.5 and shapes are not fixed unless they say so.
        """
        watched_pruner: Any = None if pruner is None else WatchedPruner(pruner)
        with LayerWatch(self.stack) as layers, self._noted_states() as states:
            watched: Any = WatchedDrafter(NoDrafter() if drafter is None else drafter, layers)
            request = GenerationRequest(
                stop=StopConditions(new_tokens, end_tokens(self.own) if ends is None else ends),
                drafter=watched,
                pruner=watched_pruner,
                generator=torch.Generator().manual_seed(0),
                **{"budget": 0.5, "bucketed": False, **asked},
            )
            prompt = replace(request, inputs=self.inputs(rows)).embed(self.stack)
            layers.take()
            try:
                generation = start(self.stack, prompt, request, twig=twig)
                prompt_calls = layers.take()
                watched.attach(generation, generation.prefilled.cache.base)
                stats = generation.run()
                watched.finish()
            except CapabilityError as error:
                if watched.problems:  # what the audits saw before says more than what it led to
                    pytest.fail(f"{watched.problems[0]}. In the end: {error}")
                raise
        return Trace(
            rows,
            [list(sequence.tokens) for sequence in generation.sequences],
            stats.accepted_lengths,
            prompt,
            generation.prefilled,
            watched,
            watched_pruner,
            prompt_calls,
            [self.stack.head(given) for given in states],
        )

    @contextmanager
    def _noted_states(self) -> Iterator[list[Tensor]]:
        """Note what the base's head is given, call by call."""
        states: list[Tensor] = []
        head: Any = self.family.model.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(lambda module, given: states.append(given[0]))
        try:
            yield states
        finally:
            handle.remove()


@torch.inference_mode()
def captured_tokens(
    lab: Lab, rows: list[TinyRow], drafter: Any, twig: Twig | None, new_tokens: int = NEW_TOKENS
) -> list[list[int]]:
    """Return the tokens of steps that are run as if they were captured as CUDA graphs.

    Args:
        lab: The model.
        rows: What to ask.
        drafter: Drafts in levels.
        twig: The twig, if the drafter needs one.
        new_tokens: Most tokens per row.

    Raises:
        CaptureError: If a step cannot be captured, or would be wrong when replayed.
    """
    stop = StopConditions(new_tokens, end_tokens(lab.own))
    request = GenerationRequest(stop=stop, drafter=drafter, bucketed=True)
    prompt = lab.stack.embed_prompt(**lab.inputs(rows))
    batches = BatchPool("on", make_runner=lambda device: CaptureRecorder())
    generation = start(lab.stack, prompt, request, twig=twig, batches=batches)
    generation.run()
    return [list(sequence.tokens) for sequence in generation.sequences]


def plainest_adapter(also: Iterable[str] = ()) -> Any:
    """Return an adapter to try strategies on: the one of twigkit's with fewest capabilities.

    It takes batches and images, can prune, and brings a tiny model. Those of other packages are
    taken only where twigkit has none, so that what else is installed has no say.

    Args:
        also: What else it must be able to do.
    """
    wanted = {"batch", "image", "pruning", *also}
    entries = [
        entry
        for entry in default_registry().entries("adapter")
        if wanted <= entry.capabilities and variants(entry.cls())
    ]
    if not entries:
        pytest.fail(
            "no registered adapter brings a tiny model to try this on; install twigkit so that its "
            "own adapters are found, or override the fixture `lab`"
        )
    own = [entry for entry in entries if entry.distribution == "twigkit"]
    return min(own or entries, key=lambda entry: (len(entry.capabilities), entry.name)).cls()


def variants(adapter: Any) -> dict[str, Any]:
    """Return the makers of an adapter's tiny models, by variant; empty if it brings none."""
    if hasattr(adapter, "variants"):
        return dict(adapter.variants())
    return {"tiny": adapter.tiny} if hasattr(adapter, "tiny") else {}


def parameters_of(module: nn.Module) -> set[int]:
    """Return the addresses of a module's weights, to see whether two modules share any."""
    return {p.untyped_storage().data_ptr() for p in module.parameters() if p.numel()}
