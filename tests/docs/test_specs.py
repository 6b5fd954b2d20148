"""The files in docs/specs fit the installed plug-ins and the shapes of their bases."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from twigkit.cli.train import read
from twigkit.families.sizing import all_presets
from twigkit.strategies.distillation import DistillationSpec
from twigkit.training.memory_estimate import sketch
from twigkit.training.setup import make_objective
from twigkit.training.spec import TrainingSpec

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "specs").glob("*.yaml"))
BASES = {
    "llava-hf/llava-1.5-7b-hf",
    "llava-hf/llava-1.5-13b-hf",
    "llava-hf/llava-v1.6-vicuna-7b-hf",
    "LanguageBind/Video-LLaVA-7B-hf",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "demo",
}


def name(path):
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_fits_the_plugins_and_travels(path):
    spec = TrainingSpec.from_file(path)
    assert TrainingSpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_fits_the_shape_of_its_base(path):
    spec = read(str(path))
    if isinstance(spec.twig, str):  # of a stage before; its file has the same base and folder
        (before,) = [s for s in map(TrainingSpec.from_file, FILES) if s.out == spec.twig]
        assert TrainingSpec.from_file(path).base_source == before.base_source
        spec = spec.replace(twig=before.twig)
    model, _ = sketch(spec)
    objective = make_objective(spec.objective, model)
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    if isinstance(spec.objective, DistillationSpec):
        assert objective.weights["attention"] == 1.0
        assert 0.8 * sum(p.numel() for p in model.twig.parameters()) < trained
    else:
        assert trained == sum(p.numel() for p in model.twig.head("pruning").parameters())
    visual = model.adapter.visual_tokens(model.base.config.to_dict())
    assert visual.count < spec.data.longest


def test_there_is_one_for_every_base_that_the_docs_promise():
    specs = [TrainingSpec.from_file(path) for path in FILES]
    found = {spec.base_source for spec in specs}
    assert found == BASES
    assert found - {"demo"} <= {preset.base for preset, _ in all_presets().values()}
    assert {spec.objective.kind for spec in specs} == {"distillation", "reinforcement"}
    text = (ROOT / "docs" / "training.md").read_text()
    for path in FILES:
        assert f"(specs/{path.name})" in text


def test_the_paper_s_settings_are_the_paper_s():
    one = TrainingSpec.from_file(ROOT / "docs" / "specs" / "llava-1.5-7b-stage1.yaml")
    assert (one.batch, one.epochs, one.optimiser.rate) == (128, 1.0, 1e-4)
    assert (one.twig.exit_layer, one.twig.depth, one.objective) == (2, 3, DistillationSpec())


SECOND = [path for path in FILES if "stage2" in path.name and "demo" not in path.name]


@pytest.mark.parametrize("path", SECOND, ids=name)
def test_stage_2_has_the_settings_of_the_paper_s_table_6(path):
    spec = TrainingSpec.from_file(path)
    assert (spec.data.samples, spec.batch, spec.epochs, spec.steps) == (50_000, 128, 1.0, None)
    assert (spec.optimiser.rate, spec.objective.group, spec.objective.beta) == (2e-5, 32, 8.0)
    assert (spec.objective.anchor, spec.objective.budgets[0]) == (1.0, 64 / 576)
    (before,) = [s for s in map(TrainingSpec.from_file, FILES) if s.out == spec.twig]
    model, _ = sketch(before)
    assert make_objective(spec.objective, model).wipe == 24  # of 28, 32 and 40 layers


def test_stage_2_is_there_for_the_bases_that_the_paper_trains():
    bases = {TrainingSpec.from_file(path).base_source for path in SECOND}
    others = {"LanguageBind/Video-LLaVA-7B-hf", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "demo"}
    assert bases == BASES - others


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "accelerate").glob("*.yaml")), ids=name)
def test_accelerate_reads_its_configurations(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"
    kind = str(config.distributed_type.value)
    assert kind in ("MULTI_GPU", "FSDP")
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
    assert f"(accelerate/{path.name})" in (ROOT / "docs" / "training.md").read_text()
