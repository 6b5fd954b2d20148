"""TwigModel: a base model with a twig on it, the object that a user holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CapabilityError, InputError
from twigkit.families.loading import load_base
from twigkit.families.resolve import find_adapter
from twigkit.generation.prefill import Kept
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import joined
from twigkit.generation.start import start
from twigkit.generation.stats import GenerationStats
from twigkit.generation.strategy import Memories
from twigkit.generation.verifier import run_deep
from twigkit.interfaces.drafter import Drafter
from twigkit.specs.run import DrafterSpec, PrunerSpec, TwigSpec
from twigkit.twig.checkpoint import load_twig, save_twig
from twigkit.twig.module import Twig, grow

__all__ = ["TwigModel", "TwigOutput"]


@dataclass
class TwigOutput(ModelOutput):  # type: ignore[misc]
    """What ``generate(return_dict_in_generate=True)`` returns.

    Attributes:
        sequences: Prompts and generated tokens, ``[batch, tokens]`` long.
        stats: What the call did and took.
        kept: What each stage of the pruner kept.
    """

    sequences: Tensor | None = None
    stats: GenerationStats | None = None
    kept: list[Kept] | None = None


class TwigModel:
    """A frozen base model with, perhaps, a twig on it.

    Attributes:
        base: The base model, unchanged; its own ``generate`` still works.
        stack: The base seen as layers.
        twig: The twig, or ``None``.
        adapter: The adapter that serves the base's family.
        memories: What drafters that learn keep from one call to the next, by spec and twig.
    """

    def __init__(self, base: nn.Module, twig: Twig | None = None) -> None:
        """Wrap a loaded base model.

        Args:
            base: A model of transformers with an adapter.
            twig: A twig that was grown on it.

        Raises:
            CapabilityError: If no adapter serves the model's family.
            InputError: If it is no model.
        """
        config: Any = getattr(base, "config", None)
        if not isinstance(base, nn.Module) or not hasattr(config, "to_dict"):
            raise InputError(
                f"the base is a {type(base).__name__}; expected a model of transformers, or use "
                "TwigModel.from_pretrained with a folder or Hub id"
            )
        self.base: Any = base.eval()
        self.adapter = find_adapter(config.to_dict())
        self.stack: LayerStack = self.adapter.stack(base)
        self.twig = twig
        self._compiled: Callable[..., Tensor] | None = None
        self.memories: Memories = {}

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | nn.Module,
        twig: str | Path | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device_map: Any = None,
        revision: str | None = None,
        twig_revision: str | None = None,
        attn_implementation: str = "sdpa",
        allow_other_base: bool = False,
    ) -> TwigModel:
        """Load a base model and a twig.

        Args:
            base: Folder, Hub id, or a model that is loaded already.
            twig: Folder or Hub id of the twig; ``None`` for none.
            dtype: Precision of the base; the twig follows.
            device_map: As transformers takes it.
            revision: Revision of the base on the Hub.
            twig_revision: Revision of the twig on the Hub.
            attn_implementation: What the base's own ``forward`` and ``generate`` use.
            allow_other_base: Accept a twig that was grown on other weights of the same shapes.

        Returns:
            The model, in evaluation mode.

        Raises:
            CheckpointError: If something is missing or damaged, or the twig belongs to another
                base.
            CapabilityError: If no adapter serves the base.
        """
        if not isinstance(base, str | Path):
            model = cls(base)
        else:
            options = {"dtype": dtype, "device_map": device_map, "revision": revision}
            options["attn_implementation"] = attn_implementation
            model = cls(load_base(base, {k: v for k, v in options.items() if v is not None}))
        if twig is not None:
            model.twig = load_twig(
                twig, model.stack, revision=twig_revision, allow_other_base=allow_other_base
            )
        return model

    def grow(self, spec: TwigSpec) -> Twig:
        """Grow a fresh twig on the base and hold it."""
        self.twig = grow(spec, self.stack)
        self.memories.clear()
        return self.twig

    def save_twig(self, folder: str | Path, *, note: str = "", overwrite: bool = False) -> Path:
        """Write the twig to a folder, whole or not at all.

        Args:
            folder: Where to.
            note: A line for the model card.
            overwrite: Whether a twig there is replaced; other files in the folder always stay.

        Returns:
            The folder.

        Raises:
            CapabilityError: If there is no twig.
            CheckpointError: If the folder holds a twig that may not be replaced, or something
                else, or cannot be written.
        """
        if self.twig is None:
            raise CapabilityError("there is no twig to save; grow one first")
        return save_twig(self.twig, self.stack, folder, note=note, overwrite=overwrite)

    def compile(self, **options: Any) -> TwigModel:
        """Compile the verification step; pays on a GPU, after a minute of compiling.

        Args:
            **options: For ``torch.compile``.

        Returns:
            The model itself.
        """
        self._compiled = torch.compile(run_deep, fullgraph=True, **options)
        return self

    @torch.inference_mode()
    def generate(
        self,
        *,
        budget: int | float | None = None,
        pruner: str | PrunerSpec | dict[str, Any] = "ttp",
        drafter: str | DrafterSpec | dict[str, Any] | Drafter | None = None,
        wipe_layer: int | float | None = None,
        draft_cache: str = "full",
        bucketed: bool | None = None,
        generator: torch.Generator | None = None,
        seed: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Tensor | TwigOutput:
        """Generate answers.

        Args:
            budget: Average number of visual tokens per layer, as a count or a fraction in ``(0,
                1]``; ``None`` prunes nothing.
            pruner: Chooses the visual tokens that stay, by name or spec.
            drafter: Proposes tokens, by name or spec, or an object that does; ``None`` takes
                ``"ssd"`` with a twig and ``"plain"`` without.
            wipe_layer: Layer after which no visual token is left; ``None`` leaves it to the pruner.
            draft_cache: Whether the twig keeps every prompt token for drafting (``"full"``, as
                published) or only those that the base keeps (``"kept"``).
            bucketed: Fixed shapes for compiled steps; ``None`` chooses them on anything but a CPU.
            generator: Random numbers for pruners that draw and, without ``seed``, for the tokens;
                ``None`` takes torch's own.
            seed: Of the tokens that are drawn: one per row, or one number from which the rows
                count up. The same seed gives the same tokens with every drafter.
            **kwargs: The processor's outputs, and transformers' generation settings:
                ``max_new_tokens``, ``eos_token_id``, ``stop_strings`` with ``tokenizer``,
                ``do_sample`` with ``temperature``, ``top_k``, ``top_p`` and ``min_p``,
                ``repetition_penalty``, ``logits_processor``, ``stopping_criteria``, ``streamer``,
                ``return_dict_in_generate``, ...

        Returns:
            ``[batch, tokens]`` long, prompts in front, as the base's own ``generate`` returns them,
            with the attribute ``stats`` (:class:`GenerationStats`); or a :class:`TwigOutput` if
            ``return_dict_in_generate`` is set.

        Raises:
            InputError: If the prompt or a setting cannot be used.
            BudgetError: If the budget cannot be met; gives the bounds.
            CapabilityError: If a strategy needs what the twig does not have.
        """
        started = time.perf_counter()
        request = GenerationRequest.resolve(
            self,
            kwargs,
            budget=budget,
            pruner=pruner,
            drafter=drafter,
            wipe_layer=wipe_layer,
            draft_cache=draft_cache,
            bucketed=bucketed,
            generator=generator,
            seed=seed,
        )
        assert request.input_ids is not None
        prompt = self.stack.embed_prompt(**request.inputs)
        generation = start(self.stack, prompt, request, twig=self.twig, compiled=self._compiled)
        streamer = request.stop.streamer
        if streamer is not None:
            streamer.put(request.input_ids.cpu())
        stats = generation.run(started)
        if streamer is not None:
            streamer.end()
        output = joined(request.input_ids, generation.sequences, request.stop.padding)
        if request.return_dict:
            return TwigOutput(sequences=output, stats=stats, kept=generation.prefilled.kept)
        output.stats = stats  # type: ignore[attr-defined]
        return output
