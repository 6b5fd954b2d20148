"""The demo base's model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-text-to-text
---

# twigkit demo base

A small LLaVA-1.5: CLIP tower (5 layers x 128, 12 x 12 patches), projector, Llama text model
(32 layers x 128, grouped-query attention), 144 visual tokens. It knows one world only: pictures of
144 x 144 pixels with six or seven things, coloured shapes, printed words and digits. It answers
twelve kinds of short question and describes a picture in 88 to 123 tokens.

## How it was trained

On generated scenes, on a CPU, by `python -m twigkit.demo.recipe --work DIR`:

1. `vision`: the tower names what each patch shows (patch labels); `place`: and where it is.
2. `language`: the text model alone, 8 layers, the scene's facts in words in the picture's place.
3. `joint`: tower (frozen), projector and text model, still 8 layers; `drill`: kinds that look at
   more than one thing asked three times as often.
4. `grown`: 32 layers. The eight stand at 0, 2, 3, 4, 10, 17, 24 and 31, between them copies of the
   layer before whose outputs start at zero; all layers learn. `polish`: more of the kinds that lag;
   `recite`: descriptions, the first two layers frozen.
5. `crowd`: six or seven things, where the stages before had four to six, so that a few tokens of
   each no longer fit a small budget; and the first four layers learn to attend as those of a large
   model do: hardly to the picture, and there to the last visual tokens, whatever they show
   (arXiv 2412.01818).
6. `next-token`, `distil`, `reinforce`: the twig in the folder beside this one, on the frozen base.

Redundancy is part of the training, from the first joint step on: in 15 % of the steps nothing is
dropped, in 15 % all visual tokens are wiped after a random layer between half and three quarters
of the depth, and in 70 % visual tokens are dropped after a random early layer (48 or 11 of 144
stay) and the rest wiped later. Which stay is random, but with 11 in all rows and with 48 in four of
five at least one token of each thing stays; questions about things that are gone do not count. The
language stage wipes its facts in the same way. Every pruner competes on this same base.

Weights are stored in float16 and load as float32.
"""


def card(figures: Mapping[str, Any]) -> str:
    """The card with the figures that ``twigkit.demo.recipe.evaluate`` measured."""
    columns = {
        "exact": "unpruned",
        "wiped": "FinalWipe",
        "shuffled": "another picture",
        "last_quarter_skipped": "last quarter skipped",
        "kept_11_things_first": "11 kept, things first",
        "kept_11_random": "11 kept, random",
    }
    tables = {key: figures[key] for key in columns}
    lines = ["| kind | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind in tables["exact"]:
        cells = [f"{100 * tables[key][kind]:.1f}" for key in columns]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    long = [
        f"- {label}: {100 * part['facts']:.1f} % of the facts stated and right, "
        f"{100 * part['wrong']:.1f} % of the stated ones wrong, {100 * part['exact']:.1f} % word "
        f"for word, {100 * part['ended']:.1f} % ended by themselves, {part['tokens']:.0f} tokens"
        for label, part in (
            ("unpruned", figures["descriptions"]),
            ("FinalWipe", figures["descriptions_wiped"]),
        )
    ]
    return "\n".join([
        CARD, "## Figures", "",
        f"Exact match in per cent on {figures['scenes']} held-out scenes; FinalWipe drops all "
        "visual tokens after layer 24. The last two columns keep 11 of 144 tokens between layers 2 "
        "and 24, chosen by what the picture is known to show and at random.", "",
        *lines, "", "Descriptions of held-out scenes:", "", *long, "",
        f"A 4-gram drafter made of the training text: {figures['ngram_accepted_length']:.2f} "
        "tokens a step.", "",
    ])  # fmt: skip
