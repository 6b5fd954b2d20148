"""What callers expect of a model of transformers, read from the base that a model holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import nn

from twigkit.backbone.attention_kernel import Attention
from twigkit.backbone.joint_weights import lay_together
from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CapabilityError, first_line
from twigkit.generation.batch_pool import BatchPool
from twigkit.interfaces.adapter import Adapter
from twigkit.twig.module import Twig

__all__ = ["BaseAttributes"]

_READ_OF_BASE = (
    "can_generate",
    "compute_transition_scores",
    "hf_device_map",
    "input_modalities",
    "main_input_name",
    "name_or_path",
    "output_modalities",
)
"""Attributes of the base that callers of transformers' models read."""


class BaseAttributes:
    """Device, precision, configuration and weights, as scripts, pipelines and harnesses read them.

    Attributes:
        base: The base model.
        stack: The base seen as layers.
        twig: The twig, or ``None``.
        adapter: The adapter that serves the base's family.
        batches: Captured steps, which a move makes useless.
        attention: What was asked to compute attention.
        owned: Whether the base was loaded here, so that nobody else shares its memory.
    """

    base: Any
    stack: LayerStack
    twig: Twig | None
    adapter: Adapter
    batches: BatchPool
    attention: Attention
    owned = False

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the base's first weights."""
        return self.stack.entry

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the base."""
        dtype: torch.dtype = self.base.dtype
        return dtype

    @property
    def config(self) -> Any:
        """The base's configuration."""
        return self.base.config

    @property
    def generation_config(self) -> Any:
        """The base's generation config: defaults of :meth:`generate`, to be read and changed."""
        return self.base.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self.base.generation_config = config

    @property
    def training(self) -> bool:
        """Whether the twig is in training mode; the base never is."""
        return self.twig is not None and self.twig.training

    def train(self, mode: bool = True) -> Self:
        """Put the twig into training mode; the base is frozen and stays in evaluation mode."""
        if self.twig is not None:
            self.twig.train(mode)
        return self

    def eval(self) -> Self:
        """Put the twig into evaluation mode."""
        return self.train(False)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move base and twig, as ``torch.nn.Module.to`` does.

        Raises:
            CapabilityError: If the base cannot be moved, as some quantised ones.
        """
        try:
            self.base.to(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            raise CapabilityError(
                f"the base cannot be moved: {first_line(error)}; load it where it is needed, with "
                "device_map and dtype"
            ) from error
        self.batches.drop()
        if self.twig is not None:
            self.twig.to(*args, **kwargs)
            lay_together(self.twig.layers)
        if self.owned:
            lay_together(self.base.modules())
        self.stack = self.adapter.stack(self.base)
        self.stack.choose_attention(self.attention)
        return self

    def half(self) -> Self:
        """Turn base and twig to float16."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Turn base and twig to bfloat16."""
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        """Turn base and twig to float32."""
        return self.to(torch.float32)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the twig's parameters: what can be trained; none without a twig."""
        return iter(()) if self.twig is None else self.twig.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the twig's parameters with their names."""
        return iter(()) if self.twig is None else self.twig.named_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """Return the base's embedding."""
        embedding: nn.Module = self.base.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """Return the base's head."""
        head: nn.Module = self.base.get_output_embeddings()
        return head

    def __getattr__(self, name: str) -> Any:
        """Return what pipelines and evaluation harnesses read of a model: the base's."""
        if name in _READ_OF_BASE:
            return getattr(self.base, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
