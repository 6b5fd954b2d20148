"""Makes the shapes, prompts and weights of tiny models: what an adapter needs to bring one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "STD",
    "Finish",
    "Medium",
    "TinyFamily",
    "TinyPrompts",
    "TinyRow",
    "join_media",
    "pad_left",
    "random_choice",
    "random_pixels",
    "spread_weights",
    "tiny_text_config",
    "tiny_vision_config",
]


STD = 0.12
"""Spread of tiny weights; the usual 0.02 makes attention uniform and hides wrong masks."""

BOS = 1
"""First token of every prompt of the tiny models that come with twigkit."""

EOS = 2
"""Their token that ends an answer."""

PAD = 0
"""Their padding."""


@dataclass(frozen=True)
class TinyRow:
    """One prompt for a tiny model, as the conformance kit asks for it.

    Attributes:
        media: What stands in it, in order: ``"image"`` and ``"video"``; empty for text alone.
        words: Text tokens before, between and after the media, at least one each.
        seed: Of its words, pixels and sizes, so that a row is the same alone and in a batch.
    """

    media: tuple[str, ...] = ()
    words: int = 4
    seed: int = 0


@dataclass(frozen=True)
class TinyFamily:
    """A model of a family in the smallest size that still does everything, for tests.

    Attributes:
        model: The model, built from its configuration: at least 6 layers, grouped-query attention
            where the family has it, a vocabulary of at least 64. The kit draws its weights.
        inputs: Makes what the family's processor would return for some rows, padded on the left:
            ``input_ids``, ``attention_mask``, pixels.
        answers: What generated tokens have in inputs that tell kinds of tokens apart, by name of
            the input; 0 where it is not named.
    """

    model: nn.Module
    inputs: Callable[[Sequence[TinyRow]], dict[str, Any]]
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Medium:
    """A picture or a video as a family's processor hands it over.

    Attributes:
        ids: The tokens that stand for it in the prompt, delimiters included.
        values: Tensors that the model takes for it, by argument name; those of all media of a batch
            are joined along their first dimension.
    """

    ids: list[int]
    values: dict[str, Tensor]


Finish = Callable[[dict[str, Any], list[list[Medium]]], dict[str, Any]]
"""Adds what a processor adds beyond ids, mask and media: takes the inputs and each row's media."""


@dataclass(frozen=True)
class TinyPrompts:
    """Makes left-padded prompts of drawn words and media.

    Attributes:
        media: Draws a picture or a video, by name: ``"image"``, ``"video"``.
        words: Token ids ``[first, last)`` that text is drawn from.
        finish: Adds what the family's processor adds.

    Example:
        >>> def image(generator):
        ...     return Medium([99, 99], {"pixel_values": random_pixels(generator, 1, 3, 8, 8)})
        >>> prompts = TinyPrompts({"image": image}, words=(5, 6))
        >>> inputs = prompts([TinyRow(("image",), words=1), TinyRow(words=3)])
        >>> inputs["input_ids"].tolist()
        [[1, 5, 99, 99, 5], [0, 1, 5, 5, 5]]
        >>> inputs["attention_mask"].tolist()
        [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
        >>> inputs["pixel_values"].shape
        torch.Size([1, 3, 8, 8])
    """

    media: Mapping[str, Callable[[torch.Generator], Medium]] = field(default_factory=dict)
    words: tuple[int, int] = (3, 80)
    finish: Finish | None = None

    def __call__(self, rows: Sequence[TinyRow]) -> dict[str, Any]:
        """Make a batch; a row is the same whatever stands beside it.

        Args:
            rows: What each prompt holds.

        Returns:
            ``input_ids``, ``attention_mask``, and what the media bring.
        """
        drawn = [self._row(row) for row in rows]
        media = [held for _, held in drawn]
        inputs: dict[str, Any] = pad_left([ids for ids, _ in drawn])
        inputs.update(join_media([medium for held in media for medium in held]))
        return inputs if self.finish is None else self.finish(inputs, media)

    def _row(self, row: TinyRow) -> tuple[list[int], list[Medium]]:
        """Draw one prompt: the first token, words, and media with words after each."""
        generator = torch.Generator().manual_seed(row.seed)
        ids, held = [BOS, *self._text(row.words, generator)], []
        for name in row.media:
            held.append(self.media[name](generator))
            ids += [*held[-1].ids, *self._text(row.words, generator)]
        return ids, held

    def _text(self, count: int, generator: torch.Generator) -> list[int]:
        drawn: list[int] = torch.randint(*self.words, (count,), generator=generator).tolist()
        return drawn


def tiny_text_config(**differs: Any) -> dict[str, Any]:
    """Return the settings of a tiny decoder: 64 wide, 8 layers, two query heads to a key.

    Args:
        **differs: Settings that a family adds or has otherwise.
    """
    return {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        **differs,
    }


def tiny_vision_config(**differs: Any) -> dict[str, Any]:
    """Return the settings of a tiny vision tower: two layers over four by four patches.

    Args:
        **differs: Settings that a family adds or has otherwise.
    """
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        **differs,
    }


def pad_left(prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Make ``input_ids`` and ``attention_mask`` of prompts of different lengths.

    Example:
        >>> {name: tensor.tolist() for name, tensor in pad_left([[1, 7, 8], [1]]).items()}
        {'input_ids': [[1, 7, 8], [0, 0, 1]], 'attention_mask': [[1, 1, 1], [0, 0, 1]]}
    """
    longest = max(map(len, prompts))
    ids = [[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def join_media(media: Sequence[Medium]) -> dict[str, Tensor]:
    """Join the tensors of some media along their first dimension."""
    values: dict[str, list[Tensor]] = {}
    for medium in media:
        for name, tensor in medium.values.items():
            values.setdefault(name, []).append(tensor)
    return {name: torch.cat(tensors) for name, tensors in values.items()}


def random_pixels(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw pixels of a normal distribution."""
    return torch.randn(shape, generator=generator)


def random_choice(generator: torch.Generator, *choices: Any) -> Any:
    """Draw one of several things, such as the size of a picture."""
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def spread_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights anew: matrices with a spread of :data:`STD`, vectors around 0 or 1.

    Norms stay around one and biases around zero; nothing else of what the model was born with is
    left, so that the same seed gives the same model.

    Args:
        model: The model; changed in place.
        seed: Of the weights.

    Returns:
        The model, in evaluation mode, with the special tokens of tiny models.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * STD
            parameter.copy_(noise if parameter.ndim > 1 else parameter.mean().round() + noise)
    settings: Any = getattr(model, "generation_config", None)
    if settings is not None:
        settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = BOS, EOS, PAD
    return model.eval()
