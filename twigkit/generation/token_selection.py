"""How the target chooses its tokens: the most likely ones, or drawn, after whatever processing.

Every choice is a function of the text in front of it and, when tokens are drawn, of the number that
belongs to its position. So it does not matter in which order, or how many at once, positions are
decided, and a path or a tree of candidates gives the tokens of plain decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from twigkit.errors import InputError
from twigkit.speculative.acceptance import Accepted, accept, rule, walk
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.rejection_sampling import settle
from twigkit.speculative.sampling import Noise, Sampling, draw_scores, process

Processor = Callable[[Tensor, Tensor], Tensor]
"""Changes the scores ``[rows, vocabulary]`` of the token behind the ids ``[rows, tokens]``."""


@dataclass(frozen=True)
class Decoding:
    """How the target's tokens are chosen.

    Attributes:
        draws: Whether they are drawn; the most likely ones are taken otherwise.
        sampling: What happens to the logits before; applied in both cases.
        before: Processors in front of the repetition penalty.
        processors: Processors behind the repetition penalty and in front of the rest of
            ``sampling``.
        after: Processors behind all of it.
        lockstep: What may depend on more than a row's own ids, by name, so that all rows must be
            decided at once, position by position; empty if nothing does.
    """

    draws: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    before: tuple[Processor, ...] = ()
    processors: tuple[Processor, ...] = ()
    after: tuple[Processor, ...] = ()
    lockstep: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether tokens are the most likely ones of the unprocessed logits."""
        own = self.before or self.processors or self.after
        return not self.draws and not own and self.sampling == Sampling()


@dataclass(frozen=True)
class Texts:
    """The text in front of a step.

    Attributes:
        prompt: Ids of the prompts, padding included, ``[batch, prompt]``.
        valid: Which of them are not padding, ``[batch, prompt]`` bool.
        tokens: What every row has generated; these lists grow with the text.
        padding: Token id behind rows that have stopped.
    """

    prompt: Tensor
    valid: Tensor
    tokens: Sequence[list[int]]
    padding: int = 0

    def keep(self, rows: Sequence[int], order: Tensor) -> Texts:
        """Return the texts of some rows, given on the host and on the device."""
        tokens = [self.tokens[row] for row in rows]
        return Texts(self.prompt[order], self.valid[order], tokens, self.padding)


class Chooser(Protocol):
    """Decides which candidates the target accepts, and its own token behind them."""

    def first(self, logits: Tensor) -> Tensor:
        """Choose the token behind the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        ...

    def accept(self, table: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a table of candidates.

        Args:
            table: The candidates.
            logits: The target's logits after every node, ``[batch, nodes, vocabulary]``.
            longest: Most drafts on a path.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, in the order given."""
        ...


class GreedyChooser:
    """Takes the most likely token everywhere."""

    def first(self, logits: Tensor) -> Tensor:
        """Choose the token behind the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        return logits.argmax(-1)

    def accept(self, table: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a table of candidates, all rows and nodes at once."""
        return accept(
            table.tokens,
            table.ancestors,
            table.depth,
            table.alive,
            logits.argmax(-1),
            parent=table.parent,
            longest=longest,
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only; they leave nothing behind."""


class ProcessedChooser:
    """Processes logits where the walk passes, and draws if asked to.

    Attributes:
        decoding: How tokens are chosen.
        texts: The text so far.
    """

    def __init__(self, decoding: Decoding, texts: Texts, noise: Noise, *, eager: bool) -> None:
        """Start behind the prompt.

        Args:
            decoding: How tokens are chosen.
            texts: The prompts, and lists that the generated tokens will be put into.
            noise: The numbers that decide, if tokens are drawn.
            eager: Whether asking the device for a value is cheap.
        """
        self.decoding, self.texts, self._eager = decoding, texts, eager
        device = texts.prompt.device
        self._rows = torch.arange(texts.prompt.shape[0], device=device)
        self._place = torch.zeros_like(self._rows)
        self._noise = noise
        self._penalty = replace(Sampling(), repetition_penalty=decoding.sampling.repetition_penalty)
        self._rest = replace(decoding.sampling, repetition_penalty=1.0)
        # One column more than the vocabulary takes in what does not count.
        self._seen: Tensor | None = None

    def first(self, logits: Tensor) -> Tensor:
        """Choose the token behind the prompt, ``[batch, vocabulary]`` to ``[batch]``."""
        if self._penalty.repetition_penalty != 1.0:
            shape = (logits.shape[0], logits.shape[1] + 1)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=logits.device)
            self._see(self.texts.prompt, self.texts.valid)
        token = self._pick(self._scores(logits, None, None), self._place)
        self._advance(token[:, None], torch.ones_like(token))
        return token

    def accept(self, table: DraftTree, logits: Tensor, longest: int) -> Accepted:
        """Walk down a table of candidates; drawn ones are accepted by their own rule."""
        if rule(table, self.decoding.draws) != "choice":
            nodes = range(table.tokens.shape[1])
            scores = [
                self._scores(logits[:, node], table, torch.full_like(self._rows, node))
                for node in nodes
            ]
            target = torch.stack(scores, 1).softmax(-1)
            noise = self._noise.table("acceptance", self._place, len(nodes))
            # A row's last token goes by the number of its place, whoever drafted what before it.
            levels = torch.arange(table.height + 1, device=noise.device)
            closing = self._noise.at(self._place[:, None] + levels)
            accepted = settle(table, target, noise, closing)
        else:

            def choose(node: Tensor, level: int) -> Tensor:
                scores = self._scores(logits[self._rows, node], table, node)
                return self._pick(scores, self._place + level)

            accepted = walk(table, choose, eager=self._eager)
        self._advance(accepted.emitted(table.tokens), accepted.count + 1)
        return accepted

    def _pick(self, scores: Tensor, place: Tensor) -> Tensor:
        """Choose from processed scores, ``[batch, vocabulary]``, the token of some places."""
        if not self.decoding.draws:
            return scores.argmax(-1)
        return draw_scores(scores, self._noise.at(place))

    def _scores(self, logits: Tensor, table: DraftTree | None, node: Tensor | None) -> Tensor:
        """Process the logits after one node per row, ``[batch, vocabulary]``."""
        scores = logits.float()
        path = table.ancestors[self._rows, node] if table is not None else None
        scores = self._own(self.decoding.before, scores, table, path)
        if self._seen is not None:
            seen = self._seen
            if table is not None and path is not None:
                held = table.tokens.masked_fill(~path, scores.shape[1])
                seen = seen.scatter(1, held, True)
            scores = process(scores, self._penalty, seen[:, :-1])
        scores = self._own(self.decoding.processors, scores, table, path)
        return self._own(self.decoding.after, process(scores, self._rest), table, path)

    def _own(
        self,
        processors: Sequence[Processor],
        scores: Tensor,
        table: DraftTree | None,
        path: Tensor | None,
    ) -> Tensor:
        """Apply transformers' processors: to all rows at once where texts are equally long."""
        if not processors:
            return scores
        texts = list(map(list, self.texts.tokens))
        longest = max(map(len, texts))
        for row, text in enumerate(texts):
            text += [self.texts.padding] * (longest - len(text)) if self.decoding.lockstep else []
            if table is not None and path is not None:
                # The root, which comes first, is in the text already.
                text += table.tokens[row][path[row]].tolist()[1:]
        if len(set(map(len, texts))) == 1:
            tail = torch.tensor(texts, dtype=torch.long, device=scores.device)
            return _apply(processors, torch.cat((self.texts.prompt, tail), 1), scores)
        each = []
        for row, text in enumerate(texts):
            tail = torch.tensor([text], dtype=torch.long, device=scores.device)
            ids = torch.cat((self.texts.prompt[row : row + 1], tail), 1)
            each.append(_apply(processors, ids, scores[row : row + 1]))
        return torch.cat(each)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only, in the order given."""
        order = torch.tensor(rows, device=self._place.device)
        self.texts = self.texts.keep(rows, order)
        self._place, self._noise = self._place[order], self._noise.rows(order)
        self._rows = self._rows[: len(rows)]
        if self._seen is not None:
            self._seen = self._seen[order]

    def _advance(self, tokens: Tensor, count: Tensor) -> None:
        """Move behind the first ``count`` of the tokens that a step emitted, ``[batch, w]``."""
        self._place = self._place + count
        place = torch.arange(tokens.shape[1], device=tokens.device)
        self._see(tokens, place < count[:, None])

    def _see(self, tokens: Tensor, real: Tensor) -> None:
        """Remember tokens for the repetition penalty."""
        if self._seen is not None:
            spill = self._seen.shape[1] - 1
            self._seen.scatter_(1, tokens.clamp(max=spill).masked_fill(~real, spill), True)


def _apply(processors: Sequence[Processor], ids: Tensor, scores: Tensor) -> Tensor:
    """Apply processors one after another; they may write into what they get."""
    scores = scores.clone()
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def row_seeds(
    seed: int | Sequence[int] | None, generator: torch.Generator | None, rows: int
) -> list[int]:
    """Return one seed per row.

    Args:
        seed: One per row, or one number from which the rows count up; ``None`` draws them.
        generator: Where they are drawn from; ``None`` is torch's own, which ``torch.manual_seed``
            sets.
        rows: Rows of the batch.

    Raises:
        InputError: If there are as many seeds as neither one nor rows.
    """
    if isinstance(seed, int):
        return [seed + row for row in range(rows)]
    if seed is None:
        device = generator.device if generator is not None else "cpu"
        drawn = torch.randint(2**62, (rows,), generator=generator, device=device)
        return [int(number) for number in drawn.tolist()]
    if len(seed) != rows:
        raise InputError(f"{len(seed)} seeds for {rows} rows; give one, or one per row")
    return [int(number) for number in seed]


__all__ = [
    "Chooser",
    "Decoding",
    "GreedyChooser",
    "ProcessedChooser",
    "Processor",
    "Texts",
    "row_seeds",
]
