"""Cuts the heads of a trained twig to the tokens that are drafted most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from twigkit.errors import CapabilityError
from twigkit.twig.module import Twig
from twigkit.twig.quantised_weights import is_quantised_twig


@runtime_checkable
class CutsVocabulary(Protocol):
    """What a head adds that can score a part of the vocabulary only."""

    def cut_vocabulary(self, ids: Tensor) -> None:
        """Keep the rows of some tokens, ``[rows]`` long, and score no other."""
        ...


def cut_vocabulary(twig: Twig, ids: Tensor | Sequence[int]) -> Twig:
    """Let the heads of a twig score some tokens only; the others are never drafted.

    Answers stay the same, because the target verifies every token: only which tokens are drafted
    changes, and what a draft costs. The spec then says how many there are, and the checkpoint
    which.

    Args:
        twig: The twig; changed in place.
        ids: The tokens, such as :func:`twigkit.backbone.draft_vocabulary.frequent_tokens` returns.

    Returns:
        The twig itself.

    Raises:
        CapabilityError: If no head can score a part of the vocabulary, or weights are rounded.
        SpecError: If a token is not in the vocabulary, or named twice.
    """
    if is_quantised_twig(twig):
        raise CapabilityError(
            "the twig's weights are rounded to eight bits; cut it with plain weights, before that"
        )
    chosen = torch.as_tensor(ids, dtype=torch.long)
    specs: dict[str, Any] = dict(twig.spec.heads)
    cut = False
    for name, head in twig.heads.items():
        if isinstance(head, CutsVocabulary):
            head.cut_vocabulary(chosen)
            specs[name] = specs[name].replace(draft_vocabulary=len(chosen))
            cut = True
    if not cut:
        raise CapabilityError(
            f"none of the twig's heads ({', '.join(twig.heads) or 'none'}) can score a part of the "
            "vocabulary; 'lm' and 'medusa' can"
        )
    twig.spec = twig.spec.replace(heads=specs)
    return twig


__all__ = ["CutsVocabulary", "cut_vocabulary"]
