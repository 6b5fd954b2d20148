"""Draws the pictures of README and docs: a scene, what pruning keeps, a token tree, speed bars.

``make pictures`` writes all but the bars to docs/images. The scene is one of the built-in model's
world that no training has seen; ``twigkit show`` draws what happens inside. The bars are written by
``make results``, with the figures that they show. Run from the root of a checkout with
``python -m docs.scripts.pictures``.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from PIL import Image

from twigkit.cli.main import main
from twigkit.demo.unseen import unseen

DOCS = Path(__file__).parents[1]
IMAGES = DOCS / "images"

QUESTION = "in which direction is the purple triangle from the red circle ?"
BARS = {
    "Hugging Face, dynamic cache": "Hugging Face's generate",
    "twigkit plain": "plain decoding",
    "prompt lookup": "prompt lookup",
    "Medusa tree": "Medusa tree",
    "SSD": "SSD: drafts by the twig",
    "TTP + SSD": "TTP + SSD: 1/9 of the visual tokens",
}
"""Methods of the table that are drawn, and what the picture calls them."""

WIDTH, ROW, LEFT, RIGHT = 760, 34, 270, 70


def bars(measured: dict[str, float]) -> str:
    """Draw the speed of the methods of :data:`BARS` as SVG."""
    shown = [(name, next(v for k, v in measured.items() if k.startswith(key)))
             for key, name in BARS.items()]  # fmt: skip
    height = 16 + ROW * len(shown)
    longest = max(speed for _, speed in shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\">",
        "<title>Speed beside Hugging Face's generate, on a CPU</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#f5f6f9"/>',
    ]
    for number, (name, speed) in enumerate(shown):
        y = 8 + ROW * number
        long = (WIDTH - LEFT - RIGHT) * speed / longest
        color = "#d6286e" if "SSD" in name else "#8a93a6"
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 22}" font-size="14" text-anchor="end" '
            f'fill="#1d2330">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y + 6}" width="{long:.0f}" height="{ROW - 12}" rx="4" '
            f'fill="{color}"/>',
            f'<text x="{LEFT + long + 8:.0f}" y="{y + 22}" font-size="14" font-weight="600" '
            f'fill="#1d2330">{speed:.2f}x</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def draw() -> None:
    """Write the pictures of the model."""
    IMAGES.mkdir(exist_ok=True)
    scene = IMAGES / "scene.png"
    (sample,) = unseen(1)
    sample.picture.save(scene)
    asked = ["--image", str(scene), "--prompt", QUESTION]
    head = [*asked, "--pruners", "p-head"]
    main(["show", "pruning", *head, "--only", "kept", "--out", str(IMAGES / "kept.png")])
    main(["show", "pruning", *head, "--only", "scores", "--out", str(IMAGES / "scores.png")])
    several = ["--pruners", "p-head,ttp,fastv,divprune", "--out", str(IMAGES / "pruning.png")]
    main(["show", "pruning", *asked, *several])
    answer = ["--budget", "1/9", "--pruner", "p-head", "--out", str(IMAGES / "decoding.png")]
    main(["show", "decoding", "--image", str(scene), "--prompt", "describe the picture .", *answer])
    tree = ["--drafter", "medusa-tree", "--step", "3", "--out", str(IMAGES / "tree.png")]
    main(["show", "tree", "--image", str(scene), "--prompt", "describe the picture .", *tree])
    large = sample.picture.resize((288, 288), Image.Resampling.NEAREST)
    large.save(scene)


if __name__ == "__main__":
    draw()
