"""The demo world: scenes of a few small objects, and how to draw them.

A picture of 144 x 144 pixels is divided into nine cells of 48 pixels, and a cell holds at most one
item: a coloured shape, a printed word or a printed digit. The vision tower cuts the same picture
into 12 x 12 patches, so that an item covers a handful of them and most of it is background.
Everything follows from integers: the same seed gives the same scene and the same pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from twigkit.demo.glyphs import bitmap

EDGE = 144
CELL = 48
PATCH = 12
GRID = EDGE // PATCH
COLORS = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (235, 210, 20),
    "green": (45, 155, 60),
    "blue": (45, 85, 215),
    "purple": (135, 55, 165),
    "pink": (245, 125, 185),
    "brown": (125, 75, 40),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring")
WORDS = (
    "cat", "dog", "hat", "jar", "bus", "fox", "cup", "ice", "egg", "toy",
    "bed", "pie", "zip", "rug", "sea", "art", "log", "tub", "ray", "hip",
)  # fmt: skip
DIGITS = tuple("0123456789")
SIZES = {"small": 11, "large": 19}
TEXTURES = ("plain", "graded", "noisy")
TINTS = {"gray": (205, 205, 205), "cream": (240, 228, 190), "mint": (195, 232, 208)}
INK = (20, 20, 20)
OVERSAMPLING = 4
JITTER = 4  # pixels between the spots where an item may stand: three phases against the patches
OWNED = 10  # pixels of a patch that an item must cover to own it
FEW = {4: 35, 5: 40, 6: 25}  # numbers of items and how often they come: what a base learns first
CROWD = {6: 25, 7: 75}  # most of the nine cells, more than a few tokens of each can show


@dataclass(frozen=True)
class Item:
    """One thing in a picture.

    Attributes:
        kind: ``"shape"``, ``"word"`` or ``"digit"``.
        name: The shape, the word or the digit.
        color: A name of ``COLORS``; empty for words and digits, which are black.
        size: ``"small"`` or ``"large"``; empty for words and digits.
        row: Row of the cell, 0 at the top.
        column: Column of the cell, 0 at the left.
        left: Left edge in pixels.
        top: Upper edge in pixels.
        shade: Offset of each colour channel, so that no two reds are the same.
    """

    kind: str
    name: str
    color: str
    size: str
    row: int
    column: int
    left: int
    top: int
    shade: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        items: Things in reading order.
        texture: A name of ``TEXTURES``.
        tint: A name of ``TINTS``.
        seed: What the scene was drawn from; also seeds the noise and the gradient's direction.
    """

    items: tuple[Item, ...]
    texture: str
    tint: str
    seed: int

    @property
    def shapes(self) -> tuple[Item, ...]:
        """The coloured shapes alone."""
        return tuple(item for item in self.items if item.kind == "shape")

    def at(self, row: int, column: int) -> Item | None:
        """The item in a cell, if there is one."""
        return next((i for i in self.items if (i.row, i.column) == (row, column)), None)


def sample_scene(seed: int, sizes: Mapping[int, int] = CROWD) -> Scene:
    """Make up a scene.

    Shapes and colours repeat more often than chance would have it, so that there is something to
    count and to compare; no two shapes agree in both.

    Args:
        seed: The same number gives the same scene.
        sizes: Numbers of items, and how often each comes.
    """
    rng = random.Random(seed)
    total = rng.choices(list(sizes), list(sizes.values()))[0]
    texts = [("word", rng.choice(WORDS))] if rng.random() < 0.6 else []
    texts += [("digit", rng.choice(DIGITS))] if rng.random() < 0.6 else []
    pairs = _distinct_pairs(rng, total - len(texts))
    contents = [("shape", shape, color, rng.choice(list(SIZES))) for shape, color in pairs]
    contents += [(kind, name, "", "") for kind, name in texts]
    cells = sorted(rng.sample(range(9), total))
    rng.shuffle(contents)
    items = tuple(_place(rng, content, cell) for content, cell in zip(contents, cells, strict=True))
    return Scene(items, rng.choice(TEXTURES), rng.choice(list(TINTS)), seed)


def _distinct_pairs(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Pick distinct (shape, colour) pairs with a favourite shape and a favourite colour."""
    shape, color = rng.choice(SHAPES), rng.choice(list(COLORS))
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        pair = (
            shape if rng.random() < 0.35 else rng.choice(SHAPES),
            color if rng.random() < 0.35 else rng.choice(list(COLORS)),
        )
        if pair not in pairs:
            pairs.append(pair)
    return pairs


def _place(rng: random.Random, content: tuple[str, str, str, str], cell: int) -> Item:
    """Put a thing somewhere inside its cell, off the grid of patches."""
    kind, name, color, size = content
    height, width = _extent(kind, name, size)
    row, column = divmod(cell, 3)
    left = column * CELL + rng.randrange(JITTER, CELL - width - 2, JITTER)
    top = row * CELL + rng.randrange(JITTER, CELL - height - 2, JITTER)
    shade = (rng.randint(-10, 10), rng.randint(-10, 10), rng.randint(-10, 10))
    return Item(kind, name, color, size, row, column, left, top, shade)


def _extent(kind: str, name: str, size: str) -> tuple[int, int]:
    """Height and width of a thing in pixels."""
    if kind == "shape":
        return SIZES[size], SIZES[size]
    return bitmap(name, _scale(kind)).shape


def _scale(kind: str) -> int:
    return 2 if kind == "word" else 3


def draw(scene: Scene) -> Image.Image:
    """Draw a scene, 144 x 144 pixels, RGB."""
    return Image.fromarray(draw_with_owners(scene)[0])


def draw_with_owners(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene and say which item each patch belongs to.

    Returns:
        The picture, ``[144, 144, 3]`` uint8, and the index of the item that covers most of each
        patch, ``[12, 12]`` int8, -1 for background.
    """
    canvas = _background(scene)
    cover = np.zeros((len(scene.items) + 1, GRID, GRID))
    cover[0] = OWNED
    for index, item in enumerate(scene.items):
        mask = _mask(item)
        height, width = mask.shape
        area = np.zeros((EDGE, EDGE))
        area[item.top : item.top + height, item.left : item.left + width] = mask
        cover[index + 1] = area.reshape(GRID, PATCH, GRID, PATCH).sum(axis=(1, 3))
        base = COLORS[item.color] if item.color else INK
        ink = np.clip(np.add(base, item.shade), 0, 255)
        window = canvas[item.top : item.top + height, item.left : item.left + width]
        window += (ink - window) * mask[:, :, None]
    picture = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return picture, (cover.argmax(axis=0) - 1).astype(np.int8)


def _background(scene: Scene) -> np.ndarray:
    """The empty picture, ``[144, 144, 3]`` float32."""
    canvas = np.empty((EDGE, EDGE, 3), dtype=np.float32)
    canvas[:] = TINTS[scene.tint]
    rng = np.random.default_rng(scene.seed)
    if scene.texture == "noisy":
        canvas += rng.normal(0, 14, canvas.shape).astype(np.float32)
    elif scene.texture == "graded":
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, EDGE, dtype=np.float32)
        slope = math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None]
        canvas += 32 * slope[:, :, None]
    return canvas


def _mask(item: Item) -> np.ndarray:
    """How much of each pixel of its box an item covers, ``[height, width]`` from 0 to 1."""
    if item.kind != "shape":
        return bitmap(item.name, _scale(item.kind)).astype(np.float32)
    edge = SIZES[item.size] * OVERSAMPLING
    image = Image.new("L", (edge, edge), 0)
    _sketch(ImageDraw.Draw(image), item.name, edge - 1)
    return np.asarray(image.reduce(OVERSAMPLING), dtype=np.float32) / 255


def _sketch(pen: ImageDraw.ImageDraw, shape: str, end: int) -> None:
    """Fill a shape into a square from (0, 0) to (end, end)."""
    half = end / 2
    if shape == "circle":
        pen.ellipse((0, 0, end, end), fill=255)
    elif shape == "ring":
        pen.ellipse((0, 0, end, end), fill=255)
        pen.ellipse((0.3 * end, 0.3 * end, 0.7 * end, 0.7 * end), fill=0)
    elif shape == "square":
        pen.rectangle((0.04 * end, 0.04 * end, 0.96 * end, 0.96 * end), fill=255)
    elif shape == "cross":
        pen.rectangle((0.34 * end, 0, 0.66 * end, end), fill=255)
        pen.rectangle((0, 0.34 * end, end, 0.66 * end), fill=255)
    else:
        pen.polygon([(half + half * x, half + half * y) for x, y in _corners(shape)], fill=255)


def _corners(shape: str) -> list[tuple[float, float]]:
    """Corners of a polygon around the origin, within -1 and 1."""
    if shape == "diamond":
        return [(0, -1), (0.8, 0), (0, 1), (-0.8, 0)]
    if shape == "triangle":
        return [(0, -1), (1, 0.9), (-1, 0.9)]
    angles = [math.pi * (step / 5 - 0.5) for step in range(10)]
    radii = [1.0, 0.42] * 5
    return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]
