"""Every registered adapter, in every variant of its family, goes through the kit."""

import pytest
import torch

from tests.support.required_capabilities import REQUIRED
from twigkit.plugins.discovery import default_registry
from twigkit.testing import AdapterConformance
from twigkit.testing.lab import variants

torch.set_num_threads(1)

ENTRIES = [e for e in default_registry().entries("adapter") if e.distribution == "twigkit"]
CASES = [
    pytest.param((entry, variant), id=f"{entry.name}-{variant}")
    for entry in ENTRIES
    for variant in variants(entry.cls())
]


class TestBuiltInAdapters(AdapterConformance):
    @pytest.fixture(scope="class", params=CASES)
    @classmethod
    def case(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls, case):
        return case[0].cls()

    @pytest.fixture(scope="class")
    @classmethod
    def family(cls, case, adapter):
        return variants(adapter)[case[1]]()

    @pytest.fixture(scope="class")
    @classmethod
    def required(cls, case):
        return frozenset(REQUIRED[case[0].name])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_adapter_has_a_row_in_the_table_of_families(entry):
    assert entry.name in REQUIRED, (
        "say in tests/support/required_capabilities.py what the family must do"
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_adapter_that_serves_models_brings_a_tiny_one(entry):
    assert variants(entry.cls()) or not entry.capabilities, "define `tiny()` or `variants()`"


def test_the_table_names_no_family_that_is_not_there():
    assert set(REQUIRED) <= {entry.name for entry in ENTRIES}
