"""A row of a running batch: one answer of one request, from its prefill to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from torch import Tensor

from twigkit.backbone.context import check_length
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.errors import CapabilityError
from twigkit.generation.prefill import Prefilled, Storage, prefill
from twigkit.generation.pruning_plan import visual_per_layer
from twigkit.generation.request import GenerationRequest
from twigkit.generation.restart import restart_length
from twigkit.generation.sequences import GrowingSequence
from twigkit.generation.start import plan_stages
from twigkit.generation.strategy import Strategy
from twigkit.generation.token_selection import ProcessedSelector, Texts, TokenSelector
from twigkit.inflight.request import Begun, Ended, KeptTokens, Reason, TokenLogprob
from twigkit.inflight.ticket import Ticket
from twigkit.interfaces.drafter import Drafter
from twigkit.model import TwigModel
from twigkit.speculative.sampling import Noise


@dataclass(eq=False)
class Row:
    """One answer while it grows.

    Attributes:
        ticket: The request.
        answer: Number of the answer.
        sequence: Its tokens.
        eos: Tokens that end it.
        most: Most tokens that it gets.
        selector: Selects its tokens; ``None`` for the most likely ones.
    """

    ticket: Ticket
    answer: int
    sequence: GrowingSequence
    eos: frozenset[int]
    most: int
    selector: TokenSelector | None = field(repr=False, default=None)

    def ended(self) -> Ended | None:
        """Return why the answer is complete; ``None`` while it grows."""
        reason: Reason = "stop"
        if not self.sequence.done:
            if time.monotonic() < self.ticket.request.deadline:
                return None
            self.sequence.done, reason = True, "time"
        elif self.sequence.tokens[-1] not in self.eos and len(self.sequence.tokens) >= self.most:
            reason = "length"
        return Ended(self.answer, reason)

    def logprobs(self, logits: Tensor, tokens: list[int]) -> tuple[TokenLogprob, ...] | None:
        """Return log-probabilities of tokens, if the request asks for them.

        Args:
            logits: What each token was selected from, unprocessed, ``[tokens, vocabulary]``.
            tokens: The tokens.
        """
        most = self.ticket.request.logprobs
        if most is None:
            return None
        told = logits[: len(tokens)].float().log_softmax(-1)
        values, ids = told.topk(min(most, told.shape[1]))
        return tuple(
            TokenLogprob(float(told[place, token]), tuple(zip(best, chance, strict=True)))
            for place, (token, best, chance) in enumerate(
                zip(tokens, ids.tolist(), values.tolist(), strict=True)
            )
        )


@dataclass(frozen=True)
class Joining:
    """A request that has been prefilled and may join a batch.

    Attributes:
        rows: Its answers.
        prompt: Its prompt, one row per answer.
        prefilled: Its cache and last states.
        begun: What is reported of it.
    """

    rows: list[Row]
    prompt: Prompt
    prefilled: Prefilled
    begun: Begun


def prefill_request(
    model: TwigModel, ticket: Ticket, drafter: Drafter, *, captured: bool = False
) -> Joining:
    """Resolve and prefill a request by itself, as ``TwigModel.generate`` does.

    Args:
        model: Base and twig.
        ticket: The request.
        drafter: The drafter of the batch that it will join.
        captured: Whether that batch's steps are captured, and so prefill too.

    Returns:
        Its rows and cache.

    Raises:
        TwigkitError: If the request cannot be answered.
    """
    asked, stack, began = ticket.request, model.stack, time.monotonic()
    settings = dict(asked.settings)
    seed = settings.pop("seed", None)
    strategy = Strategy(
        budget=asked.budget,
        pruner=asked.pruner,
        drafter="plain",  # the batch has the drafter
        wipe_layer=asked.wipe_layer,
        strict=asked.strict,
    )
    given = {**asked.inputs, **settings, "num_return_sequences": asked.answers}
    request = GenerationRequest.resolve(model, None, given, strategy, seed=seed)
    if request.selection.lockstep or request.stop.joint:
        raise CapabilityError("a setting looks at all rows at once, and a batch has strangers")
    prompt = request.embed(stack)
    request = _before_restart(request, stack, prompt)
    check_length(stack.text, prompt.span + request.stop.max_new_tokens)
    stages = plan_stages(stack, prompt, request, model.twig)
    run = model.batches.prefill(stack, model.twig).fill if captured else prefill
    prefilled = run(
        stack,
        prompt,
        Storage(0, drafts=bool(drafter.heads)),  # the batch has slots for the answer
        twig=model.twig,
        pruner=request.pruner,
        stages=stages,
    )
    per_layer = visual_per_layer(
        [k.stage for k in prefilled.kept], prompt.visual_counts, stack.depth
    )
    begun = Begun(
        prompt_tokens=prompt.lengths[0],
        visual_tokens=prompt.visual_counts[0],
        visual_per_layer=per_layer[0],
        queue_seconds=began - ticket.submitted,
        prefill_seconds=time.monotonic() - began,
        kept=_kept(prompt, prefilled) if asked.trace else None,
    )
    return Joining(_rows(ticket, request, prompt), prompt, prefilled, begun)


def _rows(ticket: Ticket, request: GenerationRequest, prompt: Prompt) -> list[Row]:
    """Make the rows of a request."""
    slim = replace(prompt, hidden=prompt.hidden[:, :0], inject={})  # what texts are made of
    stop, rows = request.stop, []
    for number in range(len(prompt.ids)):
        sequence = GrowingSequence(slim, number, stop)
        selector: TokenSelector | None = None
        if not request.selection.greedy:
            own = slice(number, number + 1)
            texts = Texts(prompt.ids[own], prompt.valid[own], [sequence.tokens], stop.padding)
            seeds = request.seeds or [0] * len(prompt.ids)
            selector = ProcessedSelector(
                request.selection,
                texts,
                Noise.of([seeds[number]], prompt.ids.device),
                eager=prompt.ids.device.type == "cpu",
            )
        rows.append(Row(ticket, number, sequence, stop.eos, stop.max_new_tokens, selector))
    return rows


def _before_restart(
    request: GenerationRequest, stack: LayerStack, prompt: Prompt
) -> GenerationRequest:
    """End answers where the base would begin anew, which rows of a running batch cannot."""
    restart, width = restart_length(stack.model), prompt.ids.shape[1]
    if stack.growing is None or restart is None or width >= restart:
        return request
    most = min(request.stop.max_new_tokens, restart - width)
    return replace(request, stop=replace(request.stop, max_new_tokens=most))


def _kept(prompt: Prompt, prefilled: Prefilled) -> KeptTokens:
    """Number the visual tokens that the first stage kept."""
    places = prompt.visual[0].nonzero()[:, 0].tolist()
    if not prefilled.kept:
        return KeptTokens(len(places), tuple(range(len(places))))
    stage = prefilled.kept[0]
    stays = set(stage.positions[0][stage.alive[0]].tolist())
    return KeptTokens(len(places), tuple(n for n, place in enumerate(places) if place in stays))


__all__ = ["Joining", "Row", "prefill_request"]
