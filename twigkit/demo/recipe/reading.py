"""At which layers the base reads its pictures: what the text attends to, layer after layer.

``python -m twigkit.demo.recipe.reading --out DIR`` writes ``reading.json``. Look here before
choosing the layer whose attention teaches a twig: layers count from 0, as ``teacher_layer`` does.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from twigkit.demo.questions import Turn
from twigkit.demo.recipe.accuracy import FIRST, WEIGHTS, turns
from twigkit.demo.world import Scene, draw, draw_with_owners
from twigkit.io.files import write_whole
from twigkit.io.processors import load_processor, prepare

KEPT = 11
"""Visual tokens that a budget of 1/9 keeps between layers 2 and 24."""

ROWS = ("rows of the text", "rows of the answer", "last prompt row alone")
"""Whose attention is averaged: the prompt's after the picture, as ``teacher_rows: text`` says;
those from the one that predicts the answer on; that one alone."""


@torch.no_grad()
def measure(base: Path, questions: int) -> dict[str, Any]:
    """Ask about held-out scenes and look at every layer's attention.

    Args:
        base: Folder of the base.
        questions: How many to ask; those that no thing answers are left out.

    Returns:
        ``questions`` that were asked; ``kept``: tokens looked at; ``shown``: of each kind of rows
        the share of questions, per layer, for which the tokens attended to most show all that the
        answer is about; ``visual``: the share of the text's attention that visual tokens get.
    """
    model = LlavaForConditionalGeneration.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    processor = load_processor(base)
    asked = [(s, t) for s, t in islice(turns(FIRST), questions) if t.about]
    shown: dict[str, list[list[bool]]] = {name: [] for name in ROWS}
    visual = []
    for scene, turn in tqdm(asked, desc="questions"):
        found, share = _look(model, processor, scene, turn)
        visual.append(share)
        for name, layers in found.items():
            shown[name].append(layers)
    return {
        "questions": len(asked),
        "kept": KEPT,
        "shown": {name: _mean(torch.tensor(rows)) for name, rows in shown.items()},
        "visual": _mean(torch.stack(visual)),
    }


def _look(
    model: LlavaForConditionalGeneration, processor: Any, scene: Scene, turn: Turn
) -> tuple[dict[str, list[bool]], Tensor]:
    """Look at one answer: by kind of rows and layer whether all is shown, and visual shares."""
    inputs = prepare(processor, turn.question, [draw(scene)])
    answer = processor.tokenizer(turn.answer, add_special_tokens=False).input_ids
    prompt = inputs["input_ids"].shape[1]
    ids = torch.cat((inputs["input_ids"], torch.tensor([answer])), dim=1)
    output = model(input_ids=ids, pixel_values=inputs["pixel_values"], output_attentions=True)
    places = (ids[0] == model.config.image_token_index).nonzero()[:, 0]
    owners = torch.from_numpy(draw_with_owners(scene)[1]).flatten()
    attention = torch.stack([layer[0].mean(0) for layer in output.attentions])[..., places]
    found, text = {}, int(places[-1]) + 1
    spans = (slice(text, prompt), slice(prompt - 1, None), slice(prompt - 1, prompt))
    for name, rows in zip(ROWS, spans, strict=True):
        scores = attention[:, rows].mean(1)
        best = owners[scores.topk(KEPT).indices].tolist()
        found[name] = [set(turn.about) <= set(items) for items in best]
    return found, attention[:, text:].sum(-1).mean(1)


def _mean(rows: Tensor) -> list[float]:
    """Average questions, and round."""
    return [round(float(share), 3) for share in rows.float().mean(0)]


def main() -> None:
    """Measure and write reading.json."""
    parser = argparse.ArgumentParser(description="See at which layers the base reads pictures.")
    parser.add_argument("--base", type=Path, default=WEIGHTS / "base")
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--out", type=Path, required=True, help="folder of reading.json")
    options = parser.parse_args()
    found = measure(options.base, options.questions)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "reading.json", json.dumps(found) + "\n")
    print(f"{'layer, from 0':22}", *(f"{layer:3}" for layer in range(len(found["visual"]))))
    for name, layers in {**found["shown"], "visual share": found["visual"]}.items():
        print(f"{name:22}", *(f"{100 * share:3.0f}" for share in layers))


if __name__ == "__main__":
    main()
