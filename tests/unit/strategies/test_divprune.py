"""DivPrune: the farthest token first, on angles worked out by hand."""

import math

import torch

from tests.support.pruning import context, kept, layout
from twigkit.interfaces import cosine_similarity
from twigkit.strategies.divprune import DivprunePruner, DivprunePrunerSpec, farthest

ANGLES = (0, 10, 90, 180)
POINTS = [[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in ANGLES]


def test_takes_the_farthest_from_what_it_has():
    """180 has no neighbour nearer than 1; then 0 lies 2 away; then 90, 1 away from both."""
    points = torch.tensor(POINTS)
    assert farthest(1 - cosine_similarity(points, points), 3).tolist() == [3, 0, 2]
    assert farthest(1 - cosine_similarity(points, points), 1).tolist() == [3]


def test_keeps_three_of_four_directions():
    assert kept(DivprunePruner(DivprunePrunerSpec()), 3, context(POINTS))[0] == [0, 2, 3]


def test_cuts_before_the_first_layer():
    (cut,) = DivprunePruner(DivprunePrunerSpec()).stages(layout(budget=128))
    assert (cut.layer, cut.keep) == (0, [128])
