"""The adapter of undeclared families: tried, and held against the model's own forward."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import RowProbe, row_probe
from twigkit.backbone.prompt import Prompt
from twigkit.errors import CapabilityError, FamilyWarning, TwigkitError, named_line
from twigkit.families.obstacles import refusal
from twigkit.generation.request import GenerationRequest
from twigkit.generation.sequences import StopConditions
from twigkit.generation.start import start
from twigkit.interfaces.adapter import Adapter

_KNOWN = {
    "attention_mask",
    "cache",
    "cache_position",
    "input_ids",
    "inputs_embeds",
    "labels",
    "past_key_values",
    "position_ids",
    "return_dict",
    "use_cache",
}
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 5e-2
_PROBE = (7, 4)
_NORMS = ("norm", "embedding_norm")
"""What language models call the norm after their last layer."""
_ROTARIES = ("rotary_emb", "pos_emb")
"""What they call the module of rotary tables."""
_MISSING = (
    "install a plug-in that brings an adapter for it, or write one (see CONTRIBUTING.md, and "
    "`twigkit plugins` for those that are installed)"
)


class GenericAdapter(Adapter):
    """Wraps a model by what nearly all families have in common.

    Attributes:
        capabilities: What was found; complete once :meth:`stack` has run.
        described: The model's type, and that of the language model in it, for messages.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Choose how such a model is loaded.

        Raises:
            CapabilityError: If transformers has no generating model of this type, or a property of
                the model stands in the way; names it.
        """
        kind, text = config.get("model_type"), config.get("text_config") or {}
        around = f" around {text['model_type']!r}" if text.get("model_type") else ""
        self.described = f"{str(kind)!r}{around}"
        if reason := refusal(str(kind), config):
            raise CapabilityError(reason)
        self.capabilities = frozenset({"batch", "text-only"})  # type: ignore[misc]
        if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            self.auto_class = "AutoModelForImageTextToText"  # type: ignore[misc]
        elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            self.auto_class = "AutoModelForCausalLM"  # type: ignore[misc]
        else:
            raise CapabilityError(
                f"no adapter serves model type {self.described}, and the installed transformers "
                f"has no generating model of it; {_MISSING}"
            )

    def stack(self, model: nn.Module) -> LayerStack:
        """Wrap a model and check it on a small prompt of text.

        Raises:
            CapabilityError: If the layers do not give what the model gives; says what differed.
        """
        stack = GenericStack(model, self.described)
        if not any(parameter.is_meta for parameter in model.parameters()):
            stack.check(stack.probe())
            warnings.warn(
                f"no adapter serves model type {self.described}; the generic one reproduced the "
                "model's own logits on a prompt of text and is used. It will check its first "
                "prompt with pictures too",
                FamilyWarning,
                stacklevel=2,
            )
        if stack.visual_ids:
            self.capabilities |= {"image", "pruning"}  # type: ignore[misc]
        return stack


class GenericStack(LayerStack):
    """Layers found by their names; prompts with pictures are checked before they are used.

    The first prompt with each set of inputs is: a video may be treated otherwise than a picture,
    and what a processor adds may reach the layers.
    """

    def __init__(self, model: nn.Module, described: str) -> None:
        """Wrap a model.

        Raises:
            CapabilityError: If it has no single language model of decoder layers.
        """
        self.described = described
        text = _language_model(model, described)
        self.norm_name = next(name for name in _NORMS if hasattr(text, name))
        self.rotary_name = next(name for name in _ROTARIES if hasattr(text, name))
        rope = getattr(text.config, "rope_parameters", None) or {}
        channels = 3 if "mrope_section" in rope else 1
        super().__init__(model, text, visual_ids=_placeholders(model), channels=channels)
        self._extra: list[str] = []
        self._checked: set[frozenset[str]] = set()
        self._turns = True

    def embed_prompt(self, **inputs: Any) -> Prompt:
        """Embed the prompt; check the first with visual tokens, and with each set of inputs."""
        given = frozenset(name for name, value in inputs.items() if value is not None)
        with self._offsets_kept():
            prompt = super().embed_prompt(**inputs)
            if given not in self._checked and any(prompt.visual_counts):
                self._checked.add(given)
                try:
                    self.check(inputs)
                except CapabilityError:
                    self._checked.remove(given)
                    raise
        return prompt

    def unrotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Take rotary position off queries or keys.

        Raises:
            CapabilityError: If the check found that this family rotates in another way.
        """
        if not self._turns:
            raise CapabilityError(
                f"model type {self.described} rotates queries and keys in a way of its own, so "
                "they cannot be had without rotary position; give the pruning head rotary: true, "
                f"or {_MISSING}"
            )
        return super().unrotate(states, cos, sin)

    @contextmanager
    def _offsets_kept(self) -> Iterator[None]:
        """Put back the offset of positions that the base may note on itself meanwhile.

        With positions in three channels the base notes where an answer goes on; its own
        ``generate``, if one is under way, would go on there too.
        """
        noted = [module for module in self.model.modules() if hasattr(module, "rope_deltas")]
        before = [module.rope_deltas for module in noted]
        try:
            yield
        finally:
            for module, value in zip(noted, before, strict=True):
                module.rope_deltas = value

    def assemble(
        self, ids: Tensor, valid: Tensor, visual: Tensor, arguments: dict[str, Any]
    ) -> Prompt:
        """Note what the language model is given besides the usual."""
        self._extra = sorted(
            name
            for name, value in arguments.items()
            if name not in _KNOWN and (isinstance(value, Tensor | list | tuple | dict))
        )
        return super().assemble(ids, valid, visual, arguments)

    def probe(self) -> dict[str, Tensor]:
        """Make two prompts of words that mean nothing special, the second padded on the left.

        Raises:
            CapabilityError: If the vocabulary has no other words.
        """
        generator = torch.Generator().manual_seed(0)
        special = {*self.visual_ids, *special_tokens(self.model.config.to_dict())}
        plain = [word for word in range(min(self.vocabulary, 1000)) if word not in special]
        if not plain:
            raise CapabilityError(
                f"model type {self.described} has no words but special tokens, so that nothing can "
                f"be tried; {_MISSING}"
            )
        shape = (2, max(_PROBE))
        drawn = torch.randint(len(plain), shape, generator=generator, device="cpu")
        words = torch.tensor(plain, device="cpu")[drawn]
        mask = torch.ones_like(words)
        mask[1, : max(_PROBE) - min(_PROBE)] = 0
        device = self.entry
        return {"input_ids": words.to(device), "attention_mask": mask.to(device)}

    @torch.inference_mode()
    def check(self, inputs: Mapping[str, Any]) -> None:
        """Compare with the model's own forward and its first step of decoding.

        Raises:
            CapabilityError: If anything differs; says what, and where it first does.
        """
        try:
            found = self._difference(inputs)
        except TwigkitError:
            raise
        except Exception as error:  # a stranger's layers may raise anything
            found = f"its layers cannot be run one by one ({named_line(error)})"
        if found:
            extra = f"; they are also given {', '.join(self._extra)}" if self._extra else ""
            raise CapabilityError(
                f"no adapter serves model type {self.described}, and the generic one does not fit "
                f"it: {found}{extra}. To use it, {_MISSING}"
            )

    def _difference(self, inputs: Mapping[str, Any]) -> str:
        """Say where the layers first give something else than the model; empty if nowhere."""
        prompt = super().embed_prompt(**inputs)
        own = self.model(**inputs, use_cache=False, output_hidden_states=True)
        attending = [layer for layer in range(self.depth) if layer not in self.recurrent]
        probes = {layer: row_probe(prompt, "last", None)[0] for layer in attending}
        states = [prompt.hidden, *self._states(prompt, probes)]
        names = ["the embedded prompt", *(f"the output of layer {i}" for i in range(self.depth))]
        # The last of the model's own states comes after the norm, so the logits stand for it.
        pairs = list(zip(names, states, own.hidden_states or (), strict=False))[: self.depth]
        logits = self.head(self.norm(states[-1]))
        for name, mine, theirs in [*pairs, ("the logits", logits, own.logits)]:
            gap = _gap(mine[prompt.valid], theirs[prompt.valid])
            if gap:
                return f"{name} {'differ' if name.endswith('s') else 'differs'} by {gap}"
        if any(prompt.visual_counts) and any(probe.record is None for probe in probes.values()):
            return "its layers do not use the attention function they are told to"
        out = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            min_new_tokens=2,
            max_new_tokens=2,
            output_logits=True,
            return_dict_in_generate=True,
        )
        self._turns = True
        seen = all(probe.record is not None for probe in probes.values())
        self._turns = seen and not _gap(*rotations(self, prompt))
        token = out.sequences[:, prompt.ids.shape[1]]
        gap = _gap(self._step(prompt, token), out.logits[1])
        return f"the logits of the second generated token differ by {gap}" if gap else ""

    def _step(self, prompt: Prompt, token: Tensor) -> Tensor:
        """Return the logits after one generated token, from the cache, ``[batch, vocabulary]``."""
        return start(self, prompt, GenerationRequest(StopConditions(1))).logits_after(token)

    def _states(self, prompt: Prompt, probes: Mapping[int, RowProbe]) -> list[Tensor]:
        """Return the output of every layer."""
        rope = self.rope(prompt.hidden, prompt.rope)
        masks = prompt_masks(prompt, self.windows(0, self.depth))
        states, hidden = [], prompt.hidden
        for layer in range(self.depth):
            hidden = self.run(hidden, layer, layer + 1, rope=rope, masks=masks, probes=probes)
            states.append(hidden)
        return states


def rotations(stack: LayerStack, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Take rotary position off the keys of every layer, and run the layers without any.

    Args:
        stack: The base.
        prompt: The tokens.

    Returns:
        The keys as :meth:`LayerStack.unrotate` gives them, and as each layer has them where all
        angles are zero. Both are alike, ``[layers, values]``, if ``unrotate`` fits the family.
    """
    rope = stack.rope(prompt.hidden, prompt.rope)
    still = {key: (torch.ones_like(cos), torch.zeros_like(sin)) for key, (cos, sin) in rope.items()}
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    found: list[list[Tensor]] = [[], []]
    for layer in (layer for layer in range(stack.depth) if layer not in stack.recurrent):
        for tables, keys in zip((rope, still), found, strict=True):
            probe, _ = row_probe(prompt, "last", None)
            run = {"rope": tables, "masks": masks, "probes": {layer: probe}}
            stack.run(prompt.hidden, layer, layer + 1, **run)  # type: ignore[arg-type]
            record = probe.recorded()
            keys.append(record.key if tables is still else record.unrotated()[1])
    taken, plain = (torch.stack([key.flatten().float() for key in keys]) for keys in found)
    return taken, plain


def _gap(mine: Tensor, theirs: Tensor) -> str:
    """Say how far two results are apart; empty if they agree."""
    if mine.shape != theirs.shape:
        return f"its shape ({tuple(mine.shape)} instead of {tuple(theirs.shape)})"
    # Infinite logits, with which some models hide tokens, are no scale of the others.
    scale = theirs[theirs.isfinite()].abs().amax().item() if bool(theirs.isfinite().any()) else 0.0
    gap = (mine - theirs).abs().masked_fill(mine == theirs, 0).max().item()
    allowed = _TOLERANCE.get(mine.dtype, _HALF_TOLERANCE) * max(scale, 1e-6)
    return "" if gap <= allowed else f"{gap:.2g} where the model's own values reach {scale:.2g}"


def _language_model(model: nn.Module, described: str) -> nn.Module:
    """Find the module that holds the decoder layers."""
    text_config = model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    for module in model.modules():
        named = all(any(hasattr(module, n) for n in names) for names in (_NORMS, _ROTARIES))
        if named and hasattr(module, "layers") and module.config is text_config:
            return module
    raise CapabilityError(
        f"no adapter serves model type {described}, and the generic one finds no language model "
        f"with layers, norm and rotary_emb in {type(model).__name__}; {_MISSING}"
    )


def special_tokens(config: Mapping[Any, Any]) -> set[int]:
    """Collect the ids that a configuration gives a meaning, in all of its parts.

    Example:
        >>> special_tokens({"eos_token_id": [2, 5], "text_config": {"image_token_index": 3}})
        {2, 3, 5}
    """
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= special_tokens(value)
        elif "token" in str(name) and str(name).endswith(("_id", "_ids", "_index")):
            ids = value if isinstance(value, list | tuple) else [value]
            found |= {one for one in ids if isinstance(one, int)}
    return found


def _placeholders(model: nn.Module) -> tuple[int, ...]:
    """Read the ids that stand for visual tokens from the configuration."""
    names = [f"{what}_token_{key}" for what in ("image", "video") for key in ("id", "index")]
    found = (getattr(model.config, name, None) for name in names)
    return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))
