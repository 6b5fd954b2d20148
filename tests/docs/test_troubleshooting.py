"""docs/troubleshooting.md has every error class, with messages that are really raised."""

import pytest

from docs.scripts.troubleshooting import PAGE, Case, cases, classes, message, render
from twigkit import TwigkitError


def test_the_page_is_current():
    assert PAGE.read_text() == render(), "run `make troubleshooting` and read the page"


def test_every_class_has_a_case():
    told = {case.error for case in cases()}
    assert told == set(classes()) - {TwigkitError.__name__}


def test_a_case_that_raises_something_else_would_be_noticed():
    code = "from twigkit import default_registry\ndefault_registry().get('drafter', 'sdd')"
    assert "unknown drafter" in message(Case("RegistryError", "a cause", code, ""), {})
    with pytest.raises(AssertionError, match="unknown drafter"):
        message(Case("SpecError", "a cause", code, ""), {})
    with pytest.raises(AssertionError, match="nothing is said"):
        message(Case("PluginWarning", "a cause", "pass", ""), {})
