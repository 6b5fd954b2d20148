"""P-Head pruning: the twig's pruning head says which visual tokens stay."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    CapabilityError,
    PromptLayout,
    PruneContext,
    Pruner,
    PrunerSpec,
    Register,
    Scorer,
    Selection,
    Stage,
    hookimpl,
    twig_stages,
)


class PHeadPrunerSpec(PrunerSpec):
    """Settings of P-Head pruning (TwigVLM++, arXiv 2503.14075 v3)."""

    kind: Literal["p-head"] = "p-head"
    head: str = Field("pruning", description="Name of the twig head that scores.")
    wipe_layer: int | float = Field(
        0.75,
        gt=0,
        allow_inf_nan=False,
        description="FinalWipe: base layers, or a fraction of them, after which no visual token is "
        "left; the depth itself wipes nothing.",
    )


class PHeadPruner:
    """Keeps the visual tokens that the pruning head scores highest, wipes all after a layer.

    The row that scores is the last prompt token's, as in training.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "capturable", "final-wipe"})
    needs_twig: ClassVar[bool] = True
    heads: tuple[str, ...]

    def __init__(self, spec: PHeadPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec
        self.heads = (spec.head,)

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut after the exit layer and the final wipe."""
        return twig_stages("p-head", layout, self.spec.wipe_layer)

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score each token with the head.

        Raises:
            CapabilityError: If the head of that name does not score, or there is no twig to score
                with.
        """
        if context.twig is None or context.twig_probe is None:
            raise CapabilityError("the pruner 'p-head' scores with a twig; load one")
        head = context.twig.head(self.spec.head)
        if not isinstance(head, Scorer):
            raise CapabilityError(
                f"the twig's head {self.spec.head!r} is a {type(head).__name__}, which scores no "
                "tokens; name a pruning head"
            )
        return Selection(head.scores(context.twig_probe, context.visual)[:, 0])


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register P-Head pruning."""
    register("p-head", PHeadPruner, PHeadPrunerSpec)
