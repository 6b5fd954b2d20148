"""What a call asks for becomes spec, drafter and pruner, or a message that says what lacks."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from tests.support.tiny import tiny_llava
from twigkit import CapabilityError, InputError, SpecError, TwigModel, TwigSpec
from twigkit.generation.strategy import (
    Strategy,
    drafter_name,
    make_drafter,
    make_pruner,
    need_heads,
)
from twigkit.specs.run import DrafterSpec, PrunerSpec
from twigkit.strategies.auto import AutoDrafter, AutoDrafterSpec
from twigkit.strategies.fastv import FastvPruner, FastvPrunerSpec
from twigkit.strategies.plain import PlainDrafter, PlainDrafterSpec
from twigkit.strategies.ssd import PathDrafter, PathDrafterSpec
from twigkit.strategies.ttp import TtpPrunerSpec


@pytest.fixture(scope="module")
def twig():
    return TwigModel(tiny_llava(layers=4)).grow(TwigSpec(base="tiny", exit_layer=2, depth=1))


class OwnDrafter:
    """A drafter that somebody wrote and hands over as an object."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "no-twig"})
    heads: ClassVar[tuple[str, ...]] = ()
    linear = True
    capacity = size = 1
    height = 0
    begun = 0

    def begin_answer(self) -> None:
        """Count the answers."""
        self.begun += 1

    def draft(self, draft_model: Any, candidates: Any, room: int) -> Any:
        """Propose nothing."""
        return candidates


def test_the_default_drafter_needs_a_twig(twig):
    assert Strategy().resolve(twig)[1].kind == "ssd"
    assert Strategy().resolve(None)[1].kind == "plain"
    assert Strategy(drafter="prompt-lookup").resolve(None)[1].kind == "prompt-lookup"


@pytest.mark.parametrize(
    "drafter", ["ssd", {"kind": "ssd", "length": 3}, PathDrafterSpec(length=3)], ids=str
)
def test_names_mappings_and_specs_become_the_plugins_spec(twig, drafter):
    asked = Strategy(0.25, "fastv", drafter, wipe_layer=0.5, strict=True, draft_cache="kept")
    spec, made = asked.resolve(twig)
    assert made == spec.drafter == PathDrafterSpec(length=5 if drafter == "ssd" else 3)
    assert spec.pruner == FastvPrunerSpec()
    found = (spec.budget, spec.wipe_layer, spec.strict, spec.draft_cache)
    assert found == (0.25, 0.5, True, "kept")


def test_an_object_is_taken_as_it_is(twig):
    drafter = OwnDrafter()
    spec, made = Strategy(0.5, drafter=drafter).resolve(twig)
    assert made is drafter
    assert spec.drafter.kind == "plain"
    assert make_drafter(drafter, None, {}) is drafter
    assert drafter.begun == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"drafter": "sdd"}, "sdd"),
        ({"pruner": ""}, "pruner"),
        ({"budget": -1}, "budget"),
        ({"draft_cache": "half"}, "draft_cache"),
    ],
    ids=str,
)
def test_what_does_not_validate_is_refused(twig, asked, told):
    with pytest.raises(SpecError, match=told):
        Strategy(**asked).resolve(twig)


def test_a_spec_makes_its_drafter(twig):
    made = make_drafter(PathDrafterSpec(length=3), twig, {})
    assert isinstance(made, PathDrafter)
    assert made.height == 3
    assert isinstance(make_drafter(PlainDrafterSpec(), None, {}), PlainDrafter)


def test_drafters_that_learn_remember_by_spec_and_twig(twig):
    memories: dict = {}
    first = make_drafter(AutoDrafterSpec(), twig, memories)
    assert isinstance(first, AutoDrafter)
    assert make_drafter(AutoDrafterSpec(), twig, memories).memory is first.memory
    other = TwigModel(tiny_llava(layers=4)).grow(TwigSpec(base="tiny", exit_layer=2, depth=1))
    assert make_drafter(AutoDrafterSpec(), other, memories).memory is not first.memory
    assert len(memories) == 2


@pytest.mark.parametrize("thing", [PathDrafter, 5, object()], ids=["class", "number", "object"])
def test_what_is_no_drafter_is_told_what_one_has(thing):
    with pytest.raises(InputError, match="expected a name such as 'ssd'"):
        make_drafter(thing, None, {})


def test_a_pruner_that_scores_with_a_twig_needs_one(twig):
    assert isinstance(make_pruner(FastvPrunerSpec(), None), FastvPruner)
    assert make_pruner(TtpPrunerSpec(), twig).needs_twig
    with pytest.raises(CapabilityError, match="the pruner 'ttp' scores with a twig; load one"):
        make_pruner(TtpPrunerSpec(), None)


@pytest.mark.parametrize(
    ("head", "held", "told"),
    [
        ("lm", False, "the drafter 'ssd' needs a twig with the head 'lm'; load one"),
        ("p", True, "the drafter 'ssd' needs the head 'p'; the twig has lm"),
    ],
)
def test_a_missing_head_is_named_with_those_that_are_there(twig, head, held, told):
    with pytest.raises(CapabilityError, match=told):
        make_drafter(PathDrafterSpec(head=head), twig if held else None, {})
    need_heads("drafter", "ssd", (), None)  # nothing is needed, so nothing is missing
    need_heads("drafter", "ssd", ("lm",), twig)


def test_messages_call_a_drafter_by_kind_label_or_class():
    labelled = OwnDrafter()
    assert drafter_name(DrafterSpec(kind="ssd")) == "ssd"
    assert drafter_name(labelled) == "OwnDrafter"
    labelled.label = "mine"
    assert drafter_name(labelled) == "mine"


def test_pruners_come_from_the_registry():
    with pytest.raises(Exception, match="nobody"):
        make_pruner(PrunerSpec(kind="nobody"), None)
