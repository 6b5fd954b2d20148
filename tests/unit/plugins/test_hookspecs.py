"""Every hook is documented, and exercised by a plug-in that implements it."""

import inspect
import re
from pathlib import Path

import pytest

from tests.support.least_plugins import LEAST
from twigkit.plugins import hookspecs
from twigkit.plugins.discovery import HOOK_KINDS, discover
from twigkit.plugins.registry import KINDS

HOOKS = {
    name: value
    for name, value in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(value, f"{hookspecs.PROJECT}_spec")
}
DOCS = Path(__file__).parents[3] / "docs" / "plugins.md"


def test_there_are_hooks_for_every_kind():
    assert set(HOOKS) == set(HOOK_KINDS)
    assert sorted(HOOK_KINDS.values()) == sorted(KINDS)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_one_sentence_that_the_docs_repeat(name):
    sentence = inspect.getdoc(HOOKS[name])
    assert re.fullmatch(r"[A-Z][^.\n]*\.", sentence)
    assert f"| `{name}` | {sentence} |" in DOCS.read_text()


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_registers_its_kind(fake_distribution, name):
    source = (
        f"from twigkit import hookimpl\n{LEAST[HOOK_KINDS[name]]}"
        f"@hookimpl\ndef {name}(register):\n    register('thing', Least)\n"
    )
    site = fake_distribution("thing-kit", plugins={"thing_mod": source})
    (entry,) = discover([str(site)]).registry.entries()
    assert (entry.kind, entry.name) == (HOOK_KINDS[name], "thing")
