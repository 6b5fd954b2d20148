"""Prompt embedding: from token ids and pictures to the input of the first decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.adapter_answers import check_prompt, checked_visual
from twigkit.backbone.context import check_length
from twigkit.backbone.vision import VisionView
from twigkit.errors import CapabilityError, InputError


@dataclass(frozen=True)
class Prompt:
    """An embedded prompt: what the first decoder layer is given.

    Rows are padded on the left, so that the last position is every row's last prompt token, unless
    fillers come after it.

    Attributes:
        ids: Token ids, ``[batch, tokens]`` long.
        hidden: Input of the first layer, ``[batch, tokens, width]``.
        visual: Which positions hold visual tokens, ``[batch, tokens]`` bool; budgets count them and
            pruners drop them.
        placeholder: Which positions hold anything of a picture, ``[batch, tokens]`` bool: visual
            tokens, and newline or class tokens between them, which are never dropped.
        valid: Which positions are not padding, ``[batch, tokens]`` bool.
        rope: Rotary positions, ``[channels, batch, tokens]`` long.
        index: Sequence index without padding, ``[batch, tokens]`` long; windows count in it.
        next_rope: Rotary position of the first generated token, ``[batch]``.
        next_index: Sequence index of the first generated token, ``[batch]``.
        lengths: Valid tokens of each row, on the host.
        visual_counts: Visual tokens of each row, on the host.
        span: Tokens of the longest row before any was dropped.
        inject: States added to the output of some layers, ``{layer: [batch, tokens, width]}``.
        blocks: Number of the block whose tokens see each other both ways, ``[batch, tokens]`` long,
            -1 outside of blocks; ``None`` if the family has none.
        blocks_slide: Whether blocks count in layers with a window only, and no further than it.
        table: Tokens of the sequence that rotary tables are of, where they depend on its length;
            0 for what the positions say.
        vision: What the vision tower made of the pictures, where a pruner looks at it.
        fillers: Tokens at the end of each row that only lengthen it, ``[batch]`` long
            (:func:`twigkit.backbone.fillers.lengthened`); ``None`` where it was not lengthened.
    """

    ids: Tensor
    hidden: Tensor
    visual: Tensor
    placeholder: Tensor
    valid: Tensor
    rope: Tensor
    index: Tensor
    next_rope: Tensor
    next_index: Tensor
    lengths: list[int]
    visual_counts: list[int]
    span: int
    inject: dict[int, Tensor] = field(default_factory=dict)
    blocks: Tensor | None = None
    blocks_slide: bool = False
    table: int = 0
    vision: VisionView | None = None
    fillers: Tensor | None = None

    def to(self, device: torch.device) -> Prompt:
        """Return the prompt on another device; itself if it is there already."""
        if self.hidden.device == device:
            return self
        return self._rebuilt(lambda tokens: tokens.to(device), lambda rows: rows.to(device))

    def select(
        self,
        order: Tensor,
        alive: Tensor,
        lengths: list[int],
        visual_counts: list[int],
        rows: Tensor | None = None,
    ) -> Prompt:
        """Return the prompt with some of its tokens only, at their original positions.

        Args:
            order: Positions to keep, sorted, ``[picked, kept]``.
            alive: Which of them are real (the others are padding on the left), ``[picked, kept]``.
            lengths: Real ones of each row.
            visual_counts: Visual ones of each row.
            rows: Row of each new row, ``[picked]`` long, each perhaps several times; ``None`` for
                all rows as they are.
        """
        if rows is None:
            rows = torch.arange(order.shape[0], device=order.device)
        row = rows[:, None]
        picked = self._rebuilt(lambda tokens: tokens[row, order], lambda each: each[rows])
        return replace(
            picked,
            visual=picked.visual & alive,
            placeholder=picked.placeholder & alive,
            valid=alive,
            lengths=lengths,
            visual_counts=visual_counts,
        )

    def _rebuilt(
        self, tokens: Callable[[Tensor], Tensor], rows: Callable[[Tensor], Tensor]
    ) -> Prompt:
        """Copy the prompt with every tensor replaced: the one place that lists them.

        Args:
            tokens: Applied to what has one entry per token, ``[batch, tokens, ...]``.
            rows: Applied to what has one entry per row, ``[batch]``.
        """
        return replace(
            self,
            ids=tokens(self.ids),
            hidden=tokens(self.hidden),
            visual=tokens(self.visual),
            placeholder=tokens(self.placeholder),
            valid=tokens(self.valid),
            rope=torch.stack([tokens(channel) for channel in self.rope]),
            index=tokens(self.index),
            next_rope=rows(self.next_rope),
            next_index=rows(self.next_index),
            inject={layer: tokens(states) for layer, states in self.inject.items()},
            blocks=None if self.blocks is None else tokens(self.blocks),
            vision=None if self.vision is None else self.vision.mapped(tokens),
            fillers=None if self.fillers is None else rows(self.fillers),
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Prompt:
        """Return the prompt with every tensor changed in the same way."""
        return self._rebuilt(change, change)

    @property
    def unpadded(self) -> bool:
        """Whether every position of every row is a real token."""
        return min(self.lengths) == self.hidden.shape[1]


class _LanguageModelReached(Exception):  # noqa: N818 - control flow, not an error
    """Stops the base's forward before its first decoder layer; carries the arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


_reaching: ContextVar[object | None] = ContextVar("twigkit_language_model", default=None)


class PromptEmbedding:
    """The base's own way from a processor's outputs to the first decoder layer's input.

    The base runs as it is until it calls its language model, and is stopped there; so embeddings,
    positions and image features are the base's own, whatever the family.

    Attributes:
        model: The base model.
        text: Its language model: ``layers``, ``norm`` and ``rotary_emb``.
        config: The language model's configuration.
        visual_ids: Token ids that stand for visual tokens in a prompt.
        channels: Position channels (1, or 3 for M-RoPE).
    """

    def __init__(
        self, model: nn.Module, text: nn.Module, visual_ids: tuple[int, ...], channels: int
    ) -> None:
        """Hold the parts of the base."""
        self.model: Any = model
        self.text: Any = text
        self.config: Any = text.config
        self.visual_ids, self.channels = visual_ids, channels

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Run everything that comes before the first decoder layer.

        Args:
            **inputs: What the family's processor returns: ``input_ids`` ``[batch, tokens]``,
                ``attention_mask``, ``pixel_values`` and so on. Of ``inputs_embeds`` ``[batch,
                tokens, width]``, the base gets these, and the ids tell which tokens they are.

        Returns:
            The prompt, on the device of the first layer.

        Raises:
            InputError: If the prompt is empty, not padded on the left, longer than a table of
                positions, or its images and image tokens do not match.
        """
        ids = inputs.get("input_ids")
        if ids is None or ids.ndim != 2 or ids.shape[1] == 0 or ids.shape[0] == 0:
            raise InputError("the prompt is empty; give input_ids of shape [batch, tokens]")
        valid = self._valid(ids, inputs.get("attention_mask"))
        visual = checked_visual(self.visual_positions(ids, inputs), ids) & valid
        self.check_inputs(ids, self.placeholders(ids) & valid, inputs)
        if inputs.get("inputs_embeds") is not None:
            self._check_embeddings(ids, visual, inputs["inputs_embeds"])
            inputs = {**inputs, "input_ids": None}
        self.refresh()
        return self.assemble(ids, valid, visual, self._arguments(inputs))

    def refresh(self) -> None:
        """Notice what has changed about the base since the last prompt."""

    def _check_embeddings(self, ids: Tensor, visual: Tensor, embeddings: Tensor) -> None:
        """Refuse embeddings of other tokens, and those from which positions cannot be told."""
        if embeddings.ndim != 3 or embeddings.shape[:2] != ids.shape:
            raise InputError(
                f"inputs_embeds has shape {tuple(embeddings.shape)}, input_ids "
                f"{tuple(ids.shape)}; give an embedding for each id"
            )
        if self.channels > 1 and bool(visual.any()):
            raise CapabilityError(
                "inputs_embeds of a prompt with pictures: the base computes positions in several "
                "channels from the ids; give input_ids and pixel_values alone"
            )

    def _arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run the base until it calls its language model; return what it calls it with.

        The hook that stops it is there for this call only, and acts in this call's context only: a
        ``generate`` of the base in another thread is not disturbed.
        """
        call = object()

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _reaching.get() is call:
                raise _LanguageModelReached(kwargs)

        handle = self.text.register_forward_pre_hook(stop, with_kwargs=True)
        token = _reaching.set(call)
        try:
            self.model(**inputs, use_cache=False)
        except _LanguageModelReached as reached:
            return reached.arguments
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
            line = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"the model refuses the prompt: {line}; give it what its own processor returns, "
                "with one image token in the text for each picture"
            ) from error
        finally:
            _reaching.reset(token)
            handle.remove()
        raise CapabilityError(
            f"{type(self.model).__name__} never called {type(self.text).__name__}; its adapter "
            "names the wrong language model"
        )

    def assemble(
        self, ids: Tensor, valid: Tensor, visual: Tensor, arguments: dict[str, Any]
    ) -> Prompt:
        """Build the prompt from what the language model would have been called with."""
        hidden = arguments.get("inputs_embeds")
        if hidden is None:  # a model of text alone embeds its tokens itself
            hidden = self.embed_tokens(arguments.get("input_ids", ids))
        device = hidden.device
        valid, visual = valid.to(device), visual.to(device)
        index = (valid.long().cumsum(1) - 1).clamp(min=0)
        rope = self.positions(index, arguments.get("position_ids"))
        inject, blocks = self.injections(visual, arguments), self.blocks(visual, arguments)
        check_prompt(hidden, rope, inject, blocks, self.channels)
        counts = torch.stack((valid.sum(1), visual.sum(1))).tolist()
        # As generate counts: from the last prompt token, even where a video's time has run past it.
        last = rope[:, :, -1].amax(0)
        return Prompt(
            ids=ids.to(device),
            hidden=hidden,
            visual=visual,
            placeholder=self.placeholders(ids).to(device) & valid,
            valid=valid,
            rope=rope,
            index=index,
            next_rope=last + 1,
            next_index=valid.sum(1),
            lengths=counts[0],
            visual_counts=counts[1],
            span=max(counts[0]),
            inject=inject,
            blocks=blocks,
        )

    def positions(self, index: Tensor, given: Tensor | None) -> Tensor:
        """Return rotary positions, ``[channels, batch, tokens]`` long.

        Args:
            index: Sequence index without padding, ``[batch, tokens]``.
            given: What the language model would have been called with. With several channels these
                are the positions (a row of sequence indices may come before them); with one, the
                index itself is right whatever the padding.
        """
        if self.channels == 1 or given is None or given.ndim < 3:
            return index.expand(self.channels, -1, -1)
        return given[-self.channels :]

    def injections(self, visual: Tensor, arguments: dict[str, Any]) -> dict[int, Tensor]:
        """Return states to add after some layers; most families have none."""
        return {}

    def blocks(self, visual: Tensor, arguments: dict[str, Any]) -> Tensor | None:
        """Return blocks of tokens that see each other both ways; most families have none."""
        return None

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed text tokens, ``[batch, tokens]`` to ``[batch, tokens, width]``."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def visual_positions(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return which positions of a prompt hold visual tokens, ``[batch, tokens]`` bool.

        All placeholders do, unless a family says otherwise: it leaves out those that separate parts
        of a picture or stand for a whole, such as newline and class tokens. They are no part of a
        budget and are never dropped.

        Args:
            ids: Token ids, ``[batch, tokens]`` long.
            inputs: What the family's processor returns.
        """
        return self.placeholders(ids)

    def placeholders(self, ids: Tensor) -> Tensor:
        """Return which positions hold a placeholder of a picture, ``[batch, tokens]`` bool."""
        return torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device, dtype=ids.dtype))

    def check_inputs(self, ids: Tensor, placeholder: Tensor, inputs: dict[str, Any]) -> None:
        """Refuse prompts whose images and placeholders cannot belong together.

        Raises:
            InputError: With what was found and what to do.
        """
        given = [name for name in inputs if inputs[name] is not None]
        pictures = [n for n in given if n.startswith("pixel_values") or n == "mm_encoder_outputs"]
        any_visual = bool(placeholder.any())
        if pictures and not any_visual:
            raise InputError(
                "an image was given but the prompt has no image token; put the processor's image "
                "token into the prompt, or use its chat template"
            )
        if any_visual and not pictures and "inputs_embeds" not in given:
            raise InputError(
                "the prompt has image tokens but no image was given; pass the picture to the "
                "processor together with the prompt"
            )
        rows = self.model.get_input_embeddings().weight.shape[0]
        strange = ids[~placeholder & ((ids < 0) | (ids >= rows))]
        if strange.numel():
            raise InputError(
                f"the prompt has the token id {int(strange[0])}, and the model's vocabulary {rows} "
                "tokens; use the tokenizer that comes with the model"
            )
        check_length(self.text, ids.shape[1])

    @staticmethod
    def _valid(ids: Tensor, mask: Tensor | None) -> Tensor:
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if valid.shape != ids.shape:
            raise InputError(
                f"attention_mask has shape {tuple(valid.shape)}, input_ids {tuple(ids.shape)}"
            )
        if not bool(valid[:, -1].all()) or bool((valid[:, :-1] & ~valid[:, 1:]).any()):
            raise InputError(
                "prompts of different lengths must be padded on the left; set "
                "processor.tokenizer.padding_side = 'left'"
            )
        return valid


def place_inputs(
    inputs: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Move a processor's outputs to a device, and pixels to the base's precision.

    Inference and training both call this, so that a sample has the same positions in both.

    Args:
        inputs: What the base's processor returns, by name.
        device: Where the base's embedding is.
        dtype: The base's precision.

    Returns:
        The same, tensors on the device and floating-point ones in the precision. Those of
        one dimension hold a number per picture or video, such as the seconds between a video's
        frames; positions are computed from them, so they stay exact. What is no tensor is handed
        on as it is.
    """
    placed = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            value = value.to(device)
            if value.is_floating_point() and value.ndim > 1:
                value = value.to(dtype)
        placed[name] = value
    return placed
