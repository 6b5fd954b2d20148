"""Twig-guided token pruning: the last twig layer's attention says which visual tokens stay."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from twigkit.interfaces import (
    PromptLayout,
    PruneContext,
    Pruner,
    PrunerSpec,
    Register,
    Selection,
    Stage,
    hookimpl,
    twig_stages,
)


class TtpPrunerSpec(PrunerSpec):
    """Settings of twig-guided token pruning (arXiv 2503.14075 §4.2)."""

    kind: Literal["ttp"] = "ttp"
    rows: Literal["last", "text"] = Field(
        "last",
        description="Query rows whose attention scores a token: the last prompt token's, as in the "
        "published code, or the sum over all text tokens, as in the paper's Eq. 3.",
    )
    wipe_layer: int | float = Field(
        0.75,
        gt=0,
        allow_inf_nan=False,
        description="FinalWipe: base layers, or a fraction of them, after which no visual token is "
        "left; the depth itself wipes nothing.",
    )


class TtpPruner:
    """Keeps the visual tokens that the twig attends to, and wipes all after the wipe layer."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "capturable", "final-wipe"})
    needs_twig: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: TtpPrunerSpec) -> None:
        """Take the spec."""
        self.spec = spec

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the cut after the exit layer and the final wipe."""
        return twig_stages("ttp", layout, self.spec.wipe_layer, rows=self.spec.rows)

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score each token by the attention that it receives."""
        assert context.attention is not None
        return Selection(context.attention)


@hookimpl
def register_pruners(register: Register[Pruner]) -> None:
    """Register twig-guided token pruning."""
    register("ttp", TtpPruner, TtpPrunerSpec)
