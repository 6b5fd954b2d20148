"""Exceptions of plug-ins name the distribution that they come from."""

import pytest

from twigkit.errors import InputError, PluginError
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.plugins.discovery import default_registry


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
