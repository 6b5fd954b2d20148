"""What goes wrong with installed packages: who, why and the way out; everything else works."""

import json

import pytest

RIVAL = """
from twigkit import DrafterSpec, hookimpl
class Rival: pass
class Other: pass
@hookimpl
def register_drafters(register):
    register("hello", Rival)
    register("other", Other)
"""
RUN = "twig: {base: b}\ngeneration: {drafter: %s}\n"


def listed(environment):
    """Names by kind that are there, and the problems."""
    done = environment.run("twigkit", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {(e["kind"], e["name"]) for e in found["plugins"]}, found["problems"]


def check(environment, folder, drafter):
    """Validate a run that names a drafter; return the status and what was said."""
    file = folder / "run.yaml"
    file.write_text(RUN % drafter)
    done = environment.run("twigkit", "spec", "check", file)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def beside(environment, tmp_path, write_package):
    """The environment with one more package of one module."""

    def make(name, source):
        module = name.replace("-", "_")
        folder = write_package(tmp_path, name, {module: source})
        return environment.with_packages(tmp_path / "site", folder)

    return make


def test_two_distributions_that_claim_a_name(beside, tmp_path):
    both = beside("rival-kit", RIVAL)
    names, (problem,) = listed(both)
    assert ("drafter", "hello") not in names
    assert names >= {("drafter", "other"), ("drafter", "ssd"), ("pruner", "hello")}
    for said in (problem["cause"], check(both, tmp_path, "hello")[1]):
        assert "two plug-ins register the drafter 'hello'" in said
        assert "rival-kit 1.0 (rival_kit)" in said
        assert "twigkit-hello 0.1.0 (twigkit_hello.drafter)" in said
        assert "uninstall one of them or rename its registration" in said
    assert check(both, tmp_path, "hello")[0] == 2
    assert check(both, tmp_path, "ssd")[0] == 0


def test_a_plugin_that_fails_to_import(beside, tmp_path):
    broken = beside("broken-kit", "import a_module_that_nobody_has\n")
    names, (problem,) = listed(broken)
    assert ("drafter", "hello") in names
    assert (problem["distribution"], problem["version"]) == ("broken-kit", "1.0")
    assert problem["cause"] == "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    status, said = check(broken, tmp_path, "wanted")
    assert status == 2
    assert "unknown drafter 'wanted'" in said
    assert "Left out: plug-in 'broken_kit' of broken-kit 1.0" in said
    assert check(broken, tmp_path, "hello")[0] == 0


def test_a_plugin_for_other_hooks(beside):
    old = beside("old-kit", "TWIGKIT_HOOKS = 7\n" + RIVAL)
    names, (problem,) = listed(old)
    assert ("drafter", "hello") in names
    assert ("drafter", "other") not in names
    assert problem["distribution"] == "old-kit"
    assert "built for version 7 of the hooks and this twigkit has version" in problem["cause"]
    assert "install a matching version of old-kit" in problem["cause"]


def test_a_spec_that_names_what_is_not_installed(environment, tmp_path):
    status, said = check(environment, tmp_path, "helo")
    assert status == 2
    assert "unknown drafter 'helo' (did you mean 'hello'?)" in said
    assert "choose one of these or install a package that brings it" in said


ASK = """
import torch
from twigkit import CapabilityError, TwigModel
from modest_kit import tiny_model
model = TwigModel(tiny_model())
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
print(ask(1, 0).shape[1])
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


def test_an_adapter_that_is_asked_for_what_it_does_not_declare(beside):
    done = beside("modest-kit", MODEST).run("python", "-c", ASK)
    assert done.returncode == 0, done.stderr
    image, batch, pruning, length = done.stdout.splitlines()
    for said, capability in ((image, "image"), (batch, "batch"), (pruning, "pruning")):
        assert "the adapter 'modest' of modest-kit 1.0 (modest_kit)" in said
        assert f"does not declare {capability!r}" in said
    assert "give one prompt at a time" in batch
    assert "leave budget out" in pruning
    assert length == "6"
