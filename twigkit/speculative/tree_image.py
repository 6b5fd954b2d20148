"""A picture of one step's token tree: what was drafted, how likely, and what was accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.speculative.token_tree import TokenTree

_INK = (33, 37, 41)
_FAINT = (134, 142, 150)
_PAPER = (255, 255, 255)
_ROOT = (52, 58, 64)
_TAKEN = (43, 138, 62)
_OWN = (217, 72, 15)
_PALE, _FULL = (241, 243, 245), (165, 206, 245)  # unlikely and likely nodes
_SCALE = 3  # rendered this much larger, then reduced: smooth edges
_ROW, _PILL, _MARGIN, _GAP = 34, 26, 28, 64


@dataclass(frozen=True, slots=True)
class StepImage:
    """What a picture of one step shows.

    Attributes:
        tree: The nodes that were verified; their probabilities are shown.
        labels: Text of each node, the root first.
        accepted: Nodes that the target accepted, from below the root down.
        next_label: The target's own token after them, or None.
        title: One line above the picture.
        font: Path of a TrueType font; None for Pillow's own, which knows Latin letters only.
    """

    tree: TokenTree
    labels: Sequence[str]
    accepted: Sequence[int] = ()
    next_label: str | None = None
    title: str = ""
    font: str | None = None

    @property
    def probabilities(self) -> list[float]:
        """The draft's probability of each node after its parent, the root's own being 1."""
        chances: list[float] = self.tree.logprob.exp().clamp(max=1.0).tolist()
        return chances


def visible(text: str) -> str:
    """Make the white space of a token visible and keep it short."""
    shown = text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "\u00b7")
    return shown if len(shown) <= 16 else shown[:15] + "\u2026"


def render_step(step: StepImage) -> Image.Image:
    """Render a step from left to right: the root, its drafts by depth, the accepted path in green.

    A node is the bluer and its edge the thicker, the more likely the draft found it; the number
    after a token is its probability after its parent. The target's own token stands at the end of
    the accepted path in orange.

    Args:
        step: What to show.

    Returns:
        The picture; ``save`` writes it as PNG.

    Raises:
        InputError: If there is not one label per node, the accepted nodes are no path from the
            root, or the font cannot be read.
    """
    _check(step)
    tree, chances = step.tree, step.probabilities
    labels = [visible(label) for label in step.labels]
    notes = ["", *(_percent(chance) for chance in chances[1:])]
    kind = ["root"] + ["node"] * (len(labels) - 1)
    for node in step.accepted:
        kind[node] = "taken"
    if step.next_label is not None:
        tree = tree.with_child(step.accepted[-1] if step.accepted else 0, token=-1)
        labels.append(visible(step.next_label))
        notes.append("")
        kind.append("own")
    return _Picture(tree, labels, notes, kind, step).render()


def _check(step: StepImage) -> None:
    """Refuse labels and accepted nodes that do not belong to the tree."""
    size, parents = step.tree.num_nodes, step.tree.parent.tolist()
    if len(step.labels) != size:
        raise InputError(f"{len(step.labels)} labels for {size} nodes; give one per node")
    above = 0
    for node in step.accepted:
        if not 0 < node < size or parents[node] != above:
            raise InputError(f"accepted node {node} is no child of node {above}")
        above = node


def _percent(chance: float) -> str:
    """A probability in at most four characters."""
    if chance >= 0.995:
        return "1.0"
    return f"{chance:.2f}"[1:] if chance >= 0.005 else "<.01"


class _Picture:
    """One picture in the making: sizes, places, then ink."""

    def __init__(
        self,
        tree: TokenTree,
        labels: list[str],
        notes: list[str],
        kind: list[str],
        step: StepImage,
    ) -> None:
        """Place every node: its column by depth, its row by the leaves below it."""
        self.labels, self.notes, self.kind, self.step = labels, notes, kind, step
        self.parents, self.chances = tree.parent.tolist(), step.probabilities
        self.font, self.small, self.large = (_font(step.font, size) for size in (15, 11, 18))
        size, depth = len(labels), tree.depth.tolist()
        self.width = [self._measure(node) for node in range(size)]
        columns = tree.height + 1
        widest = [
            max(self.width[node] for node in range(size) if depth[node] == column)
            for column in range(columns)
        ]
        left = [_MARGIN + sum(widest[:column]) + _GAP * column for column in range(columns)]
        self.x = [left[depth[node]] for node in range(size)]
        top = _MARGIN + (40 if step.title else 0)
        self.y, rows = self._rows(top)
        legend = self._legend_width()
        self.size = (
            max(left[-1] + widest[-1], _MARGIN + legend) + _MARGIN,
            top + rows * _ROW + 46 + _MARGIN // 2,
        )

    def _measure(self, node: int) -> int:
        """Width of a node's pill."""
        wide: float = 20 + self.font.getlength(self.labels[node])
        if self.notes[node]:
            wide += self.small.getlength(self.notes[node]) + 8
        return math.ceil(wide)

    def _rows(self, top: int) -> tuple[list[float], int]:
        """Middle of every node: leaves one below the other, a parent in the middle of its children.

        The target's own token comes first among its siblings, then the likelier ones.
        """
        chance = [*self.chances, math.inf]
        children: list[list[int]] = [[] for _ in self.labels]
        for node in range(1, len(self.labels)):
            children[self.parents[node]].append(node)
        for below in children:
            below.sort(key=lambda node: -chance[node])
        y = [0.0] * len(self.labels)
        row = 0

        def place(node: int) -> None:
            nonlocal row
            if not children[node]:
                y[node] = top + row * _ROW + _ROW / 2
                row += 1
                return
            for child in children[node]:
                place(child)
            y[node] = (y[children[node][0]] + y[children[node][-1]]) / 2

        place(0)
        return y, row

    def render(self) -> Image.Image:
        """Ink edges below nodes, then title and legend; reduce to the final size."""
        image = Image.new("RGB", (self.size[0] * _SCALE, math.ceil(self.size[1]) * _SCALE), _PAPER)
        pen = ImageDraw.Draw(image)
        order = sorted(range(1, len(self.labels)), key=lambda node: self.kind[node] != "node")
        for node in order:
            self._edge(pen, node)
        for node in range(len(self.labels)):
            self._pill(pen, node)
        if self.step.title:
            self._text(pen, _MARGIN, _MARGIN + 8, self.step.title, self.large, _INK)
        self._legend(pen)
        return image.resize((self.size[0], math.ceil(self.size[1])), Image.Resampling.LANCZOS)

    def _edge(self, pen: ImageDraw.ImageDraw, node: int) -> None:
        """A curve from the parent's right end to the node's left end."""
        parent = self.parents[node]
        x0, y0 = self.x[parent] + self.width[parent], self.y[parent]
        x1, y1 = self.x[node], self.y[node]
        if self.kind[node] == "node":
            chance = self.chances[node]
            color, width = _mix((206, 212, 218), _FAINT, chance), 1 + 2 * chance
        else:
            color, width = (_TAKEN if self.kind[node] == "taken" else _OWN), 3.0
        bend = (x1 - x0) / 2
        points = []
        steps = 48 if abs(y1 - y0) > 1 else 1  # a straight line needs no joints
        for i in range(steps + 1):
            t = i / steps
            a, b, c, d = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t * t, t**3
            x = a * x0 + b * (x0 + bend) + c * (x1 - bend) + d * x1
            y = (a + b) * y0 + (c + d) * y1
            points.append((x * _SCALE, y * _SCALE))
        pen.line(points, fill=color, width=round(width * _SCALE), joint="curve")

    def _pill(self, pen: ImageDraw.ImageDraw, node: int) -> None:
        """A rounded box with the token and its probability."""
        kind, x, y = self.kind[node], self.x[node], self.y[node]
        fill: Any = _PALE
        line, ink, faint = (206, 212, 218), _INK, _FAINT
        if kind == "node":
            fill = _mix(_PALE, _FULL, math.sqrt(self.chances[node]))
        else:
            fill = line = {"root": _ROOT, "taken": _TAKEN, "own": _OWN}[kind]
            ink = faint = _PAPER
        self._box(pen, x, y, self.width[node], fill, line)
        self._text(pen, x + 10, y, self.labels[node], self.font, ink)
        if self.notes[node]:
            note = self.small.getlength(self.notes[node])
            place = x + self.width[node] - 10 - note
            self._text(pen, place, y + 1, self.notes[node], self.small, faint)

    def _box(
        self, pen: ImageDraw.ImageDraw, x: float, y: float, width: float, fill: Any, line: Any
    ) -> None:
        """A pill whose left end is x and whose middle is y."""
        box = [x, y - _PILL / 2, x + width, y + _PILL / 2]
        pen.rounded_rectangle(
            [value * _SCALE for value in box], _PILL * _SCALE / 2, fill, line, _SCALE
        )

    def _text(
        self, pen: ImageDraw.ImageDraw, x: float, y: float, text: str, font: Any, ink: Any
    ) -> None:
        """A line of text from x on, its middle at y."""
        large = font.font_variant(size=font.size * _SCALE)
        pen.text((x * _SCALE, y * _SCALE), text, fill=ink, font=large, anchor="lm")

    def _entries(self) -> list[tuple[str, Any]]:
        """Legend: only what the picture shows."""
        entries: list[tuple[str, Any]] = [("last accepted token", _ROOT)]
        if "taken" in self.kind:
            entries.append((f"accepted ({len(self.step.accepted)})", _TAKEN))
        if "node" in self.kind:
            entries.append(("not taken, bluer = likelier", _FULL))
        if "own" in self.kind:
            entries.append(("the target's own token", _OWN))
        return entries

    def _legend_width(self) -> int:
        """Width of the line below the tree."""
        wide: float = sum(34 + self.small.getlength(text) for text, _ in self._entries())
        return math.ceil(wide)

    def _legend(self, pen: ImageDraw.ImageDraw) -> None:
        """One line below the tree that names the colours."""
        x, y = float(_MARGIN), self.size[1] - _MARGIN
        for text, color in self._entries():
            dot = [x, y - 5, x + 10, y + 5]
            pen.ellipse([value * _SCALE for value in dot], fill=color)
            self._text(pen, x + 15, y, text, self.small, _INK)
            x += 34 + self.small.getlength(text)


def _font(path: str | None, size: int) -> Any:
    """A font from a file, or Pillow's own, which needs none."""
    if path is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise InputError(f"no TrueType font at {path!r} ({error}); give another path") from error


def _mix(low: tuple[int, ...], high: tuple[int, ...], share: float) -> tuple[int, ...]:
    """A colour between two."""
    part = min(max(share, 0.0), 1.0)
    return tuple(round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
