"""Scripted logits: drafts that the target accepts always, never, or about half the time.

A twig that copies ALL layers after the exit layer, with the base's norm and head, predicts exactly
what the base will say. A :class:`ScriptedHead` on top of it is then right or wrong on purpose.

No twig knows what a base will say after a pruned prompt, or several tokens ahead. There a
:class:`ScriptedDrafter` looks the target's answer up instead: its layers run as ever, and what its
heads say is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from twigkit.backbone.prompt import Prompt
from twigkit.speculative.candidates import Candidates

Agreement = Literal["always", "half", "never"]

AGREEMENTS: tuple[Agreement, ...] = ("always", "half", "never")
"""How often a scripted draft is right."""


class ScriptedHead(nn.Module):
    """Turns the logits of a perfect draft into ones that are wrong where the script says so.

    Where the draft is to be wrong, the most likely token gets the lowest logit of all, so that no
    number of children brings it back. Whether it is to be wrong depends on the state alone: the
    same node is right or wrong whatever else is in the batch, in any order.

    Attributes:
        head: The head with perfect logits.
        agreement: How often to be right.
        threshold: Where the first feature of a state separates right from wrong, for ``"half"``.
    """

    def __init__(self, head: nn.Module, agreement: Agreement, threshold: float = 0.0) -> None:
        """Wrap a head."""
        super().__init__()
        self.head, self.agreement, self.threshold = head, agreement, threshold

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scripted logits, in the shape that the head gives."""
        logits: Tensor = self.head(hidden)
        if self.agreement == "always":
            return logits
        best = logits.argmax(-1, keepdim=True)
        lowest = logits.masked_fill(logits.isinf(), torch.inf).amin(-1, keepdim=True) - 1.0
        wrong = logits.scatter(-1, best, lowest)
        if self.agreement == "never":
            return wrong
        return torch.where(hidden[..., :1] > self.threshold, wrong, logits)


def middle(states: Tensor) -> float:
    """Return the threshold at which half of some states lie on either side.

    Args:
        states: Normed states on the target's own path, ``[tokens, width]``.
    """
    feature = states[:, 0].sort().values
    half = len(feature) // 2
    return float((feature[half - 1] + feature[half]) / 2) if half else 0.0


class Script:
    """What the target says in answer to some prompts, and how often drafts agree with it.

    Attributes:
        agreement: How often.
    """

    def __init__(
        self, prompt: Prompt, answers: Sequence[Sequence[int]], agreement: Agreement
    ) -> None:
        """Take the prompts before pruning, and what plain decoding adds to each."""
        self.agreement = agreement
        shown = prompt.ids.masked_fill(prompt.placeholder, -1)
        self._texts = [
            [*ids[real].tolist(), *answer]
            for ids, real, answer in zip(shown, prompt.valid, answers, strict=True)
        ]

    def following(self, text: list[int]) -> list[int]:
        """What the target adds to a text; nothing if it never says that."""
        size = len(text)
        return next((whole[size:] for whole in self._texts if whole[:size] == text), [])

    def says(self, place: int) -> bool:
        """Whether the draft of a token, by its place in the text, is right."""
        return self.agreement == "always" or (self.agreement == "half" and place % 4 < 2)


class ScriptedShallow:
    """A draft model whose layers run as ever, and whose heads say what a script wants."""

    def __init__(self, inner: Any, script: Script) -> None:
        """Wrap a draft model."""
        self.inner, self.script = inner, script
        self._paths: list[list[list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        """Do the rest as the wrapped model does."""
        return getattr(self.inner, name)

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Pass the nodes, and remember which text each of them ends."""
        rows = candidates.tokens.shape[0]
        ids = nodes.tolist() if isinstance(nodes, Tensor) else [list(nodes)] * rows
        tokens, above = candidates.tokens.tolist(), candidates.ancestors
        self._paths = [
            [
                [tokens[row][n] for n in above[row, node].nonzero()[:, 0].tolist() if n]
                for node in ids[row]
            ]
            for row in range(rows)
        ]
        return self.inner.expand(candidates, nodes)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor, head: str = "lm") -> Tensor:
        """Ask the head, and replace what it says."""
        said: Tensor = self.inner.logits(hidden, head)
        ahead = said.ndim == 4
        scripted = torch.zeros(said.shape)
        for row, (text, paths) in enumerate(zip(self.inner.texts, self._paths, strict=True)):
            for node, path in enumerate(paths):
                place, rest = len(text) + len(path), self.script.following(text + path)
                for offset in range(said.shape[2] if ahead else 1):
                    line = scripted[row, node, offset] if ahead else scripted[row, node]
                    self._fill(line, place + offset + ahead, rest[offset + ahead :])
        return scripted.to(said)

    def _fill(self, line: Tensor, place: int, rest: list[int]) -> None:
        """Write the logits of the token at one place, ``[vocabulary]``."""
        size = len(line)
        line.copy_((torch.arange(size) * 37 + place) % size / size)
        if rest and self.script.says(place):
            line[rest[0]] = 12.0
            return
        line[place * 31 % size] = 12.0
        if rest:
            line[rest[0]] = -1e4  # no number of children brings it back


class ScriptedDrafter:
    """Any drafter that drafts with heads, drafting by a script."""

    def __init__(self, inner: Any, script: Script) -> None:
        """Wrap a drafter."""
        self.inner, self.script = inner, script

    def __getattr__(self, name: str) -> Any:
        """Be what the wrapped drafter is."""
        return getattr(self.inner, name)

    def draft(self, draft_model: Any, candidates: Candidates, room: int) -> Any:
        """Draft with a draft model that follows the script."""
        return self.inner.draft(ScriptedShallow(draft_model, self.script), candidates, room)
