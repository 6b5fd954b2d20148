"""How the target's tokens are selected: the most likely ones, or drawn, after any processing.

Every choice is a function of the text before it and, when tokens are drawn, of the number that
belongs to its position. So it does not matter in which order, or how many at once, positions are
decided, and a path or a tree of candidates gives the tokens of plain decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from twigkit.errors import InputError
from twigkit.generation.arguments import whole_numbers
from twigkit.generation.logits_processors import LogitsStep, sampling_steps
from twigkit.speculative.acceptance import Accepted, accept, rule, walk
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.rejection_sampling import settle
from twigkit.speculative.sampling import Noise, Sampling, draw_scores


@dataclass(frozen=True)
class TokenSelection:
    """How the target's tokens are selected.

    Attributes:
        draws: Whether they are drawn; the most likely ones are taken otherwise.
        sampling: The built-in settings among the steps, without the penalty; a drafter may draw
            with them too.
        steps: What happens to the logits before, in order.
        lockstep: What may depend on more than a row's own ids, by name, so that all rows must be
            decided at once, position by position; empty if nothing does.
    """

    draws: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    steps: tuple[LogitsStep, ...] = ()
    lockstep: tuple[str, ...] = ()

    @classmethod
    def drawing(cls, sampling: Sampling | None = None) -> TokenSelection:
        """Draw tokens with built-in settings alone."""
        sampling = sampling or Sampling()
        return cls(True, replace(sampling, repetition_penalty=1.0), sampling_steps(sampling))

    @property
    def greedy(self) -> bool:
        """Whether tokens are the most likely ones of the unprocessed logits."""
        return not self.draws and not self.steps


@dataclass(frozen=True)
class Texts:
    """The text before a step.

    Attributes:
        prompt: Ids of the prompts, padding included, ``[batch, prompt]``.
        valid: Which of them are not padding, ``[batch, prompt]`` bool.
        tokens: What every row has generated; these lists grow with the text.
        padding: Token id that fills rows that have stopped.
    """

    prompt: Tensor
    valid: Tensor
    tokens: Sequence[list[int]]
    padding: int = 0

    def keep(self, rows: Sequence[int], order: Tensor) -> Texts:
        """Return the texts of some rows, given on the host and on the device."""
        tokens = [self.tokens[row] for row in rows]
        return Texts(self.prompt[order], self.valid[order], tokens, self.padding)


class TokenSelector(Protocol):
    """Selects the target's tokens: after the prompt, and along a tree of candidates."""

    @property
    def scores(self) -> Tensor | None:
        """Processed scores that the last call selected from, if they are kept.

        ``[batch, levels, vocabulary]`` float32, one level for each token that it may have emitted;
        ``None`` if they are the logits or are not kept.
        """
        ...

    def first(self, logits: Tensor) -> Tensor:
        """Select the token after the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        ...

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a tree of candidates as far as the target agrees.

        Args:
            tree: The candidates.
            logits: The target's logits after every node, ``[batch, nodes, vocabulary]``.
            longest: Most drafts on a path.

        Returns:
            The accepted path and the target's own token after it.
        """
        ...

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, in the order given."""
        ...


class GreedySelector:
    """Takes the most likely token everywhere."""

    scores: None = None

    def first(self, logits: Tensor) -> Tensor:
        """Select the token after the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        return logits.argmax(-1)

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a tree of candidates, all rows and nodes at once."""
        return accept(
            tree.tokens,
            tree.ancestors,
            tree.depth,
            tree.alive,
            logits.argmax(-1),
            parent=tree.parent,
            longest=longest,
        )

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Do nothing: no row has a state here."""


class ProcessedSelector:
    """Processes logits where the walk passes, and draws if asked to.

    Attributes:
        selection: How tokens are selected.
        texts: The text so far.
        scores: What the last call selected from, if scores are kept.
    """

    def __init__(
        self,
        selection: TokenSelection,
        texts: Texts,
        noise: Noise,
        *,
        eager: bool,
        keep_scores: bool = False,
    ) -> None:
        """Start after the prompt.

        Args:
            selection: How tokens are selected.
            texts: The prompts, and lists that the generated tokens will be put into.
            noise: The numbers that decide, if tokens are drawn.
            eager: Whether asking the device for a value is cheap.
            keep_scores: Whether ``scores`` is wanted.
        """
        self.scores: Tensor | None = None
        self._keep_scores = keep_scores
        self.selection, self.texts, self._eager = selection, texts, eager
        device = texts.prompt.device
        self._rows = torch.arange(texts.prompt.shape[0], device=device)
        self._place = torch.zeros_like(self._rows)
        self._noise = noise
        # Neighbours that need ids share them.
        self._groups = [
            (needs, [step.apply for step in steps])
            for needs, steps in groupby(
                selection.steps, lambda step: "ids" if step.needs == "batch" else step.needs
            )
        ]
        # One column more than the vocabulary takes in what does not count.
        self._seen: Tensor | None = None

    @classmethod
    def in_slots(
        cls, selection: TokenSelection, noise: Noise, place: Tensor, seen: Tensor | None
    ) -> ProcessedSelector:
        """Select for the rows of a running batch, whose state lies in tensors that stay.

        Args:
            selection: How tokens are selected; without steps that need a row's ids.
            noise: The numbers that decide.
            place: Tokens that each row has, ``[rows]`` long; moves on in place.
            seen: Tokens that each row holds, ``[rows, vocabulary + 1]`` bool, if a step asks.
        """
        empty = Texts(place[:, None], place[:, None] < 0, [])
        selector = cls(selection, empty, noise, eager=False)
        selector._place, selector._seen = place, seen
        return selector

    @property
    def seen(self) -> Tensor | None:
        """Tokens that each row holds, ``[batch, vocabulary + 1]`` bool, if a step asks."""
        return self._seen

    def first(self, logits: Tensor) -> Tensor:
        """Select the token after the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        if any(needs == "seen" for needs, _ in self._groups):
            shape = (logits.shape[0], logits.shape[1] + 1)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=logits.device)
            self._mark_seen(self.texts.prompt, self.texts.valid)
        scores = self._scores(logits, None, None)
        self._keep([scores])
        token = self._pick(scores, self._place)
        self._advance(token[:, None], torch.ones_like(token))
        return token

    def accept(self, tree: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a tree of candidates; drawn ones are accepted by their own rule."""
        if rule(tree, self.selection.draws) != "choice":
            nodes = range(tree.tokens.shape[1])
            scores = [
                self._scores(logits[:, node], tree, torch.full_like(self._rows, node))
                for node in nodes
            ]
            stacked = torch.stack(scores, 1)
            target = stacked.softmax(-1)
            noise = self._noise.numbers("acceptance", self._place, len(nodes))
            # A row's last token goes by the number of its place, whoever drafted what before it.
            places = torch.arange(tree.height + 1, device=noise.device)
            closing = self._noise.at(self._place[:, None] + places)
            accepted = settle(tree, target, noise, closing)
            if self._keep_scores:
                self.scores = along(stacked, accepted.path)
        else:
            levels: list[Tensor] = []

            def choose(node: Tensor, level: int) -> Tensor:
                levels.append(self._scores(logits[self._rows, node], tree, node))
                return self._pick(levels[-1], self._place + level)

            accepted = walk(tree, choose, eager=self._eager)
            self._keep(levels)
        self._advance(accepted.emitted(tree.tokens), accepted.count + 1)
        return accepted

    def _keep(self, levels: list[Tensor]) -> None:
        """Keep the scores of some levels, ``[batch, vocabulary]`` each."""
        if self._keep_scores:
            self.scores = torch.stack(levels, 1)

    def _pick(self, scores: Tensor, place: Tensor) -> Tensor:
        """Select from processed scores, ``[batch, vocabulary]``, the token of some places."""
        if not self.selection.draws:
            return scores.argmax(-1)
        return draw_scores(scores, self._noise.at(place))

    # -- processing --------------------------------------------------------------------------------

    def _scores(self, logits: Tensor, tree: DraftTree | None, node: Tensor | None) -> Tensor:
        """Process the logits after one node per row, ``[batch, vocabulary]``."""
        scores = logits.float()
        path = tree.ancestors[self._rows, node] if tree is not None else None
        for needs, applied in self._groups:
            if needs == "ids":
                scores = self._by_ids(applied, scores, tree, path)
                continue
            seen = self._seen_on(tree, path) if needs == "seen" else None
            for apply in applied:
                scores = apply(seen, scores)
        return scores

    def _seen_on(self, tree: DraftTree | None, path: Tensor | None) -> Tensor:
        """Which tokens the text and a path below it hold, ``[batch, vocabulary]`` bool."""
        seen = self._seen
        assert seen is not None
        if tree is not None and path is not None:
            held = tree.tokens.masked_fill(~path, seen.shape[1] - 1)
            seen = seen.scatter(1, held, True)
        return seen[:, :-1]

    def _by_ids(
        self, applied: Sequence[Any], scores: Tensor, tree: DraftTree | None, path: Tensor | None
    ) -> Tensor:
        """Apply steps that need ids: to all rows at once where texts are equally long."""
        texts = list(map(list, self.texts.tokens))
        longest = max(map(len, texts))
        for row, text in enumerate(texts):
            text += [self.texts.padding] * (longest - len(text)) if self.selection.lockstep else []
            if tree is not None and path is not None:
                # The root, which comes first, is in the text already.
                text += tree.tokens[row][path[row]].tolist()[1:]
        if len(set(map(len, texts))) == 1:
            tail = torch.tensor(texts, dtype=torch.long, device=scores.device)
            return _apply(applied, torch.cat((self.texts.prompt, tail), 1), scores)
        each = []
        for row, text in enumerate(texts):
            tail = torch.tensor([text], dtype=torch.long, device=scores.device)
            ids = torch.cat((self.texts.prompt[row : row + 1], tail), 1)
            each.append(_apply(applied, ids, scores[row : row + 1]))
        return torch.cat(each)

    # -- rows --------------------------------------------------------------------------------------

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, in the order given."""
        order = torch.tensor(rows, device=self._place.device)
        self.texts = self.texts.keep(rows, order)
        self._place, self._noise = self._place[order], self._noise.rows(order)
        self._rows = self._rows[: len(rows)]
        if self._seen is not None:
            self._seen = self._seen[order]

    def _advance(self, tokens: Tensor, count: Tensor) -> None:
        """Move past the first ``count`` of the tokens that a step emitted, ``[batch, w]``."""
        self._place.add_(count)
        if self._seen is not None:
            place = torch.arange(tokens.shape[1], device=tokens.device)
            self._mark_seen(tokens, place < count[:, None])

    def _mark_seen(self, tokens: Tensor, real: Tensor) -> None:
        """Remember tokens for the repetition penalty."""
        assert self._seen is not None
        spill = self._seen.shape[1] - 1
        self._seen.scatter_(1, tokens.clamp(max=spill).masked_fill(~real, spill), True)


def along(values: Tensor, path: Tensor) -> Tensor:
    """Pick what belongs to the nodes of a path, ``[batch, nodes, ...]`` to ``[batch, w, ...]``."""
    return values.gather(1, path[:, :, None].expand(-1, -1, values.shape[2]))


def _apply(applied: Sequence[Any], ids: Tensor, scores: Tensor) -> Tensor:
    """Apply processors one after another; they may write into what they get."""
    scores = scores.clone()
    for apply in applied:
        scores = apply(ids, scores)
    return scores


def row_seeds(seed: Any, generator: torch.Generator | None, rows: int) -> list[int]:
    """Return one seed per row.

    Args:
        seed: One per row, or one number from which the rows count up, as numbers, a list, an array
            or a tensor; ``None`` draws them.
        generator: Where they are drawn from; ``None`` is torch's own, which ``torch.manual_seed``
            sets.
        rows: Rows of the batch.

    Raises:
        InputError: If there are as many seeds as neither one nor rows.
    """
    seeds = whole_numbers("seed", seed)
    if seeds is None:
        device = generator.device if generator is not None else "cpu"
        drawn = torch.randint(2**62, (rows,), generator=generator, device=device)
        return [int(number) for number in drawn.tolist()]
    if len(seeds) == 1:
        return [seeds[0] + row for row in range(rows)]
    if len(seeds) != rows:
        raise InputError(f"{len(seeds)} seeds for {rows} rows; give one, or one per row")
    return list(seeds)


__all__ = [
    "GreedySelector",
    "ProcessedSelector",
    "Texts",
    "TokenSelection",
    "TokenSelector",
    "along",
    "row_seeds",
]
