"""Every registered head, pruner and drafter goes through the kit, with its default settings."""

import itertools

import pytest
import torch

from twigkit.plugins.discovery import default_registry
from twigkit.strategies.ssd import PathDrafter, PathDrafterSpec
from twigkit.testing import DrafterConformance, HeadConformance, PrunerConformance

torch.set_num_threads(1)


def entries(kind):
    found = [e for e in default_registry().entries(kind) if e.distribution == "twigkit"]
    assert found
    return [pytest.param(entry, id=entry.name) for entry in found]


def settings(entry):
    return entry.spec() if entry.spec else None


class TestBuiltInHeads(HeadConformance):
    @pytest.fixture(scope="class", params=entries("head"))
    @classmethod
    def entry(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def head_class(cls, entry):
        return entry.cls

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, entry):
        return settings(entry)


class TestBuiltInPruners(PrunerConformance):
    @pytest.fixture(scope="class", params=entries("pruner"))
    @classmethod
    def pruner(cls, request):
        return request.param.cls(settings(request.param))


class TestBuiltInDrafters(DrafterConformance):
    @pytest.fixture(scope="class", params=entries("drafter"))
    @classmethod
    def drafter(cls, request):
        drafter = request.param.cls(settings(request.param))
        if hasattr(drafter, "decide"):  # what it picks depends on what the clock says
            picks = itertools.cycle(range(1, len(drafter.spec.drafters) + 1))
            drafter.bandit.choose = lambda: next(picks)
        return drafter


class TestDrawingPaths(DrafterConformance):
    """Paths whose drafts are drawn where the target draws."""

    @pytest.fixture(scope="class")
    @classmethod
    def drafter(cls):
        return PathDrafter(PathDrafterSpec(draws=True, threshold=0.2))

    @pytest.fixture(scope="class", params=["half"])
    @classmethod
    def agreement(cls, request):
        return request.param
