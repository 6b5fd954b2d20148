"""Runs the demo: unseen scenes, answers by all methods, and the visual tokens that were kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twigkit.bench.answering import answer
from twigkit.bench.compare import Comparison, compare
from twigkit.bench.conditions import conditions
from twigkit.bench.methods import Answer, Inputs, Method, standard_methods
from twigkit.demo.decoding_image import WrittenToken, written_tokens
from twigkit.demo.describe import facts, stated_facts
from twigkit.demo.overlay import Grid
from twigkit.demo.pruning_image import PrunedTokens, prune_tokens, usable_pruners
from twigkit.demo.questions import Turn
from twigkit.demo.unseen import Sample
from twigkit.errors import InputError
from twigkit.io.processors import prepare
from twigkit.model import TwigModel

PLAIN, BOTH = "twigkit plain", "TTP + SSD"

COMPARED = ("p-head", "ttp", "fastv", "pyramiddrop", "fastervlm", "visionzip", "divprune")
"""Pruners that are shown side by side, if base and twig can serve them."""


@dataclass(frozen=True)
class Panel:
    """One question about a scene.

    Attributes:
        turn: The question and the right answer.
        answer: What the pruned model said, drafting.
        unpruned: What the model says with all visual tokens.
        kept: Numbers of the visual tokens that stayed after the exit layer.
        scores: Score of every visual token.
        verdict: How good the answer is, in words.
        right: Whether it is all right.
        written: The answer's tokens and who wrote each.
        gains: Tokens that each verification gained.
    """

    turn: Turn
    answer: str
    unpruned: str
    kept: tuple[int, ...]
    scores: tuple[float, ...]
    verdict: str
    right: bool
    written: tuple[WrittenToken, ...] = ()
    gains: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """One scene with its questions.

    Attributes:
        picture: The picture.
        grid: Rows and columns of visual tokens.
        panels: The questions.
        pruned: What several pruners keep for the first question.
    """

    picture: Image.Image
    grid: Grid
    panels: tuple[Panel, ...]
    pruned: tuple[PrunedTokens, ...] = ()


@dataclass(frozen=True)
class Show:
    """All that the demo has to tell.

    Attributes:
        exhibits: The scenes.
        comparison: All methods on the descriptions.
        conditions: Machine, versions and model.
        budget: Average visual tokens per layer that was asked for.
        visual: Visual tokens of a picture.
        exit_layer: Where tokens are dropped.
        wipe_layer: After it none is left; ``None`` if the pruner wipes nothing.
    """

    exhibits: tuple[Exhibit, ...]
    comparison: Comparison
    conditions: dict[str, str]
    budget: int | float
    visual: int
    exit_layer: int
    wipe_layer: int | None


def run(
    model: TwigModel,
    processor: Any,
    samples: Sequence[Sample],
    *,
    budget: int | float,
    pruner: Any = "ttp",
    drafter: Any = "ssd",
    max_new_tokens: int = 160,
    progress: Callable[[str], None] | None = None,
) -> Show:
    """Answer every question, compare the methods on the descriptions, and see what was kept.

    Args:
        model: Base and twig.
        processor: The base's processor.
        samples: The scenes.
        budget: Average visual tokens per layer.
        pruner: Chooses the tokens that stay.
        drafter: Proposes tokens.
        max_new_tokens: Most tokens of an answer.
        progress: Told what is being run.
    """
    methods = standard_methods(budget, pruner=pruner, drafter=drafter)
    by_name = {method.name: method for method in methods}
    prompts = [prepare(processor, s.description.question, [s.picture]) for s in samples]
    comparison = compare(model, prompts, methods, max_new_tokens=max_new_tokens, progress=progress)
    exhibits = []
    names = usable_pruners(model, COMPARED)
    for number, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        panels = [
            _short(model, processor, sample, turn, (by_name[BOTH], by_name[PLAIN]), max_new_tokens)
            for turn in sample.turns[:-1]
        ]
        given = [comparison.answers[name][number] for name in (BOTH, PLAIN)]
        panels.append(_panel(model, processor, sample, sample.description, prompt, given))
        grid = grid_of(len(panels[-1].scores))
        first = prepare(processor, panels[0].turn.question, [sample.picture])
        beside = [prune_tokens(model, first, name, budget) for name in names]
        exhibits.append(Exhibit(sample.picture, grid, tuple(panels), tuple(beside)))
    kept = comparison.answers[BOTH][0].kept
    wiped = [stage.stage.layer for stage in kept if not any(stage.stage.keep)]
    return Show(
        exhibits=tuple(exhibits),
        comparison=comparison,
        conditions=conditions(model),
        budget=budget,
        visual=len(exhibits[0].panels[-1].scores),
        exit_layer=kept[0].stage.layer,
        wipe_layer=wiped[0] if wiped else None,
    )


def _short(
    model: TwigModel,
    processor: Any,
    sample: Sample,
    turn: Turn,
    methods: tuple[Method, Method],
    limit: int,
) -> Panel:
    """Answer one short question, pruned and unpruned."""
    prompt = prepare(processor, turn.question, [sample.picture])
    given = [answer(model, prompt, method, max_new_tokens=limit) for method in methods]
    return _panel(model, processor, sample, turn, prompt, given)


def _panel(
    model: TwigModel,
    processor: Any,
    sample: Sample,
    turn: Turn,
    prompt: Inputs,
    given: Sequence[Answer],
) -> Panel:
    """Put one question, its answers and what was kept together."""
    texts = [
        processor.tokenizer.decode(one.tokens, skip_special_tokens=True).strip() for one in given
    ]
    kept, scores = kept_tokens(model, prompt, given[0])
    right, verdict = judge(sample, turn, texts[0])
    gains = tuple(given[0].accepted_lengths)
    written = tuple(written_tokens(given[0].tokens, gains, processor.tokenizer))
    return Panel(turn, texts[0], texts[1], kept, scores, verdict, right, written, gains)


def kept_tokens(
    model: TwigModel, prompt: Inputs, given: Answer
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Say which visual tokens an answer was made from.

    Args:
        model: The model that answered.
        prompt: The prompt, one picture.
        given: The answer.

    Returns:
        Numbers of the visual tokens that the pruner's first stage kept, counted from the first
        visual token of the prompt, and the score of every visual token.

    Raises:
        InputError: If the prompt has no visual tokens or nothing was pruned.
    """
    visual = model.stack.visual_positions(prompt["input_ids"], prompt)[0].nonzero()[:, 0].tolist()
    if not visual or not given.kept:
        raise InputError("nothing was pruned; give a picture and a budget")
    stage = given.kept[0]
    stays = set(stage.positions[0][stage.alive[0]].tolist())
    kept = tuple(number for number, place in enumerate(visual) if place in stays)
    scores = [0.0] * len(visual) if stage.scores is None else stage.scores[0, visual].tolist()
    return kept, tuple(scores)


def judge(sample: Sample, turn: Turn, said: str) -> tuple[bool, str]:
    """Hold an answer against what the scene shows.

    Args:
        sample: The scene.
        turn: The question.
        said: The answer.

    Returns:
        Whether it is all right, and that in words: the facts of a description are counted.
    """
    if turn.kind != "describe":
        right = said.split() == turn.answer.split()
        return right, "right" if right else f"expected: {turn.answer}"
    truth, stated = facts(sample.scene), stated_facts(said)
    found = sum(truth.get(key) == value for key, value in stated.items())
    return found == len(truth) == len(stated), f"{found} of {len(truth)} facts right"


def grid_of(tokens: int) -> Grid:
    """Return rows and columns of a square of visual tokens.

    Args:
        tokens: How many there are.

    Raises:
        InputError: If they form no square.
    """
    edge = math.isqrt(tokens)
    if edge * edge != tokens:
        raise InputError(
            f"the base makes {tokens} visual tokens of a picture, which is no square to draw; "
            "use twigkit generate with it"
        )
    return edge, edge
