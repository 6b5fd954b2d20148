"""twigkit's conformance kit on each plug-in of this package."""

import pytest
import torch
from twigkit.testing import (
    AdapterConformance,
    DrafterConformance,
    HeadConformance,
    Lab,
    ObjectiveConformance,
    PrunerConformance,
)

from twigkit_hello.adapter import HelloAdapter
from twigkit_hello.drafter import HelloDrafter, HelloDrafterSpec
from twigkit_hello.head import HelloHead, HelloHeadSpec
from twigkit_hello.objective import HelloObjective, HelloObjectiveSpec
from twigkit_hello.pruner import HelloPruner, HelloPrunerSpec

torch.set_num_threads(1)


class TestAdapter(AdapterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls):
        return HelloAdapter()


class OnOwnFamily:
    """Tries heads and strategies on this package's family; left out, a built-in one serves."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls):
        adapter = HelloAdapter()
        return Lab(adapter, adapter.tiny(), exit_layer=1)


class TestHead(OnOwnFamily, HeadConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls):
        return HelloHead

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return HelloHeadSpec()


class TestPruner(PrunerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def pruner(cls):
        return HelloPruner(HelloPrunerSpec())


class TestDrafter(OnOwnFamily, DrafterConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return HelloDrafter(HelloDrafterSpec(width=3))


class TestObjective(OnOwnFamily, ObjectiveConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def objective_class(cls):
        return HelloObjective

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return HelloObjectiveSpec()
