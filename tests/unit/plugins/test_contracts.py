"""A class is checked against the contract of its kind when it is registered."""

import pytest

from tests.support.least_plugins import LEAST
from tests.support.tiny import tiny_llava
from twigkit import CapabilityError, PluginError, PrunerSpec
from twigkit.interfaces import Head, PathShape, RefusingAdapter
from twigkit.plugins.contracts import check_class, check_instance, check_spec, contract
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.registry import KINDS, Entry


def least(kind):
    """The least class of a kind."""
    scope = {"__name__": "least"}
    exec(LEAST[kind], scope)
    return scope["Least"]


def whole(kind):
    """The attributes of a class that has all that a protocol lists, by name."""
    listed = contract(kind)
    return {
        name: member
        for name, member in vars(listed).items()
        if name == "__init__" or not name.startswith("_")
    }


PROTOCOLS = [kind for kind in KINDS if getattr(contract(kind), "_is_protocol", False)]
MEMBERS = [(kind, name) for kind in PROTOCOLS for name in whole(kind)]


def attributes(kind):
    """Attributes that satisfy a protocol, none of them the protocol's own."""
    return {
        name: (lambda *given: None) if callable(member) else ()
        for name, member in whole(kind).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_class_will_do(kind):
    check_class(kind, "least", least(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_class_is_told_what_it_lacks_and_where_that_is_described(kind):
    told = rf"registers Empty as the {kind} 'empty'.*docs/recipes/{kind}\.md describes it"
    with pytest.raises(PluginError, match=told):
        check_class(kind, "empty", type("Empty", (), {}))


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_every_member_is_asked_for(kind, name):
    given = attributes(kind)
    check_class(kind, "all", type("All", (), dict(given)))
    del given[name]
    with pytest.raises(PluginError, match=rf"lacks {name}[(;]"):
        check_class(kind, "less", type("Less", (), given))


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_what_a_protocol_itself_holds_does_not_count(kind):
    heir = type("Heir", (contract(kind),), {})
    with pytest.raises(PluginError, match=r"lacks .*capabilities, .*heads"):
        check_class(kind, "heir", heir)


@pytest.mark.parametrize("entry", default_registry().entries(), ids=lambda entry: entry.name)
def test_every_abstract_member_of_a_base_class_is_asked_for(entry):
    listed = contract(entry.kind)
    check_class(entry.kind, entry.name, entry.cls)
    abstract = [n for n, m in vars(listed).items() if getattr(m, "__isabstractmethod__", False)]
    for name in abstract:
        again = type("Again", (entry.cls,), {name: vars(listed)[name]})
        with pytest.raises(PluginError, match=rf"lacks {name}\("):
            check_class(entry.kind, entry.name, again)


def test_there_are_kinds_of_both_sorts():
    assert PROTOCOLS
    assert set(PROTOCOLS) < set(KINDS)


def test_a_method_must_take_what_the_contract_hands_it():
    class Short(least("drafter")):
        def draft(self, candidates): ...

    with pytest.raises(PluginError, match=r"lacks draft\(self, draft_model, candidates, room\);"):
        check_class("drafter", "short", Short)

    class Stiff(least("head")):
        @classmethod
        def grow(cls, spec): ...

    with pytest.raises(PluginError, match=r"lacks grow\(cls, spec, stack\);"):
        check_class("head", "stiff", Stiff)

    class Bare(PathShape):
        capabilities, heads = frozenset(), ()

        def draft(self, draft_model, candidates, room): ...

    with pytest.raises(PluginError, match=r"lacks __init__\(self, spec\);"):
        check_class("drafter", "bare", Bare)


def test_a_method_is_no_attribute_and_an_attribute_no_method():
    class Called(least("drafter")):
        def height(self): ...

    with pytest.raises(PluginError, match="lacks height;"):
        check_class("drafter", "called", Called)

    class Held(least("pruner")):
        stages = ()

    with pytest.raises(PluginError, match=r"lacks stages\(self, layout\);"):
        check_class("pruner", "held", Held)


def test_what_init_sets_is_annotated_and_must_be_set():
    class Set(PathShape):
        capabilities = frozenset()
        heads: tuple[str, ...]

        def __init__(self, spec):
            if spec:
                self.heads = ("lm",)

        def draft(self, draft_model, candidates, room): ...

    check_class("drafter", "set", Set)
    entry = Entry("drafter", "set", Set, None, "kit", "1.0")
    assert entry.make(True).heads == ("lm",)
    with pytest.raises(PluginError, match=r"the drafter Set lacks heads;.*recipes/drafter\.md"):
        entry.make(False)


def test_no_property_is_evaluated():
    class Asked(least("drafter")):
        @property
        def heads(self):
            raise AssertionError("the property was evaluated")

    check_instance("drafter", Asked(None))


def test_what_is_no_subclass_of_the_base_class_is_told_so():
    like_a_head = type("Like", (), dict.fromkeys(vars(Head)))
    with pytest.raises(PluginError, match=r"expected a subclass of twigkit\.Head"):
        check_class("head", "like", like_a_head)


def test_a_base_class_says_what_was_forgotten():
    class Empty(contract("adapter")):
        pass

    class Blank(Head):
        pass

    class Mute(RefusingAdapter):
        pass

    for call, told in (
        (lambda: Empty().stack(None), r"Empty does not define stack\(self, model\)"),
        (lambda: Blank.grow(None, None), r"Blank does not define the class method grow\(cls, spec"),
        (lambda: Blank()(None), r"Blank does not define forward\(self, hidden\)"),
        (lambda: Mute.refusal({}), r"Mute does not define refusal\(cls, config\)"),
    ):
        with pytest.raises(PluginError, match=told):
            call()
    with pytest.raises(PluginError, match=r"lacks refusal\(cls, config\)"):
        check_class("adapter", "mute", Mute)


def test_an_adapter_that_refuses_says_why():
    class No(RefusingAdapter):
        @classmethod
        def refusal(cls, config):
            return f"no {config['model_type']}; take another"

    check_class("adapter", "no", No)
    with pytest.raises(CapabilityError, match="no llava; take another"):
        No().stack(tiny_llava())


def test_an_adapter_has_no_settings():
    with pytest.raises(PluginError, match="adapter 'fern' with a spec; adapters have none"):
        check_spec("adapter", "fern", PrunerSpec)
