"""Measures a demo checkpoint on held-out scenes: answers, descriptions, redundancy."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from twigkit.demo.describe import PROMPTS, description, facts, stated_facts
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.questions import KINDS, Turn, ask
from twigkit.demo.recipe.build import EOS, build_processor, vocabulary
from twigkit.demo.recipe.card import card
from twigkit.demo.recipe.course import Course, choose_kept, packed_logits
from twigkit.demo.recipe.joint import project
from twigkit.demo.recipe.packing import Packed, Packer
from twigkit.demo.recipe.vision import pixels
from twigkit.demo.world import draw, draw_with_owners
from twigkit.io.processors import prepare
from twigkit.model import TwigModel
from twigkit.speculative.ngrams import NgramTable, propose_ngrams

SHORT = tuple(KINDS)
WEIGHTS = Path(__file__).parents[1] / "weights"
FIRST = HELD_OUT + 10_000  # scenes of the report; the ones before serve the checks while training


def load_base(folder: Path) -> LlavaForConditionalGeneration:
    """The checkpoint of a folder in float32, ready to evaluate."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


class Exam:
    """Held-out pictures with short questions of every kind, packed for teacher forcing.

    Greedy decoding repeats an answer exactly when each of its tokens is the most likely one after
    the tokens before it, so one packed forward decides exact match for all turns of a picture.
    """

    def __init__(self, model: LlavaForConditionalGeneration, scenes: int, batch: int = 16) -> None:
        """Draw the scenes, ask one question of each kind where possible, run the vision tower."""
        self.model, self.batch, self.scenes = model, batch, scenes - scenes % batch
        packer, rng = Packer(vocabulary()), random.Random("exam")
        self.packed: list[Packed] = []
        self.visual: list[Tensor] = []
        self.owners: list[np.ndarray] = []
        for start in range(FIRST, FIRST + self.scenes, batch):
            seeds = range(start, start + batch)
            rows = [[ask(kind, scene_of(seed), rng) for kind in SHORT] for seed in seeds]
            self.packed.append(packer.pack([[t for t in row if t] for row in rows]))
            features, owners = see(model, seeds)
            self.visual.append(features)
            self.owners.append(owners)

    @torch.no_grad()
    def exact(
        self, course: Course, shuffled: bool = False, depth: int | None = None, biased: bool = True
    ) -> dict[str, float]:
        """Share of turns answered exactly, per kind and over all (``"all"``).

        Args:
            course: Where visual tokens leave.
            shuffled: Show each question the next row's picture instead of its own.
            depth: Run this many layers only.
            biased: At a drop, keep things before background; else at random.
        """
        rng = np.random.default_rng(0)
        hits = {kind: [0, 0] for kind in SHORT}
        for packed, visual, owners in zip(self.packed, self.visual, self.owners, strict=True):
            shown, keep = (visual.roll(1, 0) if shuffled else visual), None
            if course.drop is not None:
                owned = owners if biased else np.full_like(owners, -1)
                keep = torch.from_numpy(choose_kept(owned, course.kept, rng))
            logits = packed_logits(self.model, shown, packed, course, keep, depth)
            for turn, right in _exact_turns(logits, packed):
                hits[turn.kind][0] += right
                hits[turn.kind][1] += 1
        shares = {kind: right / total for kind, (right, total) in hits.items()}
        both = [sum(h[i] for h in hits.values()) for i in (0, 1)]
        return shares | {"all": both[0] / both[1]}


@torch.no_grad()
def see(model: LlavaForConditionalGeneration, seeds: Sequence[int]) -> tuple[Tensor, np.ndarray]:
    """Projected features of drawn scenes ``[batch, 144, width]`` and their patches' owners."""
    drawn = [draw_with_owners(scene_of(seed)) for seed in seeds]
    values = pixels(np.stack([picture for picture, _ in drawn]))
    owners = np.stack([owner.reshape(-1) for _, owner in drawn]).astype(np.int64)
    return project(model, values), owners


def _exact_turns(logits: Tensor, packed: Packed) -> list[tuple[Turn, bool]]:
    """Each turn with whether all of its answer's tokens come out on top."""
    wrong = (logits[:, :-1].argmax(dim=-1) != packed.ids[:, 1:]) & packed.target[:, 1:]
    verdicts = []
    for row, turns in enumerate(packed.turns):
        failed = set(packed.block[row, 1:][wrong[row]].tolist())
        verdicts += [(turn, number not in failed) for number, turn in enumerate(turns)]
    return verdicts


def wiping(wipe: int | None, depth: int) -> dict[str, Any]:
    """Options of ``generate`` that keep every visual token until all are wiped.

    Args:
        wipe: Layers after which no visual token is left, or None to keep all.
        depth: Layers of the base.
    """
    if wipe is None:
        return {}
    return {"pruner": {"kind": "random", "layer": 1, "wipe_layer": wipe}, "budget": wipe / depth}


def describe_figures(
    model: LlavaForConditionalGeneration, per_prompt: int, wipe: int | None, limit: int = 160
) -> dict[str, float]:
    """Facts in generated descriptions.

    Args:
        model: The checkpoint.
        per_prompt: Pictures per wording of the prompt.
        wipe: Layers after which no visual token is left, or None.
        limit: Most tokens of a description.

    Returns:
        ``facts``: share of a picture's facts that are stated and right; ``wrong``: share of stated
        facts that are wrong; ``exact``: share of descriptions that repeat the reference;
        ``ended``: share that stopped by themselves; ``tokens``: mean length.
    """
    owner, processor, words = TwigModel(model), build_processor(), vocabulary()
    options = wiping(wipe, owner.stack.depth)
    totals = dict.fromkeys(("facts", "right", "stated", "exact", "ended", "tokens", "count"), 0)
    prompts = [(style, prompt) for style, prompts in PROMPTS.items() for prompt in prompts]
    for index, (style, prompt) in enumerate(tqdm(prompts, desc="descriptions")):
        seeds = range(FIRST + index * per_prompt, FIRST + (index + 1) * per_prompt)
        for seed in seeds:
            inputs = prepare(processor, prompt, [draw(scene_of(seed))])
            given: Any = owner.generate(**inputs, max_new_tokens=limit, drafter="plain", **options)
            answer = given[0, inputs["input_ids"].shape[1] :].tolist()
            scene, text = scene_of(seed), " ".join(words[i] for i in answer if i != EOS)
            truth, stated = facts(scene), stated_facts(text)
            right = sum(truth.get(key) == value for key, value in stated.items())
            exact, ended = text == description(scene, style), answer[-1] == EOS
            found = (len(truth), right, len(stated), exact, ended, len(answer), 1)
            for key, value in zip(totals, found, strict=True):
                totals[key] += value
    count = totals["count"]
    return {
        "facts": totals["right"] / totals["facts"],
        "wrong": 1 - totals["right"] / max(1, totals["stated"]),
        "exact": totals["exact"] / count,
        "ended": totals["ended"] / count,
        "tokens": totals["tokens"] / count,
    }


def ngram_length(order: int = 4, trained: int = 20_000, tested: int = 300) -> float:
    """Mean accepted length of a drafter made of the training text alone, on descriptions."""
    rng = random.Random("ngram")

    def texts(first: int, count: int) -> list[tuple[list[str], list[str]]]:
        found = []
        for seed in range(first, first + count):
            style = rng.choice(sorted(PROMPTS))
            prompt = rng.choice(PROMPTS[style]).split()
            found.append((prompt, [*description(scene_of(seed), style).split(), "</s>"]))
        return found

    ids: defaultdict[str, int] = defaultdict(lambda: len(ids))

    def numbered(words: list[str]) -> list[int]:
        return [ids[word] for word in words]

    table = NgramTable.count((numbered(p + a) for p, a in texts(0, trained)), order)
    return float(
        np.mean([gained(table, numbered(p), numbered(a)) for p, a in texts(FIRST, tested)])
    )


def gained(
    table: NgramTable, prompt: Sequence[int], answer: Sequence[int], length: int = 5
) -> float:
    """Mean tokens that a step gains on an answer, the target's own token included.

    Args:
        table: Grams, by which every step drafts.
        prompt: Tokens before the answer.
        answer: What the target says, with its end token.
        length: Tokens drafted per step.
    """
    steps, done = 0, 0
    while done < len(answer):
        drafts = propose_ngrams([table], [*prompt, *answer[:done]], length)
        right = [draft == token for draft, token in zip(drafts, answer[done:], strict=False)]
        done += [*right, False].index(False) + 1
        steps += 1
    return len(answer) / steps


def evaluate(folder: Path, scenes: int = 480, per_prompt: int = 16) -> dict[str, object]:
    """All figures of a checkpoint.

    Args:
        folder: The checkpoint.
        scenes: Held-out scenes with short questions.
        per_prompt: Held-out scenes per wording of the description prompts.
    """
    model = load_base(folder)
    depth = model.config.text_config.num_hidden_layers
    wipe, kept = depth * 3 // 4, 11
    exam = Exam(model, scenes)
    return {
        "scenes": exam.scenes,
        "exact": exam.exact(Course()),
        "wiped": exam.exact(Course(wipe=wipe)),
        "shuffled": exam.exact(Course(), shuffled=True),
        "last_quarter_skipped": exam.exact(Course(), depth=wipe),
        "kept_11_things_first": exam.exact(Course(2, kept, wipe)),
        "kept_11_random": exam.exact(Course(2, kept, wipe), biased=False),
        "descriptions": describe_figures(model, per_prompt, None),
        "descriptions_wiped": describe_figures(model, per_prompt, wipe),
        "ngram_accepted_length": ngram_length(),
    }


def main() -> None:
    """Evaluate a checkpoint folder; put ``figures.json`` and the model card beside the weights."""
    parser = argparse.ArgumentParser(description="Measure the demo model on held-out scenes.")
    parser.add_argument("--base", type=Path, default=WEIGHTS / "base", help="checkpoint folder")
    parser.add_argument("--scenes", type=int, default=480, help="scenes with short questions")
    parser.add_argument("--per-prompt", type=int, default=16, help="descriptions per prompt")
    options = parser.parse_args()
    figures = evaluate(options.base, options.scenes, options.per_prompt)
    for name, text in (
        ("figures.json", json.dumps(figures, indent=2)),
        ("README.md", card(figures)),
    ):
        part = options.base / f"{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, options.base / name)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
