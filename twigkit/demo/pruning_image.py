"""What several pruners keep of the same picture or video, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from twigkit.bench.answering import answer
from twigkit.bench.methods import Answer, Inputs, Method
from twigkit.demo.overlay import Grid, draw_heat, draw_survival, enlarge
from twigkit.errors import InputError
from twigkit.model import TwigModel
from twigkit.plugins.discovery import default_registry

INK, SOFT, PAPER = (29, 35, 48), (93, 102, 120), (255, 255, 255)
EDGE = 240
"""Pixels of a picture's longer edge, about."""

ACROSS = 5
"""Pictures beside each other."""

_MARGIN, _GAP, _LINE = 24, 18, 20


@dataclass(frozen=True)
class PrunedTokens:
    """What one pruner did to a prompt's visual tokens.

    Attributes:
        name: The pruner.
        kept: Numbers of the tokens that its last cut keeps.
        survived: Of every token, the share of the cuts that keep it.
        cuts: Visual tokens after each cut.
        scores: Score of every token at the first cut that looks at an attention; of pruners that
            look at none, at the first cut.
        average: Visual tokens per layer.
    """

    name: str
    kept: tuple[int, ...]
    survived: tuple[float, ...]
    cuts: tuple[int, ...]
    scores: tuple[float, ...]
    average: float


def usable_pruners(model: TwigModel, names: Sequence[str] = ()) -> list[str]:
    """List the pruners that base and twig can serve, in the order of the names.

    Args:
        model: Base and twig.
        names: Which to choose from; all registered ones by default.
    """
    found = []
    entries = {entry.name: entry for entry in default_registry().entries("pruner")}
    for name in names or entries:
        entry = entries[name]
        made = entry.cls(entry.spec() if entry.spec else None)
        heads = () if model.twig is None else model.twig.heads
        serves = all(head in heads for head in made.heads)
        sees = "vision" not in made.capabilities or "vision" in model.adapter.capabilities
        if serves and sees and not (made.needs_twig and model.twig is None):
            found.append(name)
    return found


def prune_tokens(
    model: TwigModel, prompt: Inputs, pruner: str, budget: int | float
) -> PrunedTokens:
    """Prune one prompt.

    Args:
        model: Base and twig.
        prompt: The processor's outputs for one prompt.
        pruner: Name of the pruner.
        budget: Average visual tokens per layer.

    Raises:
        InputError: If the prompt has no visual tokens.
        CapabilityError: If base or twig lack what the pruner needs.
    """
    method = Method(pruner, budget=budget, pruner=pruner, drafter="plain")
    return of_answer(model, prompt, pruner, answer(model, prompt, method, max_new_tokens=1))


def of_answer(model: TwigModel, prompt: Inputs, name: str, given: Answer) -> PrunedTokens:
    """Say what pruning did to a prompt that was answered.

    Args:
        model: The model that answered.
        prompt: The prompt.
        name: The pruner.
        given: The answer.

    Raises:
        InputError: If the prompt has no visual tokens.
    """
    visual = model.stack.visual_positions(prompt["input_ids"], prompt)[0].nonzero()[:, 0].tolist()
    if not visual:
        raise InputError("the prompt has no visual tokens; give a picture")
    cuts = [stage for stage in given.kept if any(stage.stage.keep)]
    stays = [set(cut.positions[0][cut.alive[0]].tolist()) for cut in cuts]
    survived = tuple(
        sum(place in kept for kept in stays) / len(stays) if stays else 1.0 for place in visual
    )
    kept = tuple(number for number, share in enumerate(survived) if share == 1.0)
    order = sorted(cuts, key=lambda cut: cut.stage.attention is None)
    scored = [cut.scores[0, visual] for cut in order if cut.scores is not None]
    scores = tuple(scored[0].tolist()) if scored else (0.0,) * len(visual)
    layers, left, first = 0, len(visual), 0
    depth = model.stack.depth
    for stage in given.kept:
        layers += left * (stage.stage.layer - first)
        first, left = stage.stage.layer, stage.stage.keep[0]
    average = (layers + left * (depth - first)) / depth
    counts = tuple(min(cut.stage.keep[0], len(visual)) for cut in cuts)
    return PrunedTokens(name, kept, survived, counts, scores, average)


def token_grids(model: TwigModel, prompt: Inputs) -> list[Grid]:
    """Say how a prompt's visual tokens lie on its picture, or on each frame of its video.

    Args:
        model: The model.
        prompt: The processor's outputs for one prompt.

    Returns:
        Rows and columns of each picture or frame, in order. Of a picture in tiles it is the
        overview, which comes first.

    Raises:
        InputError: If they form no grids.
    """
    visual = model.stack.visual_positions(prompt["input_ids"], prompt)[0]
    count = int(visual.sum())
    sizes = [
        size.tolist()
        for name in ("image_grid_thw", "video_grid_thw")
        for size in (() if prompt.get(name) is None else prompt[name])
    ]
    if sizes and count:
        unit = math.isqrt(sum(math.prod(size) for size in sizes) // count)
        return [
            (height // unit, width // unit)
            for frames, height, width in sizes
            for _ in range(frames)
        ]
    if prompt.get("image_sizes") is not None:
        vision: Any = model.base.config.vision_config
        side = vision.image_size // vision.patch_size
        return [(side, side)]
    places = visual.nonzero()[:, 0].tolist()
    runs: list[int] = []
    for before, place in zip([None, *places], places, strict=False):
        if before is not None and place == before + 1:
            runs[-1] += 1
        else:
            runs.append(1)
    if not runs or any(math.isqrt(run) ** 2 != run for run in runs):
        raise InputError(
            f"the base makes {count} visual tokens of a picture, which is no square to draw; "
            "use twigkit generate with it"
        )
    return [(math.isqrt(run), math.isqrt(run)) for run in runs]


def render_pruning(
    pictures: Sequence[Image.Image],
    grids: Sequence[Grid],
    pruned: Sequence[PrunedTokens],
    title: str = "",
) -> Image.Image:
    """Draw what each pruner keeps, and below it how it scores, beside the picture itself.

    A token that every cut keeps is drawn as it is, with an outline; one that some cuts keep fades
    by the others. Several pictures are the frames of a video, each pruner's strip below the last.

    Args:
        pictures: The picture, or frames.
        grids: Rows and columns of their visual tokens; of frames of which the base makes one
            together, the first is drawn.
        pruned: What the pruners did.
        title: A line above.
    """
    shown = [pictures[number * len(pictures) // len(grids)] for number in range(len(grids))]
    cell = max(4, EDGE // max(max(grid) for grid in grids))
    blocks = [
        _Block(
            "the picture" if len(grids) == 1 else "the video",
            "",
            [enlarge(p, g, cell) for p, g in zip(shown, grids, strict=True)],
            [],
        )
    ]
    for each in pruned:
        cuts = " > ".join(map(str, (len(each.survived), *each.cuts)))
        caption = f"{cuts} tokens, {each.average:.1f} per layer"
        parts: list[list[Image.Image]] = [[], []]
        start = 0
        for picture, grid in zip(shown, grids, strict=True):
            end = start + grid[0] * grid[1]
            parts[0].append(draw_survival(picture, grid, each.survived[start:end], cell))
            parts[1].append(draw_heat(picture, grid, each.scores[start:end], cell))
            start = end
        blocks.append(_Block(each.name, caption, *parts))
    return _arrange(blocks, 1 if len(grids) > 1 else ACROSS, title)


@dataclass(frozen=True)
class _Block:
    """One pruner's part: a name, a caption, and one or two strips of pictures."""

    name: str
    caption: str
    kept: list[Image.Image]
    heat: list[Image.Image]

    @property
    def size(self) -> tuple[int, int]:
        width = sum(picture.width for picture in self.kept) + 6 * (len(self.kept) - 1)
        rows = [max(p.height for p in strip) for strip in (self.kept, self.heat) if strip]
        return max(width, 200), 2 * _LINE + sum(rows) + 6 * (len(rows) - 1)

    def draw(self, canvas: Image.Image, left: int, top: int) -> None:
        pen = ImageDraw.Draw(canvas)
        pen.text((left, top), self.name, INK, _font(16))
        pen.text((left, top + _LINE), self.caption, SOFT, _font(12))
        y = top + 2 * _LINE
        for strip in (self.kept, self.heat):
            x = left
            for picture in strip:
                canvas.paste(picture, (x, y))
                x += picture.width + 6
            y += max((picture.height for picture in strip), default=0) + 6


def _arrange(blocks: Sequence[_Block], across: int, title: str) -> Image.Image:
    """Put the blocks into rows below the title."""
    rows = [blocks[start : start + across] for start in range(0, len(blocks), across)]
    widths = [
        max(row[column].size[0] for row in rows if column < len(row))
        for column in range(min(across, len(blocks)))
    ]
    heights = [max(block.size[1] for block in row) for row in rows]
    top = _MARGIN + (_LINE + 10 if title else 0)
    size = (
        max(sum(widths) + _GAP * (len(widths) - 1), 8 * len(title)) + 2 * _MARGIN,
        top + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN,
    )
    canvas = Image.new("RGB", size, PAPER)
    ImageDraw.Draw(canvas).text((_MARGIN, _MARGIN - 4), title, INK, _font(16))
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN
        for block, width in zip(row, widths, strict=False):
            block.draw(canvas, left, top)
            left += width + _GAP
        top += height + _GAP
    return canvas


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


__all__ = [
    "PrunedTokens",
    "of_answer",
    "prune_tokens",
    "render_pruning",
    "token_grids",
    "usable_pruners",
]
