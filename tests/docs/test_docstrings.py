"""Every example in a docstring runs and gives what it shows."""

import doctest
from importlib import import_module

import pytest

from tests.support.imports import MODULES

ROOMS = [name for name, path in MODULES.items() if ">>> " in path.read_text()]
SHOWN = [  # public functions that are easier to see at work than to describe
    "twigkit.interfaces.budget",
    "twigkit.interfaces.pruning_schedules",
    "twigkit.interfaces.tiny_models",
    "twigkit.specs.base",
    "twigkit.speculative.candidates",
    "twigkit.speculative.ngrams",
    "twigkit.speculative.path_drafting",
    "twigkit.speculative.sampling",
    "twigkit.speculative.static_trees",
]


@pytest.mark.parametrize("name", ROOMS)
def test_the_examples_of_a_module_run(name):
    flags = doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(import_module(name), optionflags=flags, report=False)
    assert found.attempted
    assert not found.failed, "the output of doctest is above"


def test_what_helps_to_write_extensions_has_examples():
    assert set(SHOWN) <= set(ROOMS)
