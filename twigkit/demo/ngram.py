"""A word-sequence model of the training text as a drafter: how far wording alone goes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence


class NgramDrafter:
    """Proposes the most frequent continuation of the last words, backing off to fewer.

    Attributes:
        order: Words of a gram, the predicted one included.
    """

    def __init__(self, texts: Iterable[Sequence[str]], order: int = 4) -> None:
        """Count the grams of all orders up to ``order`` in texts of words."""
        self.order = order
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            for end in range(1, len(text)):
                for size in range(min(order - 1, end) + 1):
                    counts[tuple(text[end - size : end])][text[end]] += 1
        self._best = {context: c.most_common(1)[0][0] for context, c in counts.items()}

    def propose(self, words: Sequence[str]) -> str:
        """The most likely next word."""
        for size in range(min(self.order - 1, len(words)), -1, -1):
            context = tuple(words[len(words) - size :])
            if context in self._best:
                return self._best[context]
        return ""

    def accepted_length(
        self, prompt: Sequence[str], answer: Sequence[str], length: int = 5
    ) -> float:
        """Tokens gained per step on an answer, the target's own token included.

        Args:
            prompt: Words before the answer.
            answer: What the target says, with its end token.
            length: Words proposed per step.
        """
        steps, done = 0, 0
        while done < len(answer):
            words, hits = [*prompt, *answer[:done]], 0
            while hits < length and done + hits < len(answer):
                if self.propose(words) != answer[done + hits]:
                    break
                words.append(answer[done + hits])
                hits += 1
            done += hits + 1
            steps += 1
        return len(answer) / steps
