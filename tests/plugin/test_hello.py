"""The example package, installed beside twigkit: discovered, listed, composed, run, and checked."""

import json

from .conftest import HELLO

KINDS = {"adapter", "drafter", "head", "objective", "pruner"}


def test_it_is_discovered_and_listed(environment):
    done = environment.run("twigkit", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    mine = [entry for entry in found["plugins"] if entry["distribution"] == "twigkit-hello"]
    assert {(entry["kind"], entry["name"]) for entry in mine} == {(k, "hello") for k in KINDS}
    assert all(str(environment.folder) in entry["location"] for entry in found["plugins"])
    assert any(entry["distribution"] == "twigkit" for entry in found["plugins"])


def test_its_command_is_one_of_twigkits(environment):
    said = environment.run("twigkit", "--help").stdout
    assert "hello" in said
    assert "From twigkit-hello 0.1.0." in said


def test_it_is_composed_from_yaml_with_built_in_parts_and_runs(environment, tmp_path):
    done = environment.run("twigkit", "hello", "--out", tmp_path / "base")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run.yaml"
    text = (HELLO / "run.yaml").read_text().replace("base: base", f"base: {tmp_path / 'base'}")
    run.write_text(text.replace("depth: 2", "depth: 2\n  init: random"))
    code = """
import sys, torch
from twigkit import RunSpec, TwigModel
torch.manual_seed(0)
run = RunSpec.from_file(sys.argv[1])
assert (run.twig.heads["lm"].kind, run.generation.pruner.kind) == ("hello", "hello")
model = TwigModel.from_pretrained(run.twig.base, dtype=run.runtime.dtype)
model.grow(run.twig)
row = [1, 5, 6] + [90] * 8 + [7, 8]
inputs = {"input_ids": torch.tensor([row]), "pixel_values": torch.randn(8, 12)}
def answer(pruner, drafter):
    return model.generate(**inputs, budget=0.5, pruner=pruner, drafter=drafter, max_new_tokens=8)
mine, built_in = run.generation, {"kind": "ssd", "threshold": 0.0}
assert torch.equal(answer(mine.pruner, mine.drafter), answer(mine.pruner, built_in))
assert torch.equal(answer("ttp", mine.drafter), answer("ttp", "plain"))
print("composed")
"""
    done = environment.run("python", "-c", code, run)
    assert done.stdout == "composed\n", done.stderr


def test_its_own_tests_pass_there(environment):
    said = environment.pytest(environment.sources / "twigkit-hello")
    assert " passed" in said
