"""The pruning head (P-Head): two learned gates turn the last twig layer's attention into scores."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from twigkit import CapabilityError
from twigkit.interfaces import Head, HeadSpec, LayerStack, Register, RowProbe, hookimpl

ONE = 1.278464542761074
"""Where a gate is one: ``relu(z) * sigmoid(z) = 1``."""


class PruningHeadSpec(HeadSpec):
    """Settings of the pruning head."""

    kind: Literal["pruning"] = "pruning"
    rotary: bool = Field(
        True,
        description="Whether queries and keys are taken after rotary position, as in the published "
        "checkpoints; the paper's formula shows none.",
    )
    offset: float = Field(
        ONE,
        ge=0.0,
        le=10.0,
        description="Constant inside both gates, relu(z) * sigmoid(z) of z = W x + offset. With "
        "the default and W at zero every gate is one, so that an untrained head scores by the "
        "plain attention among visual tokens. The published checkpoints have 0.",
    )


class PruningHead(Head):
    """Scores visual tokens by a gated attention row of the last twig layer.

    Queries and keys are the layer's own; the gates, one per feature of every head, are functions of
    what its self-attention is given. The softmax runs over the visual tokens alone.

    A fresh head must start somewhere sensible, and bias-free gates have no such place: at zero
    weights they are shut, and since the derivative is zero as well they stay shut; random weights
    shut half of the features and scramble the ranking. With a constant inside, zero weights leave
    every gate at one. Training then starts from the layer's attention to the visual tokens, which
    is a good score already (TwigVLM's), and every gate can be opened and shut from there.

    Attributes:
        query: Map to the gates of the queries, ``width -> heads * head_width``.
        key: Map to the gates of the keys, ``width -> kv_heads * head_width``.
        offset: Constant inside the gates.
        rotary: Whether queries and keys carry their rotary position.

    Source: TwigVLM++, arXiv 2503.14075 v3.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})

    def __init__(self, query: nn.Linear, key: nn.Linear, *, offset: float, rotary: bool) -> None:
        """Collect the maps."""
        super().__init__()
        self.query, self.key = query, key
        self.offset, self.rotary = offset, rotary

    @classmethod
    def grow(cls, spec: PruningHeadSpec, stack: LayerStack) -> PruningHead:
        """Start with gates of one; without an offset, which rules that out, with random ones."""
        config = stack.config
        width, heads = int(config.hidden_size), int(config.num_attention_heads)
        shapes = {stack.head_shape(layer) for layer in range(stack.depth)}
        if len(shapes) > 1:
            raise CapabilityError(
                "the layers of this base differ in their heads, and the gates of the head "
                "'pruning' are made for one shape; take a pruner without gates, such as 'ttp'"
            )
        ((groups, each),) = shapes
        dtype, device = stack.dtype, "meta" if stack.entry.type == "meta" else "cpu"
        maps = []
        for count in (heads, groups):
            linear = nn.Linear(width, count * each, bias=False, dtype=dtype, device=device)
            if spec.offset:
                nn.init.zeros_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=width**-0.5)
            maps.append(linear)
        return cls(*maps, offset=spec.offset, rotary=spec.rotary)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the gates of each token, queries' before keys'.

        Args:
            hidden: What the last twig layer's self-attention is given, ``[batch, tokens, width]``.

        Returns:
            ``[batch, tokens, (heads + kv_heads) * head_width]``, none negative.
        """
        return torch.cat((self._gates(self.query, hidden), self._gates(self.key, hidden)), -1)

    def scores(self, probe: RowProbe, visual: Tensor) -> Tensor:
        """Score the visual tokens before each probed row, also beyond a layer's window.

        Args:
            probe: The probe of the last twig layer, after a run.
            visual: Which tokens are visual, ``[batch, tokens]`` bool.

        Returns:
            ``[batch, rows, tokens]`` float32; those of a row add up to one, or are all zero where
            no visual token lies before it.

        Raises:
            RuntimeError: If the layer did not run, so that nothing was recorded.
        """
        record = probe.recorded()
        query, key = (record.query, record.key) if self.rotary else record.unrotated()
        rows = probe.request.of_tokens(record.inputs)
        query = query * _by_head(self._gates(self.query, rows), query)
        key = key * _by_head(self._gates(self.key, record.inputs), key)
        return probe.attention_among(visual, query, key)

    def _gates(self, linear: nn.Linear, inputs: Tensor) -> Tensor:
        """Open and shut features, ``[batch, tokens, features]``."""
        # While the head trains, it is in fp32 on layers that may not be; rounded maps take any.
        weight = getattr(linear, "weight", inputs)
        logits: Tensor = linear(inputs.to(weight.dtype)) + self.offset
        return logits.relu() * logits.sigmoid()


def _by_head(gates: Tensor, states: Tensor) -> Tensor:
    """Lay gates ``[batch, tokens, heads * width]`` out like states."""
    batch, heads, tokens, width = states.shape
    return gates.view(batch, tokens, heads, width).transpose(1, 2)


@hookimpl
def register_heads(register: Register[Head]) -> None:
    """Register the pruning head."""
    register("pruning", PruningHead, PruningHeadSpec)
