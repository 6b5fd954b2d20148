"""Checks of a layer stack: prompt embedding, rotary positions, probes, and ranges of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.probes import row_probe
from twigkit.families.generic import rotations
from twigkit.interfaces.tiny_models import TinyRow
from twigkit.testing import checks
from twigkit.testing.capabilities import need
from twigkit.testing.lab import MEDIA, Lab
from twigkit.testing.reference import eager_rows


class LayerStackChecks:
    """What a stack must do for a forward to be the model's own; a part of the adapters' kit.

    The fixtures ``lab`` and ``required`` are those of
    :class:`twigkit.testing.adapter.AdapterConformance`.
    """

    @pytest.mark.parametrize("kind", MEDIA)
    @torch.inference_mode()
    def test_shows_what_the_vision_tower_made(
        self, lab: Lab, required: frozenset[str], kind: str
    ) -> None:
        """Its states, projected, are the visual tokens; attention and keys lie beside them."""
        need("adapter", "vision", lab.capabilities, required)
        need("adapter", kind, lab.capabilities, required)
        rows = [lab.row(kind), lab.row("text-only", 3, 5)]
        prompt = lab.stack.embed_with_vision(**lab.inputs(rows))
        view, visual = prompt.vision, prompt.visual
        if not any(prompt.visual_counts):
            assert view is None
            return
        assert view is not None
        checks.close(
            view.project(view.states[visual]),
            prompt.hidden[visual],
            f"the projected states of the vision tower, for {rows[0].media}",
            "Give them in the order of the prompt (VisionTower.arrange)",
        )
        for name, part in (("attention", view.attention), ("keys", view.keys)):
            if part.shape[:2] != visual.shape or not bool(part.isfinite().all()):
                pytest.fail(f"vision.{name} has shape {list(part.shape)} or is not finite")
        seen = view.attention[visual]
        if (
            bool((seen < 0).any())
            or bool(view.attention[~visual].any())
            or bool((seen == seen[:1]).all())
        ):
            pytest.fail(
                "vision.attention is negative, the same everywhere, or not zero outside of the "
                "visual tokens"
            )

    @pytest.mark.parametrize("kind", MEDIA)
    def test_split_forward_equals_the_models_own(
        self, lab: Lab, required: frozenset[str], kind: str
    ) -> None:
        """Layers run in ranges give the logits of the model's own forward."""
        need("adapter", kind, lab.capabilities, required)
        row = lab.row(kind)
        prompt, logits = self._split(lab, [row])
        if bool(prompt.visual.any()) != bool(row.media):
            found = "marks" if prompt.visual.any() else "does not mark"
            pytest.fail(f"embed_prompt {found} visual tokens in a prompt of {row.media or 'text'}")
        checks.close(
            logits[0],
            lab.own_logits(row, []),
            f"the split forward of a prompt with {row.media or 'text'}",
            "Compare embed_prompt() (positions, injections), rope() and run() with the model's own",
        )

    def test_split_forward_of_a_padded_batch(self, lab: Lab, required: frozenset[str]) -> None:
        """Rows of a left-padded batch give what each gives alone."""
        need("adapter", "batch", lab.capabilities, required)
        rows = lab.batch()
        prompt, logits = self._split(lab, rows)
        for number, row in enumerate(rows):
            checks.close(
                logits[number][prompt.valid[number]],
                lab.own_logits(row, []),
                f"row {number} of a left-padded batch, which holds {row.media or 'text'}",
                "Padding must be masked, and positions counted without it",
            )

    def test_rope_follows_the_positions_it_is_given(self, lab: Lab) -> None:
        """Rotary tables depend on each position alone: gaps and repeats stay as they are."""
        hidden = lab.stack.embed_tokens(torch.tensor([[3, 4, 5, 6, 7]]))
        asked = torch.tensor([2, 9, 9, 4, 11]).expand(lab.stack.channels, 1, -1)
        tables = lab.stack.rope(hidden, asked)
        for place in range(5):
            alone = lab.stack.rope(hidden[:, :1], asked[:, :, place : place + 1])
            for key, (cos, sin) in tables.items():
                checks.close(
                    torch.cat((cos[:, place], sin[:, place])),
                    torch.cat((alone[key][0][:, 0], alone[key][1][:, 0])),
                    f"rope() at position {int(asked[0, 0, place])} (table {key!r})",
                    "Use the positions as given; do not renumber pruned prompts or tree nodes",
                )

    def test_a_probed_row_is_the_row_of_eager_attention(self, lab: Lab) -> None:
        """The one attention row that pruners ask for equals the model's own eager attention."""
        inputs = lab.inputs([self._longest(lab)])
        prompt = lab.stack.embed_prompt(**inputs)
        probes = {
            number: row_probe(prompt, "last", lab.stack.window(number))[0]
            for number in range(lab.stack.depth)
        }
        self._through(lab, prompt, probes)
        for number, weights in enumerate(eager_rows(lab.own, inputs)):
            checks.close(
                probes[number].attention()[0, 0],
                weights,
                f"the attention row of layer {number}",
                "run() must hand `probe` to the layer, and the layer use twigkit's attention",
            )

    def test_rotary_position_can_be_taken_off(self, lab: Lab, required: frozenset[str]) -> None:
        """Keys rotated back are those of the same layer at angle zero; pruning heads may ask."""
        need("adapter", "pruning", lab.capabilities, required)
        with torch.inference_mode():
            prompt = lab.stack.embed_prompt(**lab.inputs([self._longest(lab)]))
            taken, plain = rotations(lab.stack, prompt)
        checks.close(
            taken,
            plain,
            "the keys of a layer without rotary position",
            "Override unrotate() if the family does not pair a head's first half with its second",
        )

    def test_the_base_is_left_alone(self, lab: Lab) -> None:
        """The wrapped model gives the very bits of one that was never touched."""
        inputs = lab.inputs([lab.batch()[-1]])
        options = {"max_new_tokens": 4, "do_sample": False}
        with torch.inference_mode():
            mine, own = lab.family.model(**inputs).logits, lab.own(**inputs).logits
            again = lab.family.model.generate(**inputs, **options)  # type: ignore[operator]
            expected = lab.own.generate(**inputs, **options)
        if not torch.equal(mine, own) or not torch.equal(again, expected):
            pytest.fail("the base's own forward or generate changed; stack() must not alter it")
        if set(lab.family.model.state_dict()) != set(lab.own.state_dict()):
            pytest.fail("stack() added or removed weights of the base; wrap it instead")

    # -- steps that the checks share ---------------------------------------------------------------

    @staticmethod
    def _longest(lab: Lab) -> TinyRow:
        """A prompt with visual tokens, or a text if the family takes nothing else."""
        media = {"image", "multi-image", "video"} & lab.capabilities
        return lab.visual_row() if media else TinyRow(words=8)

    @torch.inference_mode()
    def _split(self, lab: Lab, rows: list[TinyRow]) -> tuple[Any, Tensor]:
        """Embed some prompts and run the layers in three ranges."""
        prompt = lab.stack.embed_prompt(**lab.inputs(rows))
        return prompt, lab.stack.head(lab.stack.norm(self._through(lab, prompt, None)))

    @staticmethod
    @torch.inference_mode()
    def _through(lab: Lab, prompt: Any, probes: Any) -> Tensor:
        """Run a prompt through all layers, in three ranges."""
        stack = lab.stack
        rope = stack.rope(prompt.hidden, prompt.rope)
        masks = prompt_masks(prompt, stack.windows(0, stack.depth))
        hidden: Tensor = prompt.hidden
        for first, last in ((0, 1), (1, stack.depth - 2), (stack.depth - 2, stack.depth)):
            options = {"rope": rope, "masks": masks, "inject": prompt.inject, "probes": probes}
            hidden = stack.run(hidden, first, last, **options)
        return hidden


__all__ = ["LayerStackChecks"]
