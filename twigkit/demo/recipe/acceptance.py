"""How often the demo's drafts are accepted, by kind of text and drafter.

``python -m twigkit.demo.recipe.acceptance --twig DIR`` prints a table over held-out scenes, and
writes its figures where ``--out`` says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from twigkit.bench.conditions import conditions
from twigkit.bench.table import markdown_table
from twigkit.demo.describe import PROMPTS
from twigkit.demo.pool import scene_of
from twigkit.demo.questions import KINDS
from twigkit.demo.recipe.accuracy import FIRST, WEIGHTS, turns
from twigkit.demo.world import draw
from twigkit.io.files import write_whole
from twigkit.io.processors import load_processor, prepare
from twigkit.model import TwigModel

DESCRIBE = "describe"
DESCRIBED = 500_000  # scenes of the descriptions lie this far after those of the questions


@dataclass
class Tally:
    """What one drafter did on one kind of text.

    Attributes:
        tokens: Tokens gained after the first of each answer.
        steps: Verifications.
        drafted: Drafts proposed.
        accepted: Drafts accepted.
    """

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def cells(self) -> list[str]:
        """Share of the drafts that were accepted, and tokens per verification."""
        share = f"{100 * self.accepted / self.drafted:.0f}%" if self.drafted else "-"
        return [share, f"{self.tokens / self.steps:.2f}" if self.steps else "-"]


def texts(per_kind: int) -> Iterator[tuple[str, str, Any]]:
    """Give kind, question and picture of held-out scenes, as many of each kind."""
    found = dict.fromkeys(KINDS, 0)
    for scene, turn in turns(FIRST):
        if found[turn.kind] < per_kind:
            found[turn.kind] += 1
            yield turn.kind, turn.question, draw(scene)
        if min(found.values()) == per_kind:
            break
    prompts = [prompt for style in sorted(PROMPTS) for prompt in PROMPTS[style]]
    for number in range(per_kind):
        picture = draw(scene_of(FIRST + DESCRIBED + number))
        yield DESCRIBE, prompts[number % len(prompts)], picture


def tally(
    model: TwigModel, processor: Any, drafters: Sequence[Any], per_kind: int
) -> dict[str, list[Tally]]:
    """Answer texts of every kind by every drafter.

    Args:
        model: Base and twig.
        processor: The base's processor.
        drafters: Drafters, by name or settings.
        per_kind: Texts of each kind.

    Returns:
        By kind, and over all questions (``"all questions"``), one tally per drafter.
    """
    kinds = [*KINDS, "all questions", DESCRIBE]
    found = {kind: [Tally() for _ in drafters] for kind in kinds}
    whole = per_kind * (len(KINDS) + 1)
    for kind, question, picture in tqdm(texts(per_kind), total=whole):
        inputs = prepare(processor, question, [picture])
        for place, drafter in enumerate(drafters):
            output: Any = model.generate(
                **inputs, max_new_tokens=160, drafter=drafter, return_dict_in_generate=True
            )
            gains = output.stats.accepted_lengths[0]
            for name in (kind, *(["all questions"] if kind != DESCRIBE else [])):
                entry = found[name][place]
                entry.tokens += sum(gains)
                entry.steps += len(gains)
                entry.drafted += output.stats.drafted_tokens
                entry.accepted += output.stats.accepted_tokens
    return found


def main() -> None:
    """Print the table and write its figures."""
    parser = argparse.ArgumentParser(description="Measure how often drafts are accepted.")
    parser.add_argument("--base", type=Path, default=WEIGHTS / "base")
    parser.add_argument("--twig", type=Path, default=WEIGHTS / "twig")
    parser.add_argument("--drafters", nargs="+", default=["ssd", "tree-ssd", "medusa-tree"])
    parser.add_argument("--per-kind", type=int, default=40)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where acceptance.json goes")
    options = parser.parse_args()
    model = TwigModel.from_pretrained(options.base, twig=options.twig, dtype=torch.float32)
    processor = load_processor(options.base)
    found = tally(model, processor, options.drafters, options.per_kind)
    header = ["text", *(f"{name} {what}" for name in options.drafters for what in ("accepted",
              "tokens a step"))]  # fmt: skip
    rows = [[kind, *(cell for t in tallies for cell in t.cells)] for kind, tallies in found.items()]
    print(markdown_table(header, rows))
    if options.out is not None:
        data = {
            "conditions": conditions(model),
            "per_kind": options.per_kind,
            "drafters": options.drafters,
            "kinds": {kind: [asdict(one) for one in tallies] for kind, tallies in found.items()},
        }
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(options.out / "acceptance.json", json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
