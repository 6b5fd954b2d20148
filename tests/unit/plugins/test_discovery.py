"""Discovery, with fake distributions in temporary folders."""

import sys
import warnings

import pytest

from tests.support.least_plugins import LEAST
from twigkit.errors import PluginError, PluginWarning, RegistryError
from twigkit.plugins.discovery import (
    commands,
    default_discovery,
    default_registry,
    discover,
    sources,
)

GOOD = """
    from twigkit.interfaces import PathShape, hookimpl

    class {cls}(PathShape):
        capabilities = frozenset({{"a", "b"}})
        heads = ()

        def __init__(self, spec): ...

        def draft(self, draft_model, candidates, room): ...

    @hookimpl
    def register_drafters(register):
        register("{name}", {cls})
"""


def good(name="quick", cls="Quick"):
    return GOOD.format(name=name, cls=cls)


def discover_quietly(*sites):
    """Discover in some folders; problems are warnings, which a test asks for by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        return discover([str(site) for site in sites])


def cause(found):
    (problem,) = found.problems
    return problem.cause


def test_a_plugin_is_entered_with_its_origin(fake_distribution):
    site = fake_distribution("alpha-kit", version="3.1", plugins={"alpha_mod": good()})
    found = discover([str(site)])
    (entry,) = found.registry.entries()
    assert found.problems == ()
    assert (entry.kind, entry.name) == ("drafter", "quick")
    assert (entry.distribution, entry.version) == ("alpha-kit", "3.1")
    assert entry.module == "alpha_mod"
    assert entry.location == f"{site / 'alpha_mod.py'}:4"
    assert entry.capabilities == {"a", "b"}


def test_a_name_claimed_twice_goes_to_neither_and_the_rest_loads(fake_distribution):
    first = fake_distribution("alpha", plugins={"alpha_mod": good()})
    second = fake_distribution("beta", version="2.0", plugins={"beta_mod": good()})
    third = fake_distribution("fine-kit", plugins={"fine_mod": good("steady")})
    sites = [str(first), str(second), str(third)]
    both = r"'quick'.*alpha 1\.0.*beta 2\.0.*uninstall one of them"
    with pytest.warns(PluginWarning, match=both):
        found = discover(sites)
    assert found.registry.names("drafter") == ["steady"]
    assert found.problems[0].source.distribution == "beta"
    with pytest.raises(RegistryError, match=both):
        found.registry.get("drafter", "quick")


def test_a_name_claimed_three_times_names_all(fake_distribution):
    names = ("alpha", "beta", "gamma")
    sites = [fake_distribution(n, plugins={f"{n}_mod": good()}) for n in names]
    registry = discover_quietly(*sites).registry
    told = r"3 plug-ins .*alpha 1\.0.*beta 1\.0.*gamma 1\.0.*all but one"
    with pytest.raises(RegistryError, match=told):
        registry.get("drafter", "quick")


def test_who_asks_for_an_unknown_name_is_told_what_was_left_out(fake_distribution):
    site = fake_distribution("broken-kit", version="0.3", plugins={"broken_mod": "import nothing_"})
    registry = discover_quietly(site).registry
    with pytest.raises(RegistryError, match=r"'quick'.*broken-kit 0\.3 .*ModuleNotFoundError"):
        registry.get("drafter", "quick")


def test_the_same_distribution_twice_on_the_path_counts_once(fake_distribution):
    wheel = fake_distribution("alpha-kit", version="1.0", plugins={"alpha_mod": good()})
    other = fake_distribution(
        "Alpha_Kit", version="1.1", plugins={"alpha_mod": good()}, folder="elsewhere"
    )
    found = discover([str(other), str(wheel)])
    assert [entry.version for entry in found.registry.entries()] == ["1.1"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module"),
        ("raise RuntimeError('needs a\\ncompiler')", "RuntimeError: needs a compiler"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_to_import_is_a_warning_and_the_rest_loads(
    fake_distribution, source, told
):
    bad = fake_distribution("broken-kit", version="0.3", plugins={"broken_mod": source})
    fine = fake_distribution("fine-kit", plugins={"fine_mod": good()})
    with pytest.warns(PluginWarning, match=r"broken-kit 0\.3") as caught:
        found = discover([str(bad), str(fine)])
    assert told in str(caught[0].message)
    assert found.registry.names("drafter") == ["quick"]
    assert told in cause(found)
    assert "\n" not in str(found.problems[0])


def test_a_plugin_for_other_hooks_is_refused(fake_distribution):
    site = fake_distribution("old-kit", plugins={"old_mod": good() + "\n    TWIGKIT_HOOKS = 99\n"})
    found = discover_quietly(site)
    assert found.registry.entries() == []
    assert "version 99 of the hooks and this twigkit has version 1" in cause(found)
    assert "install a matching version of old-kit" in cause(found)


def test_a_plugin_may_state_the_current_hooks(fake_distribution):
    site = fake_distribution("new-kit", plugins={"new_mod": good() + "\n    TWIGKIT_HOOKS = 1\n"})
    assert discover([str(site)]).registry.names("drafter") == ["quick"]


BAD_REGISTRATIONS = {
    "class Quick(Least): pass": ("register('Not A Name', Quick)", "expected a name"),
    "class Quick: pass": ("register('quick', Quick)", "lacks __init__(self, spec), "),
    "Quick = 3": ("register('quick', Quick)", "expected a class"),
    "class Quick(Least): pass\nclass Settings: pass": (
        "register('quick', Quick, spec=Settings)",
        "expected a subclass of twigkit.DrafterSpec with the field `kind",
    ),
    "from pydantic import BaseModel\nclass Quick(Least): pass\n"
    "class Settings(BaseModel):\n    kind: str = 'quick'": (
        "register('quick', Quick, spec=Settings)",
        "expected a subclass of twigkit.DrafterSpec",
    ),
    "from twigkit import PrunerSpec\nclass Quick(Least): pass\n"
    "class Settings(PrunerSpec):\n    kind: str = 'quick'": (
        "register('quick', Quick, spec=Settings)",
        "expected a subclass of twigkit.DrafterSpec",
    ),
    "from twigkit import DrafterSpec\nclass Quick(Least): pass": (
        "register('quick', Quick, spec=DrafterSpec)",
        'with the field `kind: Literal["quick"]',
    ),
}


@pytest.mark.parametrize("definitions", BAD_REGISTRATIONS)
def test_a_bad_registration_leaves_the_plugin_out(fake_distribution, definitions):
    call, told = BAD_REGISTRATIONS[definitions]
    source = (
        f"from twigkit import hookimpl\n{LEAST['drafter']}\n{definitions}\n"
        f"@hookimpl\ndef register_drafters(register):\n    register('fine', Least)\n    {call}\n"
    )
    site = fake_distribution("clumsy-kit", plugins={"clumsy_mod": source})
    found = discover_quietly(site)
    assert told in cause(found)
    assert found.registry.entries() == [], "half a plug-in was kept"


@pytest.mark.parametrize(
    ("hook", "wrong"),
    [
        ("register_drafter(register)", "unknown hook 'register_drafter'"),
        ("register_drafters(add)", "'add'"),
    ],
)
def test_a_hook_that_is_none_is_told_with_those_that_are(fake_distribution, hook, wrong):
    source = f"from twigkit import hookimpl\n@hookimpl\ndef {hook}:\n    pass\n"
    told = cause(discover_quietly(fake_distribution("typo-kit", plugins={"typo_mod": source})))
    assert wrong in told
    assert "with the argument `register`" in told
    assert "named one of register_adapters, " in told


def test_the_log_has_the_traceback_of_what_was_left_out(fake_distribution, caplog):
    source = "def deep():\n    return {}['x']\n\ndeep()\n"
    site = fake_distribution("sad-kit", plugins={"sad_mod": source})
    with caplog.at_level("INFO", logger="twigkit"):
        assert cause(discover_quietly(site)) == "KeyError: 'x'"
    assert 'sad_mod.py", line 2, in deep' in caplog.text


def test_a_module_without_hooks_is_told(fake_distribution):
    site = fake_distribution("idle-kit", plugins={"idle_mod": "x = 1\n"})
    assert "implements no hook" in cause(discover_quietly(site))


def test_sources_walk_in_a_fixed_order(fake_distribution):
    zeta = fake_distribution("zeta", plugins={"zeta_b": "", "zeta_a": ""})
    alpha = fake_distribution("alpha", plugins={"alpha_mod": ""})
    names = [source.name for source in sources("twigkit", [str(zeta), str(alpha)])]
    assert names == ["alpha_mod", "zeta_b", "zeta_a"]


def test_commands_are_listed_without_being_imported(fake_distribution):
    site = fake_distribution("gadget", commands={"gadget_cmd": "raise RuntimeError('imported')"})
    found = commands([str(site)])
    assert list(found) == ["gadget_cmd"]
    assert found["gadget_cmd"].distribution == "gadget"
    assert "gadget_cmd" not in sys.modules


def test_a_duplicate_command_names_both_distributions(fake_distribution):
    first = fake_distribution("alpha", commands={"gadget": ""})
    second = fake_distribution("beta", commands={"gadget": ""})
    (found,) = commands([str(first), str(second)]).values()
    assert found.distribution == "alpha"
    with pytest.raises(PluginError, match=r"beta 1\.0 claims the name 'gadget' too"):
        found.load()


def test_the_built_in_plugins_are_found_like_a_strangers():
    registry = default_registry()
    assert default_discovery().problems == ()
    found = {(entry.kind, entry.name) for entry in registry.entries()}
    assert found >= {
        ("adapter", "llava"),
        ("head", "lm"),
        ("pruner", "ttp"),
        ("drafter", "ssd"),
        ("drafter", "plain"),
    }
    assert {entry.distribution for entry in registry.entries()} >= {"twigkit"}


def test_the_default_registry_is_filled_once():
    assert default_registry() is default_registry()


def test_a_plugin_that_ends_the_process_is_left_out(fake_distribution):
    site = fake_distribution("leaver", plugins={"leaver_mod": "raise SystemExit('gone')"})
    other = fake_distribution("alpha", plugins={"alpha_mod": good()})
    found = discover_quietly(site, other)
    assert cause(found) == "SystemExit: gone"
    assert found.registry.names("drafter") == ["quick"]


def test_a_file_of_entry_points_that_cannot_be_read_hurts_nobody(fake_distribution, caplog):
    site = fake_distribution("torn", plugins={})
    (info,) = site.glob("*.dist-info")
    (info / "entry_points.txt").write_text("[console_scripts]\nfoo\n")
    other = fake_distribution("alpha", plugins={"alpha_mod": good()})
    found = discover([str(site), str(other)])
    assert found.registry.names("drafter") == ["quick"]
    assert "entry points of torn cannot be read" in caplog.text


def test_a_group_that_nothing_reads_is_told_and_others_groups_are_not(fake_distribution):
    site = fake_distribution("astray", plugins={"astray_mod": good()})
    (info,) = site.glob("*.dist-info")
    groups = ("twigkit.drafters", "Twigkit", "twigkit_more", "other")
    lines = [f"[{group}]\nname = astray_mod" for group in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    found = discover_quietly(site)
    assert [problem.cause.partition(";")[0] for problem in found.problems] == [
        f"nothing reads its entry-point group {group!r}" for group in groups[:2]
    ]
    with pytest.raises(
        RegistryError, match=r"nothing reads its entry-point group 'twigkit\.drafte"
    ):
        found.registry.get("drafter", "quick")


@pytest.mark.parametrize(
    ("member", "told"),
    [
        ("capabilities = None", "capabilities is None; expected a frozenset of names"),
        ("capabilities = 'image'", "capabilities is 'image'; expected a frozenset of names"),
        ("model_types = 'llava'", "model_types is 'llava'; expected a tuple of names"),
    ],
)
def test_members_of_a_wrong_type_are_refused_at_registration(fake_distribution, member, told):
    source = (
        f"{LEAST['adapter']}    {member}\n"
        "from twigkit.interfaces import hookimpl\n"
        "@hookimpl\ndef register_adapters(register):\n    register('least', Least)\n"
    )
    found = discover_quietly(fake_distribution("odd", plugins={"odd_mod": source}))
    assert told in cause(found)
