"""Exceptions of plug-ins name the distribution that they come from."""

from typing import Literal

import pytest

from twigkit.errors import InputError, PluginError
from twigkit.generation.strategy import make_drafter
from twigkit.interfaces import DrafterSpec, PathShape
from twigkit.plugins import discovery
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.registry import Entry, Registry


def test_an_exception_is_blamed_on_the_distribution():
    cls = default_registry().get("drafter", "plain").cls
    told = r"drafter 'plain' of twigkit .*ZeroDivisionError: div"
    with pytest.raises(PluginError, match=told), blamed_on("drafter", cls(None)):
        _ = 1 / 0


@pytest.mark.parametrize("error", [InputError("meant"), MemoryError(), KeyboardInterrupt()])
def test_what_is_meant_or_nobodys_fault_passes_through(error):
    with pytest.raises(type(error)), blamed_on("drafter", object()):
        raise error


def test_what_is_not_registered_goes_by_its_class():
    assert origin_of("pruner", object()) == "object"


class Stubborn(PathShape):
    """Fails when it is made, or when an answer begins."""

    capabilities, heads, spec = frozenset({"no-twig"}), (), None

    def __init__(self, spec):
        if spec.kind == "stubborn":
            raise FileNotFoundError("no weights")

    def draft(self, draft_model, candidates, room): ...

    def begin_answer(self):
        raise KeyError("answer")


class StubbornSpec(DrafterSpec):
    kind: Literal["stubborn"] = "stubborn"


class LateSpec(DrafterSpec):
    kind: Literal["late"] = "late"


def test_what_fails_when_it_is_made_or_begins_is_named(monkeypatch):
    entries = [
        Entry("drafter", "stubborn", Stubborn, StubbornSpec, "twigkit-thorn", "2"),
        Entry("drafter", "late", Stubborn, LateSpec, "twigkit-thorn", "2"),
    ]
    monkeypatch.setattr(discovery, "default_registry", lambda: Registry(entries))
    for spec, error in ((StubbornSpec(), "FileNotFoundError: no w"), (LateSpec(), "KeyError: 'an")):
        told = rf"the drafter '\w+' of twigkit-thorn 2 .* failed: {error}"
        with pytest.raises(PluginError, match=told):
            make_drafter(spec, None, {})
