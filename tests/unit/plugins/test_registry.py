"""The registry: unique names, helpful refusals, origins."""

import dataclasses
import inspect

import pytest

from twigkit.errors import RegistryError
from twigkit.plugins.registry import KINDS, Entry, Registry


class Quick:
    capabilities = frozenset({"fast"})


class Bare:
    pass


def entry(kind="drafter", name="quick", cls=Quick, distribution="alpha"):
    return Entry(kind, name, cls, None, distribution, "1.0")


def test_an_entry_knows_where_its_class_is_defined():
    path, line = entry().location.rsplit(":", 1)
    assert path == __file__
    assert inspect.getsourcelines(Quick)[1] == int(line)
    assert entry().module == Quick.__module__


def test_a_class_without_source_is_located_by_its_module():
    made = type("Made", (), {"__module__": "nowhere.at.all"})
    assert entry(cls=made).location == "nowhere.at.all"


def test_capabilities_are_optional():
    assert entry().capabilities == {"fast"}
    assert entry(cls=Bare).capabilities == frozenset()


def test_an_entry_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry().name = "other"


def test_entries_come_back_by_kind_and_name():
    first, second = entry(name="b"), entry(name="a")
    other = entry(kind="adapter", name="b")
    registry = Registry([first, second, other])
    assert registry.get("drafter", "b") is first
    assert registry.names("drafter") == ["a", "b"]
    assert registry.entries("drafter") == [second, first]
    assert registry.entries() == [other, second, first]
    assert registry.names("head") == []


def test_a_taken_name_is_refused_with_both_distributions():
    registry = Registry([entry()])
    with pytest.raises(RegistryError, match=r"'quick'.*alpha 1\.0.*beta 1\.0.*uninstall"):
        registry.add(entry(distribution="beta"))
    assert registry.get("drafter", "quick").distribution == "alpha"


def test_a_name_may_be_used_once_per_kind():
    registry = Registry([entry(kind=kind) for kind in KINDS])
    assert len(registry.entries()) == len(KINDS)


def test_an_unknown_name_lists_the_known_ones_and_the_likely_one():
    registry = Registry([entry(name="quick"), entry(name="steady")])
    with pytest.raises(RegistryError) as caught:
        registry.get("drafter", "quik")
    message = str(caught.value)
    assert "unknown drafter 'quik' (did you mean 'quick'?)" in message
    assert "known: quick, steady" in message


def test_nothing_is_suggested_where_nothing_is_close():
    with pytest.raises(RegistryError) as caught:
        Registry([entry()]).get("drafter", "zzz")
    assert "did you mean" not in str(caught.value)


def test_an_empty_kind_says_that_nothing_is_registered():
    with pytest.raises(RegistryError, match="no pruner is registered"):
        Registry().get("pruner", "quick")


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.get("wheel", "x"),
        lambda registry: registry.names("wheel"),
        lambda registry: registry.entries("wheel"),
        lambda registry: registry.add(entry(kind="wheel")),
    ],
)
def test_an_unknown_kind_lists_the_kinds(ask):
    with pytest.raises(RegistryError, match="'wheel'; known: adapter, head, pruner, drafter"):
        ask(Registry())
