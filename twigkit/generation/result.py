"""What ``generate`` returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from twigkit.generation.loop import Generation
from twigkit.generation.prefill import Kept
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import joined
from twigkit.generation.stats import GenerationStats


@dataclass
class TwigOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]
    """What ``generate(return_dict_in_generate=True)`` returns: transformers' class, and more.

    Its ``past_key_values``, ``cache`` since transformers 5.24, is always ``None``: the KV cache is
    twigkit's own.

    Attributes:
        sequences: Prompts and generated tokens, ``[batch, tokens]`` long.
        scores: With ``output_scores``, what each token was selected from, after all processing:
            per new token ``[batch, vocabulary]`` float32, zero where a row had stopped before.
        logits: With ``output_logits``, the same before any processing.
        stats: What the call did and took.
        kept: What each stage of the pruner kept.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    stats: GenerationStats | None = None
    kept: list[Kept] | None = None


def answer(request: GenerationRequest, generation: Generation) -> Tensor | TwigOutput:
    """Put together what a call returns, of tensors that can be edited and trained on.

    Args:
        request: What was asked for.
        generation: What came of it.
    """
    assert request.input_ids is not None
    output = joined(request.input_ids, generation.sequences, request.stop.padding)
    if not request.outputs.dictionary:
        output.stats = generation.stats  # type: ignore[attr-defined]
        return output
    scores, logits = generation.scores, generation.logits
    return TwigOutput(
        sequences=output,
        scores=None if scores is None else scores.by_position(),
        logits=None if logits is None else logits.by_position(),
        stats=generation.stats,
        kept=[
            replace(
                kept,
                positions=kept.positions.clone(),
                alive=kept.alive.clone(),
                scores=None if kept.scores is None else kept.scores.clone(),
            )
            for kept in generation.prefilled.kept
        ],
    )


__all__ = ["TwigOutput", "answer"]
