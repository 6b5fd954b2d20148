"""TwigModel: a base model with a twig on it, the object that a user holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.attention_kernel import Attention, kernels_for
from twigkit.backbone.joint_weights import lay_together
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.placement import usual_device
from twigkit.base_attributes import BaseAttributes
from twigkit.errors import CapabilityError, InputError
from twigkit.families.adapted import inside_adapter
from twigkit.families.loading import HUB, load_base_or_twig
from twigkit.families.resolve import find_adapter, make_stack
from twigkit.generation.batch_pool import BatchPool, GraphMode
from twigkit.generation.request import GenerationRequest
from twigkit.generation.result import TwigOutput, answer
from twigkit.generation.start import begin
from twigkit.generation.strategy import Memories, Strategy
from twigkit.generation.verifier import run_deep
from twigkit.interfaces.drafter import Drafter
from twigkit.specs.run import DrafterSpec, PrunerSpec, TwigSpec
from twigkit.specs.runtime import RunSpec
from twigkit.twig.card import Result
from twigkit.twig.checkpoint import load_twig, save_twig
from twigkit.twig.hub import push
from twigkit.twig.module import Twig, grow
from twigkit.twig.quantised_weights import TwigWeights, quantise_twig

__all__ = ["TwigModel", "TwigOutput"]

Number = int | float
"""A count or a fraction."""


class TwigModel(BaseAttributes):
    """A frozen base model with, perhaps, a twig on it.

    Attributes:
        base: The base model, unchanged; its own ``generate`` still works.
        stack: The base seen as layers.
        twig: The twig, or ``None``.
        adapter: The adapter that serves the base's family.
        batches: Captured steps, kept from one call to the next; ``batches.mode`` says when steps
            are captured: ``"auto"`` (on a GPU), ``"on"`` or ``"off"``.
        attention: What was asked to compute attention.
        memories: What drafters that learn keep from one call to the next, by spec and twig.
    """

    def __init__(self, base: nn.Module, twig: Twig | None = None) -> None:
        """Wrap a loaded base model.

        Args:
            base: A model of transformers whose family is served; of one that peft wraps, the model
                inside is held, its adapters in place.
            twig: A twig that was grown on it.

        Raises:
            CapabilityError: If no adapter serves the model's family.
            InputError: If it is no model.
        """
        base = inside_adapter(base)
        config: Any = getattr(base, "config", None)
        if not isinstance(base, nn.Module) or not hasattr(config, "to_dict"):
            raise InputError(
                f"the base is a {type(base).__name__}; expected a model of transformers, or use "
                "TwigModel.from_pretrained with a folder or Hub id"
            )
        head = getattr(base, "get_output_embeddings", lambda: None)()
        if head is None:
            raise InputError(
                f"the base is a {type(base).__name__}, which has no language-model head; load it "
                "with AutoModelForImageTextToText or AutoModelForCausalLM"
            )
        self.base: Any = base.eval()
        self.adapter = find_adapter(config.to_dict())
        self.stack: LayerStack = make_stack(self.adapter, base)
        self.attention: Attention = "auto"
        self.stack.choose_attention(self.attention)
        self.twig = twig
        self._compiled: Callable[..., Tensor] | None = None
        self.memories: Memories = {}
        self.batches = BatchPool()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | nn.Module,
        twig: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: Any = None,
        quantization_config: Any = None,
        revision: str | None = None,
        subfolder: str = "",
        twig_revision: str | None = None,
        twig_subfolder: str = "",
        attn_implementation: str | None = None,
        graphs: GraphMode = "auto",
        attention: Attention = "auto",
        twig_weights: TwigWeights = "plain",
        allow_other_base: bool = False,
        **hub: Any,
    ) -> TwigModel:
        """Load a base model and a twig.

        Args:
            base: Folder or Hub id of a model, an adapter of peft or a twig; or a loaded model.
            twig: Folder or Hub id of the twig; ``None`` for none.
            dtype: Precision of the base, ``"auto"`` unless given; the twig follows.
            torch_dtype: The same by its older name.
            device_map: As transformers takes it, like ``quantization_config``.
            quantization_config: As transformers takes it.
            revision: Revision on the Hub of what ``base`` names.
            subfolder: Folder inside of what ``base`` names.
            twig_revision: Revision of the twig on the Hub.
            twig_subfolder: Folder inside of what ``twig`` names.
            attn_implementation: Of the base's own ``forward``; ``None`` for transformers' choice.
            graphs: Whether prefill and steps are CUDA graphs: ``"auto"``, ``"on"`` or ``"off"``.
            attention: What twigkit's passes use; see :meth:`choose_attention`.
            twig_weights: ``"int8"`` or ``"fp8"`` rounds those of the twig to eight bits.
            allow_other_base: Accept a twig that was grown on other weights of the same shapes.
            **hub: ``token``, ``cache_dir`` and ``local_files_only``, as transformers takes them.

        Raises:
            CheckpointError: If something is missing or damaged, or the twig is another base's.
            CapabilityError: If no adapter serves the base.
        """
        _check_arguments(dtype, torch_dtype, hub)
        twig_place = {"revision": twig_revision, "subfolder": twig_subfolder}
        options = {"dtype": dtype or torch_dtype or "auto", "device_map": device_map}
        options |= {"attn_implementation": attn_implementation, **hub}
        options["quantization_config"] = quantization_config
        place = {"revision": revision, "subfolder": subfolder}
        loaded, named = load_base_or_twig(base, options, place, alone=twig is None)
        twig, twig_place = (twig, twig_place) if named is None else (named, place)
        if owned := loaded is not base:
            lay_together(loaded.modules())
        model = cls(loaded).choose_attention(attention)
        model.batches.mode, model.owned = graphs, owned
        if twig is not None:
            more = {"allow_other_base": allow_other_base, **twig_place, **hub}
            model.twig = quantise_twig(load_twig(twig, model.stack, **more), twig_weights)
        return model

    @classmethod
    def from_spec(cls, run: RunSpec) -> TwigModel:
        """Load what a run names, where and as precisely as its runtime says.

        A twig to grow has random weights but for what it copies from the base.

        Args:
            run: The run; ``run.generation.options()`` are arguments of :meth:`generate`.

        Raises:
            CheckpointError: If something is missing or damaged, or the twig is another base's.
            CapabilityError: If no adapter serves the base, or the runtime asks for what is not
                there.
        """
        runtime, twig = run.runtime, run.twig
        grown = twig if isinstance(twig, TwigSpec) else None
        model = cls.from_pretrained(
            *run.places,
            revision=grown.revision if grown and run.base is None else None,
            dtype=runtime.dtype,
            device_map=runtime.device_map or usual_device(),
            graphs=runtime.graphs,
            attention=runtime.attention,
            twig_weights=runtime.twig_weights,
        )
        if grown is not None:
            model.twig = quantise_twig(model.grow(grown).eval(), runtime.twig_weights)
        return model

    def choose_attention(self, wanted: Attention) -> TwigModel:
        """Choose what computes attention in twigkit's own passes.

        Args:
            wanted: ``"auto"`` takes ``flash-attn`` for prompts where it is installed and serves,
                and torch's kernels elsewhere; ``"sdpa"`` takes those alone, ``"flash"`` insists,
                ``"flex"`` computes drafted trees with torch's flex attention, and ``"eager"``
                writes the weights out, as a reference.

        Returns:
            The model itself.

        Raises:
            CapabilityError: If flash-attn cannot serve here; says why.
        """
        self.stack.choose_attention(wanted)
        self.attention = wanted
        self.batches.drop()
        return self

    # -- twigs -------------------------------------------------------------------------------------

    def grow(self, spec: TwigSpec) -> Twig:
        """Grow a fresh twig on the base and hold it."""
        self.twig = grow(spec, self.stack)
        self.memories.clear()
        self.batches.drop()
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
            CheckpointError: If what the folder holds may not be replaced, or it cannot be written.
        """
        if self.twig is None:
            raise CapabilityError("there is no twig to save; grow one first")
        return save_twig(self.twig, self.stack, folder, note=note, overwrite=overwrite)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        note: str = "",
        results: Sequence[Result | dict[str, Any]] = (),
        licence: str | None = None,
    ) -> Path:
        """Write the twig with a model card that says what was measured; replaces a twig there.

        Args:
            folder: Where to.
            note: A line for the model card.
            results: What was measured, one entry per budget.
            licence: Identifier as the Hub knows it, such as ``"apache-2.0"``.

        Returns:
            The folder.

        Raises:
            CapabilityError: If there is no twig.
            CheckpointError: If the folder holds something else, or cannot be written.
            SpecError: If a result does not validate.
        """
        if self.twig is None:
            raise CapabilityError("there is no twig to save; grow one first")
        listed = [each if isinstance(each, Result) else Result.parse(each) for each in results]
        said: dict[str, Any] = {"results": [each.model_dump(mode="json") for each in listed]}
        if licence is not None:
            said["licence"] = licence
        return save_twig(self.twig, self.stack, folder, note=note, provenance=said, overwrite=True)

    def push_to_hub(
        self,
        name: str,
        *,
        note: str = "",
        results: Sequence[Result | dict[str, Any]] = (),
        licence: str | None = None,
        **hub: Any,
    ) -> str:
        """Put the twig on the Hub, with its model card.

        Args:
            name: Hub id, ``"org/name"``; the repository is made if it is not there.
            note: As for :meth:`save_pretrained`, like the next two.
            results: What was measured.
            licence: Identifier as the Hub knows it.
            **hub: ``private``, ``revision``, ``message``, ``token`` and ``endpoint``, as
                :func:`twigkit.twig.hub.push` takes them.

        Returns:
            Address of the commit.

        Raises:
            CapabilityError: If there is no twig.
            CheckpointError: If the Hub refuses.
        """
        with TemporaryDirectory() as scratch:
            folder = self.save_pretrained(
                Path(scratch) / "twig", note=note, results=results, licence=licence
            )
            return push(folder, name, **hub)

    def compile(self, **options: Any) -> TwigModel:
        """Compile the verification step; pays on a GPU, after a minute of compiling.

        Drafters, batches and stages of pruning differ in shapes, each compiled when it first comes.
        Beyond torch's ``recompile_limit``, which all models of a process share, others run as they
        are, and torch logs it.

        Args:
            **options: For ``torch.compile``.

        Returns:
            The model itself.
        """
        self._compiled = torch.compile(run_deep, **options)
        return self

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *,
        budget: Number | None = None,
        pruner: str | PrunerSpec | dict[str, Any] = "ttp",
        drafter: str | DrafterSpec | dict[str, Any] | Drafter | None = None,
        wipe_layer: Number | None = None,
        strict: bool = False,
        draft_cache: str = "full",
        bucketed: bool | None = None,
        generator: torch.Generator | None = None,
        seed: Any = None,
        **kwargs: Any,
    ) -> Tensor | TwigOutput:
        """Generate answers.

        Prefill prunes; then the drafter drafts and the target verifies, until all answers end.

        Args:
            inputs: The prompts' ids, ``[batch, tokens]``; ``input_ids`` is the same.
            generation_config: Settings of transformers; what it leaves open is the base's.
            budget: Average number of visual tokens per layer, as a count or a fraction in ``(0,
                1]``; ``None`` and 1.0 prune nothing. Each row meets it as nearly as the layers
                allow; ``stats.visual_per_layer`` says what came of it.
            pruner: Chooses the visual tokens that stay, by name or spec.
            drafter: Proposes tokens, by name or spec, or an object that does; ``None`` takes
                ``"ssd"`` with a twig and ``"plain"`` without.
            wipe_layer: Layer after which no visual token is left; ``None``: as the pruner says.
            strict: Refuse a budget that a row cannot meet.
            draft_cache: Prompt tokens that the twig keeps: ``"full"``, or ``"kept"`` as the base.
            bucketed: Fixed shapes for compiled steps; ``None`` chooses them on anything but a CPU.
            generator: Of pruners that draw and, without ``seed``, of tokens; ``None``: torch's own.
            seed: Of the tokens that are drawn: one per row, or one number from which the rows
                count up. The same seed gives the same tokens with every drafter that draws none.
            **kwargs: The processor's outputs, and transformers' generation settings, such as
                ``max_new_tokens``, ``do_sample`` or ``streamer``; ``docs/generate.md`` has all.

        Returns:
            ``[batch, tokens]`` long, prompts first, as the base's own ``generate`` returns them,
            with the attribute ``stats`` (:class:`GenerationStats`); or a :class:`TwigOutput` if
            ``return_dict_in_generate`` is set.

        Raises:
            InputError: If the prompt or a setting cannot be used.
            BudgetError: If ``strict`` and the budget cannot be met; gives the bounds.
            CapabilityError: If a strategy needs what the twig does not have.
        """
        started = time.perf_counter()
        strategy = Strategy(budget, pruner, drafter, wipe_layer, strict, draft_cache)
        kwargs["generation_config"] = generation_config
        request = GenerationRequest.resolve(
            self, inputs, kwargs, strategy, bucketed=bucketed, generator=generator, seed=seed
        )
        return self.respond(request, started)

    def respond(
        self, request: GenerationRequest, started: float | None = None
    ) -> Tensor | TwigOutput:
        """Answer a resolved request; :meth:`generate` resolves one from its arguments.

        Args:
            request: What is asked for.
            started: ``time.perf_counter()`` when the call began; ``None`` for now.

        Returns:
            As :meth:`generate`.
        """
        started = time.perf_counter() if started is None else started
        with torch.inference_mode(), kernels_for(self.device):
            generation = begin(self.stack, request, self.twig, self._compiled, self.batches)
            request.stream_prompts(generation.prompt)
            generation.run(started)
        return answer(request, generation)


def _check_arguments(dtype: Any, torch_dtype: Any, hub: dict[str, Any]) -> None:
    """Refuse two precisions at once, and what no loader takes."""
    if None not in (dtype, torch_dtype) and dtype != torch_dtype:
        raise InputError(f"give one of dtype, {dtype}, and its older name, {torch_dtype}")
    if strange := set(hub) - set(HUB):
        raise InputError(f"from_pretrained takes no {min(strange)!r}; leave it out")
