"""Arguments of ``generate`` in every family, beside transformers' own; `make compare` tries all."""

from __future__ import annotations

import pytest
import torch

from tests.comparison.cases import CASES, DRAFTERS, EXCEPTIONS, REASONS
from tests.comparison.runner import compare, prompt_of
from tests.families.conftest import VARIANTS
from twigkit import CustomGenerate
from twigkit.plugins.discovery import default_registry

NAMES = ["-".join(pair) for pair in VARIANTS]


def sample(name):
    """Two cases and two drafters; the families together try all of both."""
    place, cases, drafters = NAMES.index(name), list(CASES), list(DRAFTERS)
    picked = [cases[(2 * place + step) % len(cases)] for step in range(2)]
    return picked, [drafters[(place + step) % len(drafters)] for step in (0, 3)]


def test_the_sample_has_every_case_and_every_drafter():
    samples = [sample(name) for name in NAMES]
    assert {case for cases, _ in samples for case in cases} == set(CASES)
    assert {drafter for _, drafters in samples for drafter in drafters} == set(DRAFTERS)
    built_in = {
        e.name for e in default_registry().entries("drafter") if e.distribution == "twigkit"
    }
    assert set(DRAFTERS) == built_in


def test_exceptions_have_reasons_and_are_of_families_that_there_are():
    assert set(EXCEPTIONS) == set(REASONS) <= set(CASES)
    assert {name for names in EXCEPTIONS.values() for name in names} <= set(NAMES)


def test_arguments_give_the_tokens_of_generate(family):
    cases, drafters = sample(family.name)
    found = dict(compare(family, cases, drafters))
    assert {name: said for name, said in found.items() if said not in (None, "excepted")} == {}
    assert None in found.values()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_generate_of_transformers_takes_the_decoding(family):
    """It hands over encoded pictures in place of pixels where the base takes them."""
    inputs = prompt_of(family)
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        **({"budget": 0.5} if family.visual else {}),
    }
    expected = family.model.generate(**inputs, **options)
    called = family.base.generate(**inputs, **options, custom_generate=CustomGenerate(family.model))
    assert torch.equal(called, expected)
