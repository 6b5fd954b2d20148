"""What goes wrong with installed packages: who, why and the way out; everything else works.

All the trouble is installed at once, so that every test also shows that the rest keeps working.
"""

import json

import pytest

RIVAL = """
from twigkit.interfaces import PathShape, hookimpl
class Rival(PathShape):
    capabilities, heads = frozenset({"no-twig"}), ()
    def __init__(self, spec): ...
    def draft(self, draft_model, candidates, room): return candidates
class Other(Rival): pass
@hookimpl
def register_drafters(register):
    register("hello", Rival)
    register("other", Other)
"""
OLD = """
TWIGKIT_HOOKS = 7
from twigkit import hookimpl
class Old: pass
@hookimpl
def register_drafters(register):
    register("old", Old)
"""
CHECK = """
import json
from twigkit import GenerationSpec, SpecError
said = {}
for name in ("hello", "old", "othr", "ssd", "other"):
    try:
        said[name] = GenerationSpec(drafter=name).drafter.kind
    except SpecError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
ASK = """
import torch
from twigkit import CapabilityError, TwigModel
from modest_kit import tiny_model
torch.manual_seed(0)
base = tiny_model()
model = TwigModel(base)
def ask(rows, patches, **options):
    ids = torch.tensor([[1] + [90] * patches + [7, 8]] * rows)
    pixels = {"pixel_values": torch.randn(rows * patches, 12)} if patches else {}
    return model.generate(input_ids=ids, **pixels, max_new_tokens=3, **options)
for wanted in (dict(rows=1, patches=4), dict(rows=2, patches=0),
               dict(rows=1, patches=0, budget=0.5, pruner="hello")):
    try:
        ask(**wanted)
    except CapabilityError as error:
        print(error)
own = base.generate(input_ids=torch.tensor([[1, 7, 8]]), max_new_tokens=3)
print("the base's own answer" if torch.equal(ask(1, 0), own) else ask(1, 0))
"""
MODEST = """
from twigkit import hookimpl
from twigkit_hello.adapter import HelloAdapter
from twigkit_hello.model import HelloConfig, HelloForConditionalGeneration, tiny_config
class ModestConfig(HelloConfig):
    model_type = "modest"
    def __init__(self, **options):
        HelloConfig.__init__(self, **options)
class Modest(HelloAdapter):
    model_types = ("modest",)
    capabilities = frozenset({"text-only"})
def tiny_model():
    config = ModestConfig(text_config=tiny_config().text_config)
    return HelloForConditionalGeneration(config).eval()
@hookimpl
def register_adapters(register):
    register("modest", Modest)
"""


@pytest.fixture(scope="module")
def troubled(environment, write_package, tmp_path_factory):
    """The environment with a rival, a broken plug-in, an outdated one and a modest one."""
    folder = tmp_path_factory.mktemp("trouble")
    broken = "import a_module_that_nobody_has"
    sources = {"rival": RIVAL, "broken": broken, "old": OLD, "modest": MODEST}
    packages = [
        write_package(folder, f"{name}-kit", {f"{name}_kit": source})
        for name, source in sources.items()
    ]
    return environment.with_packages(folder / "site", *packages)


@pytest.fixture(scope="module")
def listed(troubled):
    """What ``twigkit plugins`` shows: names by kind, and problems by distribution."""
    done = troubled.run("twigkit", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = {(entry["kind"], entry["name"]) for entry in found["plugins"]}
    return names, {problem["distribution"]: problem for problem in found["problems"]}


@pytest.fixture(scope="module")
def said(troubled):
    """What a spec says that names a drafter: the drafter's kind, or the error."""
    done = troubled.run("python", "-c", CHECK)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_else_keeps_working(listed, said):
    names, problems = listed
    assert names >= {("drafter", "other"), ("drafter", "ssd"), ("pruner", "hello")}
    assert set(problems) == {"broken-kit", "old-kit", "twigkit-hello"}
    assert (said["ssd"], said["other"]) == ("ssd", "other")


def test_two_distributions_that_claim_a_name(listed, said):
    names, problems = listed
    assert ("drafter", "hello") not in names
    for message in (problems["twigkit-hello"]["cause"], said["hello"]):
        assert "two plug-ins register the drafter 'hello'" in message
        assert "rival-kit 1.0 (rival_kit)" in message
        assert "twigkit-hello 0.1.0 (twigkit_hello.drafter)" in message
        assert "uninstall one of them or rename its registration" in message


def test_the_command_line_says_so_too(troubled, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("twig: {base: b}\ngeneration: {drafter: hello}\n")
    done = troubled.run("twigkit", "spec", "check", file)
    assert done.returncode == 2
    assert "two plug-ins register the drafter 'hello'" in done.stderr


def test_a_plugin_that_fails_to_import(listed):
    problem = listed[1]["broken-kit"]
    assert problem["version"] == "1.0"
    assert problem["cause"] == "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"


def test_a_plugin_for_other_hooks(listed, said):
    names, problems = listed
    assert ("drafter", "old") not in names
    cause = problems["old-kit"]["cause"]
    assert "built for version 7 of the hooks and this twigkit has version" in cause
    assert "install a matching version of old-kit" in cause
    assert "Besides, plug-in 'old_kit' of old-kit 1.0 (old_kit) was left out" in said["old"]


def test_a_spec_that_names_what_is_not_installed(said):
    assert "unknown drafter 'othr' (did you mean 'other'?)" in said["othr"]
    assert "choose one of these or install a package that brings it" in said["othr"]
    assert "Besides, plug-in 'broken_kit' of broken-kit 1.0" in said["othr"]


def test_an_adapter_that_is_asked_for_what_it_does_not_declare(troubled):
    done = troubled.run("python", "-c", ASK)
    assert done.returncode == 0, done.stderr
    image, batch, pruning, answer = done.stdout.splitlines()
    for said, capability in ((image, "image"), (batch, "batch"), (pruning, "pruning")):
        assert "the adapter 'modest' of modest-kit 1.0 (modest_kit)" in said
        assert f"does not declare {capability!r}" in said
    assert "give one prompt at a time" in batch
    assert "leave budget out" in pruning
    assert answer == "the base's own answer"
