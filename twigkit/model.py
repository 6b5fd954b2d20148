"""TwigModel: a base model with a twig on it, the object that a user holds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt, place_inputs
from twigkit.errors import CapabilityError, InputError, PluginError
from twigkit.families.loading import load_base
from twigkit.families.resolve import find_adapter
from twigkit.generation.config import Settings, resolve_settings
from twigkit.generation.loop import Generation, decode
from twigkit.generation.prefill import Kept, Storage, prefill
from twigkit.generation.request import check_names, check_prompt, check_request
from twigkit.generation.sequences import sequences
from twigkit.generation.stats import GenerationStats
from twigkit.generation.token_selection import Decoding, row_seeds
from twigkit.generation.verifier import run_deep
from twigkit.interfaces.drafter import BeginsAnswers, Drafter, Remembers
from twigkit.interfaces.pruner import PromptLayout, Pruner, Stage
from twigkit.plugins.contracts import check_instance
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import DrafterSpec, GenerationSpec, PrunerSpec, TwigSpec
from twigkit.twig.checkpoint import load_twig, save_twig
from twigkit.twig.module import Twig, grow


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
        self._memories: dict[tuple[str, int], dict[str, Any]] = {}

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
        self._memories.clear()
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
        ids = check_prompt(kwargs)
        if drafter is None:
            drafter = "plain" if self.twig is None else "ssd"
        ready = None if isinstance(drafter, str | dict | DrafterSpec) else drafter
        spec = GenerationSpec(
            budget=budget,
            pruner=pruner,
            drafter="plain" if ready else drafter,
            wipe_layer=wipe_layer,
            draft_cache=draft_cache,
        )
        settings = resolve_settings(self.base, ids.shape[1], kwargs)
        spec, ready = _in_lockstep(spec, ready, settings.decoding)
        strategy = self._drafter(spec, ready)
        seeds = []
        if settings.decoding.draws:
            seeds = row_seeds(seed, generator, settings.inputs["input_ids"].shape[0])
        check_names(self.base, settings.inputs, self.generate)
        check_request(
            self.adapter,
            settings.inputs,
            self.base.config.model_type,
            prunes=spec.budget is not None,
        )
        weight = self.base.get_input_embeddings().weight
        prompt = self.stack.embed_prompt(**place_inputs(settings.inputs, weight))
        self._check_context(prompt, settings)
        chosen, stages = self._plan(spec, prompt)
        if bucketed is None:
            bucketed = prompt.hidden.device.type != "cpu"
        storage = Storage(
            settings.limits.max_new_tokens + strategy.capacity,
            drafts=bool(strategy.heads),
            kept_only=spec.draft_cache == "kept",
            bucketed=bucketed,
        )
        prefilled = prefill(
            self.stack,
            prompt,
            storage,
            twig=self.twig,
            pruner=chosen,
            stages=stages,
            generator=generator,
        )
        if settings.limits.streamer is not None:
            settings.limits.streamer.put(ids.cpu())
        generation = Generation(
            self.stack,
            prompt,
            prefilled,
            strategy,
            settings.limits,
            twig=self.twig,
            bucketed=bucketed,
            compiled=self._compiled,
            decoding=settings.decoding,
            seeds=seeds,
        )
        stats = decode(generation, prefilled, prompt, started)
        if settings.limits.streamer is not None:
            settings.limits.streamer.end()
        output = sequences(ids, generation.rows, settings.limits.padding)
        if settings.return_dict:
            return TwigOutput(sequences=output, stats=stats, kept=prefilled.kept)
        output.stats = stats  # type: ignore[attr-defined]
        return output

    def _drafter(self, spec: GenerationSpec, ready: Drafter | None) -> Drafter:
        """Make the drafter and check that the twig has what it needs."""
        if ready is not None:
            try:
                check_instance("drafter", ready)
            except PluginError as error:
                raise InputError(
                    f"the drafter is {ready!r}; expected a name such as 'ssd', a spec, or an "
                    f"object with what twigkit.Drafter lists: {error}"
                ) from None
            if isinstance(ready, BeginsAnswers):
                ready.begin_answer()
            self._need_heads("drafter", _label(ready), ready.heads)
            return ready
        drafter: Drafter = default_registry().get("drafter", spec.drafter.kind).make(spec.drafter)
        if isinstance(drafter, Remembers):
            key = (spec.drafter.to_json(), id(self.twig))
            drafter.memory = self._memories.setdefault(key, {})
        if isinstance(drafter, BeginsAnswers):
            drafter.begin_answer()
        self._need_heads("drafter", spec.drafter.kind, drafter.heads)
        return drafter

    def _need_heads(self, kind: str, name: str, heads: tuple[str, ...]) -> None:
        """Refuse a strategy whose heads are missing."""
        if not heads:
            return
        if self.twig is None:
            raise CapabilityError(
                f"the {kind} {name!r} needs a twig with the head {heads[0]!r}; load one with "
                "twig=... (--twig)"
            )
        for head in heads:
            if head not in self.twig.heads:
                raise CapabilityError(
                    f"the {kind} {name!r} needs the head {head!r}; the twig has "
                    f"{', '.join(self.twig.heads) or 'none'}"
                )

    def _plan(self, spec: GenerationSpec, prompt: Prompt) -> tuple[Pruner | None, list[Stage]]:
        """Make the pruner and its stages, if there is anything to prune."""
        if spec.budget is None:
            return None, []
        pruner: Pruner = default_registry().get("pruner", spec.pruner.kind).make(spec.pruner)
        if pruner.needs_twig and self.twig is None:
            raise CapabilityError(f"the pruner {spec.pruner.kind!r} scores with a twig; load one")
        self._need_heads("pruner", spec.pruner.kind, pruner.heads)
        layout = PromptLayout(
            visual=prompt.visual_counts,
            depth=self.stack.depth,
            exit_layer=None if self.twig is None else self.twig.exit_layer,
            budget=spec.budget,
            wipe_layer=spec.wipe_layer,
        )
        stages = pruner.stages(layout)
        return pruner, stages if any(prompt.visual_counts) else []

    def _check_context(self, prompt: Prompt, settings: Settings) -> None:
        """Refuse generations that would run past the model's context."""
        context = getattr(self.stack.config, "max_position_embeddings", None)
        wanted = prompt.span + settings.limits.max_new_tokens
        if context is not None and wanted > context:
            raise InputError(
                f"{prompt.span} prompt tokens and {settings.limits.max_new_tokens} new ones make "
                f"{wanted}, but the model's context holds {context}; ask for fewer"
            )


def _label(drafter: Drafter) -> str:
    """Return what messages call a drafter that came as an object."""
    return str(getattr(drafter, "label", type(drafter).__name__))


def _in_lockstep(
    spec: GenerationSpec, ready: Drafter | None, decoding: Decoding
) -> tuple[GenerationSpec, Drafter | None]:
    """Return the drafter, which is a plain one where something must see all rows at once."""
    name = spec.drafter.kind if ready is None else _label(ready)
    if not decoding.lockstep or name == "plain":
        return spec, ready
    names = ", ".join(decoding.lockstep)
    warnings.warn(
        f"{names}: not known to depend on the ids of one row alone, so the drafter {name!r} is "
        "left out and decoding is plain",
        stacklevel=4,
    )
    return GenerationSpec(**{**dict(spec), "drafter": "plain"}), None
