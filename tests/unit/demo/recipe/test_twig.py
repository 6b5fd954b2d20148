"""The twig's stages are runs of ``twigkit train``, each on the twig of the one before."""

from __future__ import annotations

from pathlib import Path

from twigkit.demo.recipe.twig import AHEAD, DEPTH, EXIT, STAGES, spec_of
from twigkit.specs.run import TwigSpec
from twigkit.training.spec import TrainingSpec


def test_each_stage_goes_on_from_the_one_before() -> None:
    specs = {name: spec_of(name, Path("base"), Path("work")) for name in STAGES}
    first, *later = specs.values()
    assert isinstance(first.twig, TwigSpec)
    assert (first.twig.exit_layer, first.twig.depth) == (EXIT, DEPTH)
    assert first.twig.heads["medusa"].offsets == AHEAD
    assert [spec.twig for spec in later] == [spec.out for spec in [*specs.values()][:-1]]
    assert all(spec.base == "base" for spec in specs.values())


def test_what_is_given_replaces_a_stages_own() -> None:
    spec = spec_of("distil", Path("base"), Path("work"), steps=3)
    assert spec.steps == 3
    assert spec.batch == STAGES["distil"]["batch"]
    assert TrainingSpec.from_yaml(spec.to_yaml()) == spec, "twigkit train runs the same from a file"
