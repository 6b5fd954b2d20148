"""Prefill: the prompt through all layers, with visual tokens dropped at the pruner's stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from twigkit.backbone.arena import Zeros
from twigkit.backbone.fillers import last_states, real_tokens
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import RowProbe, row_probe
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.rotary import Rope
from twigkit.errors import CapabilityError
from twigkit.generation.attention_requests import (
    AskedRows,
    AttentionRequest,
    attention_requests,
)
from twigkit.generation.strategy_answers import checked_selection
from twigkit.generation.visual_choice import ends_visual, keep_indices, with_last
from twigkit.interfaces.pruner import PruneContext, Pruner, Selection, Stage
from twigkit.plugins.blame import blamed_on
from twigkit.twig.module import Twig


@dataclass(frozen=True)
class Kept:
    """What one stage kept.

    Attributes:
        stage: The pruner's stage; one token at least stays where a prompt ends with a picture.
        positions: Prompt positions that stay, padding included in the count, ``[batch, kept]``.
        alive: Which of them are real, ``[batch, kept]`` bool.
        scores: The pruner's scores over the prompt, ``[batch, prompt]`` float32, zero where a token
            was gone or not visual; ``None`` for a wipe.
    """

    stage: Stage
    positions: Tensor
    alive: Tensor
    scores: Tensor | None


@dataclass(frozen=True)
class Prefilled:
    """A prompt after the last layer.

    Attributes:
        hidden: State of the last prompt token after the last layer, ``[batch, width]``.
        cache: Keys and values of what each range of layers kept.
        kept: What the pruner's stages kept.
    """

    hidden: Tensor
    cache: LayerCache
    kept: list[Kept] = field(default_factory=list)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Prefilled:
        """Return the same with every tensor changed alike."""
        kept = [
            Kept(
                each.stage,
                change(each.positions),
                change(each.alive),
                None if each.scores is None else change(each.scores),
            )
            for each in self.kept
        ]
        return Prefilled(change(self.hidden), self.cache.mapped(change), kept)

    def without_last(self, count: int) -> Prefilled:
        """Return the same without the last tokens of every row: fillers of the prompt."""
        if not count:
            return self
        kept = [
            Kept(
                each.stage,
                each.positions[:, :-count],
                each.alive[:, :-count],
                None if each.scores is None else each.scores[:, :-count],
            )
            for each in self.kept
        ]
        return Prefilled(self.hidden, self.cache.without_last(count), kept)


@dataclass(frozen=True)
class Storage:
    """How the cache of a generation is laid out.

    Attributes:
        room: Slots per row after the prompt, for generated tokens and a step's nodes.
        drafts: Whether the twig's keys and values are kept for drafting.
        kept_only: Whether the twig then keeps only the tokens that stay after the exit layer.
        bucketed: Whether views have few different lengths, for compiled steps.
        deep_room: Slots in place of ``room`` in the layers after the exit layer, where only nodes
            to verify are staged; ``None`` for as many.
        zeros: Gives the storages; ``None`` allocates them.
    """

    room: int
    drafts: bool
    kept_only: bool = False
    bucketed: bool = False
    deep_room: int | None = None
    zeros: Zeros | None = None


def prefill(
    stack: LayerStack,
    prompt: Prompt,
    storage: Storage,
    *,
    twig: Twig | None = None,
    pruner: Pruner | None = None,
    stages: Iterable[Stage] = (),
    generator: torch.Generator | None = None,
    ends: Sequence[bool] | None = None,
) -> Prefilled:
    """Run a prompt through all layers and fill the cache.

    Args:
        stack: The base.
        prompt: The embedded prompt.
        storage: Layout of the cache.
        twig: The twig, if anything needs one.
        pruner: Scores tokens at the stages.
        stages: Where visual tokens go, by rising layer.
        generator: Random numbers for the pruner.
        ends: What :func:`ends_visual` says of the prompt, if that was asked before.

    Returns:
        The last token's state and the cache.

    Raises:
        CapabilityError: If a stage asks for an attention that is not computed before it.
    """
    stages = list(stages)
    if ends is None:
        ends = ends_visual(prompt) if stages else []
    return _Prefill(stack, prompt, storage, twig, pruner, stages, generator, ends).run()


class _Prefill:
    """One prompt and what its stages share.

    Attributes:
        attention: What the requests came to, of the tokens that are left, ``[batch, tokens]``.
        probes: Probes of the requests, until a token is dropped.
        embedded: Input of the first layer, of the tokens that are left.
    """

    def __init__(
        self,
        stack: LayerStack,
        prompt: Prompt,
        storage: Storage,
        twig: Twig | None,
        pruner: Pruner | None,
        stages: list[Stage],
        generator: torch.Generator | None,
        ends: Sequence[bool],
    ) -> None:
        self.stack, self.prompt, self.storage = stack, prompt, storage
        self.pruner, self.stages, self.generator, self.ends = pruner, stages, generator, ends
        wants_twig = storage.drafts or any(stage.attention == "twig" for stage in stages)
        self.twig = twig if wants_twig else None
        self.exit = twig.exit_layer if twig is not None else 0
        self.tokens, self.shown = prompt.hidden.shape[1], prompt.visual_counts
        self.positions = torch.arange(self.tokens, device=prompt.hidden.device).expand(
            len(prompt.lengths), -1
        )
        exits = None if self.twig is None else self.exit
        self.requests = attention_requests(stages, exits, stack.depth, stack.recurrent)
        self.embedded = prompt.hidden
        self.attention: dict[AttentionRequest, Tensor] = {}
        self.probes: dict[AttentionRequest, RowProbe] = {}
        self.twig_segment: Segment | None = None
        self.kept: list[Kept] = []

    def run(self) -> Prefilled:
        """Run all ranges of layers, the twig and the stages."""
        segments: list[Segment] = []
        bounds = sorted({self.exit, self.stack.depth, *(stage.layer for stage in self.stages)})
        position = 0
        for bound in bounds:
            segments += self._advance(position, bound)
            if bound == self.exit and self.twig is not None:
                self._run_twig(self.twig)
            for stage, request in zip(self.stages, self.requests, strict=True):
                if stage.layer == bound and bound < self.stack.depth:
                    self._prune(stage, request)
            position = bound
        shallow = [segment for segment in segments if segment.last <= self.exit]
        deep = [segment for segment in segments if segment.first >= self.exit]
        cache = LayerCache(shallow, deep, self.twig_segment if self.storage.drafts else None)
        return Prefilled(last_states(self.prompt), cache, self.kept)

    def _advance(self, first: int, last: int) -> list[Segment]:
        """Run base layers over the tokens that are left."""
        segments = []
        for start, stop in self.stack.spans(first, last):
            prompt = self.prompt.to(self.stack.device(start))
            rope = self.stack.prompt_rope(prompt)
            masks = prompt_masks(prompt, self.stack.windows(start, stop))
            probes = {
                layer: self._probes(prompt, layer, self.stack.window(layer))
                for layer in range(start, stop)
            }
            segment = self._segment(start, stop)
            hidden = self.stack.run(
                prompt.hidden,
                start,
                stop,
                rope=rope,
                masks=masks,
                cache=segment,
                inject=prompt.inject,
                probes={layer: own.group for layer, own in probes.items() if own.asked},
            )
            for own in probes.values():
                self._read(own)
            self.prompt = replace(prompt, hidden=hidden)
            segments.append(segment)
        return segments

    def _read(self, probes: AskedRows) -> None:
        """Take what the probes of a layer recorded."""
        self.attention |= probes.attention()
        self.probes |= {request: probe for request, (probe, _) in probes.asked.items()}

    def _look_ahead(self, first: int, source: int) -> None:
        """Run base layers up to one whose attention a stage before them wants; nothing is kept."""
        hidden = self.prompt.hidden
        for start, stop in self.stack.spans(first, source + 1):
            prompt = replace(self.prompt, hidden=hidden).to(self.stack.device(start))
            own = self._probes(prompt, source, self.stack.window(source))
            hidden = self.stack.run(
                prompt.hidden,
                start,
                stop,
                rope=self.stack.prompt_rope(prompt),
                masks=prompt_masks(prompt, self.stack.windows(start, stop)),
                inject=prompt.inject,
                probes={source: own.group} if start <= source < stop else {},
            )
        self._read(own)

    def _segment(self, first: int, last: int, *, twig: bool = False) -> Segment:
        """Open a segment for the tokens that are left."""
        prompt = self.prompt
        deep, room = self.storage.deep_room, self.storage.room
        if deep is not None and first >= self.exit and not twig:
            room = deep
        capacity = max(prompt.lengths) + room
        recurrent = self.stack.recurrent
        heads = self._twig_heads() if twig else (0, 0)
        segment = Segment(
            first,
            last,
            capacity,
            bucketed=self.storage.bucketed,
            recurrent=recurrent,
            heads=heads,
            zeros=self.storage.zeros,
        )
        segment.begin_prefill(prompt.index, prompt.valid, prompt.lengths)
        return segment

    def _twig_heads(self) -> tuple[int, int]:
        """Return the most heads of a layer of the twig and their greatest width, if they differ."""
        shapes = (
            {self.stack.head_shape(layer) for layer in self.twig.sources} if self.twig else set()
        )
        if len(shapes) < 2:
            return 0, 0
        heads, widths = zip(*shapes, strict=True)
        return max(heads), max(widths)

    def _run_twig(self, twig: Twig) -> None:
        """Run the twig over the tokens after the exit layer, and read the asked rows."""
        twig.follow(self.stack, self.prompt.hidden.dtype)
        stack, prompt = self.stack, self.prompt.to(next(twig.parameters()).device)
        rope: Rope = stack.prompt_rope(prompt)
        masks = prompt_masks(prompt, twig.windows(stack))
        probes = self._probes(prompt, "twig", stack.window(twig.sources[-1]))
        segment = self._segment(0, twig.depth, twig=True) if self.storage.drafts else None
        twig.run(
            prompt.hidden,
            stack,
            rope=rope,
            masks=masks,
            cache=segment,
            inject=prompt.inject,
            probe=probes.group if probes.asked else None,
        )
        self._read(probes)
        self.twig_segment = segment

    def _probes(
        self, prompt: Prompt, source: Literal["twig"] | int, window: int | None
    ) -> AskedRows:
        """Make a probe for every request for the rows of a layer."""
        asked = [request for request in self.requests if request and request.source == source]
        return AskedRows({request: row_probe(prompt, request.rows, window) for request in asked})

    def _prune(self, stage: Stage, request: AttentionRequest | None) -> None:
        """Drop visual tokens from the prompt."""
        prompt, scores, hidden = self.prompt, None, self.prompt.hidden
        source = None if request is None else request.source
        if isinstance(source, int) and source >= stage.layer:
            self._look_ahead(stage.layer, source)
        lost = any(keep == 0 < count for keep, count in zip(stage.keep, self.shown, strict=True))
        chooses = any(
            0 < keep < count for keep, count in zip(stage.keep, prompt.visual_counts, strict=True)
        )
        if any(stage.keep) and (chooses or not lost):  # or some rows lose all, the others nothing
            selection = self._select(stage, request)
            scores = selection.scores.float()
            hidden = hidden if selection.hidden is None else selection.hidden
        ranking = torch.zeros_like(prompt.index, dtype=torch.float32) if scores is None else scores
        stage = replace(stage, keep=with_last(stage.keep, self.ends))
        order, alive, lengths = keep_indices(ranking, prompt, stage.keep)
        visual = [min(*pair) for pair in zip(stage.keep, prompt.visual_counts, strict=True)]
        self.prompt = replace(prompt, hidden=hidden).select(order, alive, lengths, visual)
        whole = None
        if scores is not None:
            given = scores.masked_fill(~prompt.visual, 0.0)
            whole = scores.new_zeros(scores.shape[0], self.tokens).scatter_(
                1, self.positions, given
            )
        self.positions = self.positions.gather(1, order)
        self.attention = {key: rows.gather(1, order) for key, rows in self.attention.items()}
        self.embedded = self.embedded.gather(
            1, order[:, :, None].to(self.embedded.device).expand(-1, -1, hidden.shape[2])
        )
        self.probes = {}  # their keys and inputs are of all tokens
        self.kept.append(Kept(stage, self.positions, alive, whole))
        if stage.layer == self.exit and self.twig_segment is not None and self.storage.kept_only:
            slots = (prompt.valid.long().cumsum(1) - 1).clamp(min=0).gather(1, order)
            self.twig_segment.keep(slots, alive, lengths)

    def _select(self, stage: Stage, request: AttentionRequest | None) -> Selection:
        """Ask the pruner for scores."""
        if self.pruner is None:
            raise CapabilityError("there are stages to prune at but no pruner to score the tokens")
        prompt, real = self.prompt, real_tokens(self.prompt)
        probe = None if request is None else self.probes.get(request)
        of_twig = request is not None and request.source == "twig"
        context = PruneContext(
            hidden=prompt.hidden,
            visual=prompt.visual,
            valid=real,
            index=prompt.index,
            text=real & ~prompt.placeholder,
            embedded=self.embedded.to(prompt.hidden.device),
            attention=None if request is None else self.attention[request],
            twig=self.twig,
            twig_probe=probe if of_twig else None,
            probe=None if of_twig else probe,
            vision=prompt.vision,
            generator=self.generator,
        )
        with blamed_on("pruner", self.pruner):
            return checked_selection(self.pruner, stage, context)
