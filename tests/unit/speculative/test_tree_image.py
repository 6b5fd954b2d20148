"""The picture of a step: it shows what happened, in the colours that its legend names."""

import pytest
import torch
from PIL import Image, ImageChops

from twigkit.errors import InputError
from twigkit.speculative.token_tree import TokenTree
from twigkit.speculative.tree_image import StepImage, render_step, visible

GREEN, ORANGE = (43, 138, 62), (217, 72, 15)


def step(**changes):
    fields = {
        "labels": [" a", " red", " blue", " circle", " square"],
        "parents": [0, 0, 0, 1, 1],
        "probabilities": [1.0, 0.7, 0.2, 0.9, 0.004],
        "accepted": [1, 3],
        "next_label": " is",
        "title": "Step 1",
    }
    fields |= changes
    parents, chances = fields.pop("parents"), torch.tensor(fields.pop("probabilities"))
    tree = TokenTree(torch.zeros(len(parents)).long(), torch.tensor(parents), chances.log())
    return StepImage(tree, **fields)


def count(image, color):
    """Pixels of a colour."""
    return sum(n for n, c in image.getcolors(1 << 24) if c == color)


def test_colours_tell_what_happened(tmp_path):
    render_step(step()).save(tmp_path / "step.png")
    image = Image.open(tmp_path / "step.png").convert("RGB")
    assert count(image, GREEN) > count(render_step(step(accepted=[1])), GREEN) > 200
    assert count(image, ORANGE) > 200
    nothing = render_step(step(accepted=[], next_label=None))
    assert count(nothing, GREEN) == count(nothing, ORANGE) == 0


def test_every_field_shows():
    plain = render_step(step())
    for changes in (
        {"labels": [" a", " red", " blue", " circle", " squad"]},
        {"probabilities": [1.0, 0.7, 0.2, 0.8, 0.004]},
        {"parents": [0, 0, 0, 1, 2]},
        {"title": "Step 2"},
        {"next_label": " on"},
    ):
        other = render_step(step(**changes))
        same = other.size == plain.size and not ImageChops.difference(other, plain).getbbox()
        assert not same, changes


def test_a_wide_tree_keeps_a_white_margin():
    """Sixty nodes with long labels stay inside the picture."""
    size = 61
    parents = [0] + [(node - 1) // 3 for node in range(1, size)]
    image = render_step(
        step(
            labels=["a long label here"] * size,
            parents=parents,
            probabilities=[1.0] + [0.5] * (size - 1),
            accepted=[1, 4],
        )
    )
    assert image.width < 1600
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert box[0] >= 8
    assert box[1] >= 8
    assert box[2] <= image.width - 8
    assert box[3] <= image.height - 8


def test_the_root_alone_can_be_drawn():
    assert (
        render_step(
            step(labels=["a"], parents=[0], probabilities=[1.0], accepted=[], next_label=None)
        ).height
        < 200
    )


def test_white_space_is_visible_and_long_labels_are_short():
    assert visible(" a\n\t") == "\u00b7a\\n\\t"
    assert len(visible("x" * 50)) == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "1 labels for 5 nodes"),
        ({"parents": [0, 0, 3, 1, 1]}, "node 2 has parent 3"),
        ({"accepted": [3]}, "accepted node 3 is no child of node 0"),
        ({"accepted": [1, 9]}, "accepted node 9"),
        ({"font": "/nowhere.ttf"}, "no TrueType font"),
    ],
)
def test_refusals_name_what_was_given(changes, message):
    with pytest.raises(InputError, match=message):
        render_step(step(**changes))
