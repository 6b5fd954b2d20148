"""The attention rows that a pruner's stages want to see, and the probes that record them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from twigkit.backbone.probes import ProbeGroup, RowProbe
from twigkit.errors import CapabilityError
from twigkit.interfaces.pruner import Stage


@dataclass(frozen=True)
class AttentionRequest:
    """Attention rows that a stage wants to see.

    Attributes:
        source: ``"twig"`` for the last twig layer, or the number of a base layer.
        rows: The last prompt token's row, or those of all text tokens (summed).
    """

    source: Literal["twig"] | int
    rows: Literal["last", "text"]


def attention_requests(
    stages: Sequence[Stage],
    exit_layer: int | None,
    depth: int,
    recurrent: Collection[int] = (),
) -> list[AttentionRequest | None]:
    """Resolve what each stage wants to see.

    Args:
        stages: The stages.
        exit_layer: Base layers that run before the twig; ``None`` without one.
        depth: Base layers.
        recurrent: Base layers that attend to nothing.

    Returns:
        One request per stage, ``None`` where it wants nothing.

    Raises:
        CapabilityError: If there is no such layer, or the twig does not run before the stage.
    """
    requests: list[AttentionRequest | None] = []
    for stage in stages:
        source = stage.attention
        if source is None:
            requests.append(None)
            continue
        runs = exit_layer is not None and exit_layer <= stage.layer
        if not (runs if source == "twig" else 0 <= source < depth):
            raise CapabilityError(
                f"the stage after layer {stage.layer} asks for the attention of {source!r}; give a "
                f"base layer from 0 to {depth - 1}, or 'twig' where the twig grows before the stage"
            )
        if source in recurrent:
            earlier = [layer for layer in range(stage.layer) if layer not in recurrent]
            raise CapabilityError(
                f"the stage after layer {stage.layer} asks for the attention of layer {source} "
                "(counted from 0), which is recurrent and has none; ask for that of "
                + (f"layer {earlier[-1]}" if earlier else "a layer that attends, later on")
            )
        requests.append(AttentionRequest(source, stage.rows))
    return requests


@dataclass(frozen=True)
class AskedRows:
    """The probes of one layer, and the weights of their rows, by request."""

    asked: dict[AttentionRequest, tuple[RowProbe, Tensor]]

    @property
    def group(self) -> ProbeGroup:
        """What is handed to the layer."""
        return ProbeGroup([probe for probe, _ in self.asked.values()])

    def attention(self) -> dict[AttentionRequest, Tensor]:
        """Sum the recorded rows of each request, ``[batch, tokens]`` float32."""
        return {
            request: (probe.attention() * weight[:, :, None]).sum(1)
            for request, (probe, weight) in self.asked.items()
        }


__all__ = ["AskedRows", "AttentionRequest", "attention_requests"]
