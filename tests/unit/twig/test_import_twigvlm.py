"""Published checkpoints come in whole, and produce the published tokens."""

import itertools
import json
import shutil
import tracemalloc
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.support.tiny import tiny_llava
from twigkit import CheckpointError, SpecError, TwigModel, TwigSpec
from twigkit.cli.main import main
from twigkit.heads.medusa import MedusaHead, MedusaHeadSpec
from twigkit.plugins.discovery import default_registry
from twigkit.strategies.auto import Bandit
from twigkit.twig.import_twigvlm import import_reference
from twigkit.twig.weight_files import WeightFiles

DATA = Path(__file__).parents[2] / "data" / "reference-vectors"
BASE, PUBLISHED = DATA / "base", DATA / "reference_twig"
ABOUT = json.loads((DATA / "cases.json").read_text())
PIXELS = load_file(DATA / "inputs.safetensors")
SHAPE = ["--exit-layer", str(ABOUT["exit_layer"]), "--depth", str(ABOUT["depth"])]
VECTORS = [(case, budget) for case in ABOUT["cases"] for budget in case["expected"]]


def import_to(out, checkpoint=PUBLISHED, *more):
    words = ["import-reference", "--base", BASE, "--checkpoint", checkpoint, *SHAPE, "--out", out]
    return main([str(word) for word in [*words, *more]])


@pytest.fixture(scope="module")
def twig(tmp_path_factory):
    """The published twig, imported by the command line."""
    folder = tmp_path_factory.mktemp("imported") / "twig"
    assert import_to(folder) == 0
    return folder


@pytest.fixture(scope="module")
def model(twig):
    return TwigModel.from_pretrained(BASE, twig=twig, dtype="float32")


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the published checkpoint, to be changed."""
    return shutil.copytree(PUBLISHED, tmp_path / "checkpoint")


def change(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def generate(model, case, budget, drafter, **settings):
    return model.generate(
        input_ids=torch.tensor([case["input_ids"]]),
        pixel_values=PIXELS[case["pixel_values"]],
        max_new_tokens=32,
        eos_token_id=None,
        budget=None if budget == "none" else int(budget),
        wipe_layer=ABOUT["wipe_layer"],
        drafter=drafter,
        return_dict_in_generate=True,
        **settings,
    )


def test_there_are_vectors_at_four_budgets():
    assert {budget for _, budget in VECTORS} == {"none", "24", "16", "12"}
    assert len(VECTORS) == 4 * len(ABOUT["cases"]) >= 12
    assert all(len(e["tokens"]) == 32 for c in ABOUT["cases"] for e in c["expected"].values())


@pytest.fixture(scope="module")
def armed(twig):
    """The published twig with heads that look further ahead, of which it has none."""
    model = TwigModel.from_pretrained(BASE, twig=twig, dtype="float32")
    model.twig.heads["medusa"] = MedusaHead.grow(MedusaHeadSpec(), model.stack)
    return model


@pytest.fixture
def turns(monkeypatch):
    """The controller takes all its ways in turn, whatever the clock says."""
    ways = itertools.cycle((1, 0, 2, 3))
    monkeypatch.setattr(Bandit, "choose", lambda self: next(ways))


DRAFTERS = [e.name for e in default_registry().entries("drafter") if e.distribution == "twigkit"]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize(
    ("case", "budget"), VECTORS, ids=[f"{case['case']}-{budget}" for case, budget in VECTORS]
)
def test_every_vector_comes_out_token_for_token(armed, turns, case, budget, drafter):
    armed.memories.clear()  # a twig that never paid would not be used again
    output = generate(armed, case, budget, drafter)
    expected = case["expected"][budget]
    assert output.sequences[0, len(case["input_ids"]) :].tolist() == expected["tokens"]
    kept = output.stats.kept_tokens
    wanted = {ABOUT["exit_layer"]: [expected["keep_count"]], ABOUT["wipe_layer"]: [0]}
    assert kept == ({} if budget == "none" else wanted)
    assert output.stats.new_tokens == [32]
    assert (output.stats.drafted_tokens > 0) == (drafter != "plain")


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("budget", ["none", "16"])
def test_every_vector_comes_out_of_a_batch(armed, turns, budget, drafter):
    rows = [torch.tensor(case["input_ids"]) for case in ABOUT["cases"]]
    longest = max(map(len, rows))
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long()
    output = armed.generate(
        input_ids=torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows]),
        attention_mask=mask,
        pixel_values=torch.cat([PIXELS[case["pixel_values"]] for case in ABOUT["cases"]]),
        max_new_tokens=32,
        eos_token_id=None,
        budget=None if budget == "none" else int(budget),
        wipe_layer=ABOUT["wipe_layer"],
        drafter=drafter,
    )
    wanted = [case["expected"][budget]["tokens"] for case in ABOUT["cases"]]
    assert output[:, longest:].tolist() == wanted


def test_the_imported_weights_are_the_published_ones(model):
    published = load_file(PUBLISHED / "model.safetensors")
    own = model.twig.state_dict()
    assert len(own) == len(published)
    assert torch.equal(own["heads.lm.linear.weight"], published["lm_head.weight"].float())
    assert torch.equal(own["norm.weight"], published["model.norm.weight"].float())
    name = "self_attn.q_proj.weight"
    assert torch.equal(own[f"layers.2.{name}"], published[f"model.layers.2.{name}"].float())


def test_a_checkpoint_in_several_files_is_the_same(twig, checkpoint, tmp_path):
    state = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: state[name] for name in members}, checkpoint / file)
    index = {"weight_map": {n: file for file, members in parts.items() for n in members}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert import_to(tmp_path / "twig", checkpoint) == 0
    both = [load_file(folder / "model.safetensors") for folder in (twig, tmp_path / "twig")]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    (checkpoint / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-2\.safetensors"):
        WeightFiles(checkpoint)


def test_rows_that_a_shorter_head_lacks_are_never_drafted(checkpoint, tmp_path, capsys):
    """As with the published head of 32000 rows on the Hugging Face base of 32064."""
    rows = 150

    def shorten(state):
        state["lm_head.weight"] = state["lm_head.weight"][:rows].clone()

    change(checkpoint, shorten)
    assert import_to(tmp_path / "twig", checkpoint) == 0
    assert "150 of the base's 160 rows" in capsys.readouterr().out
    model = TwigModel.from_pretrained(BASE, twig=tmp_path / "twig", dtype="float32")
    assert model.twig.spec.heads["lm"].rows == rows
    head = model.twig.head("lm")
    logits = head(torch.randn(1, 3, 64))
    assert logits.shape[-1] == 160
    assert bool((logits[..., rows:] == float("-inf")).all())
    assert bool(logits[..., :rows].isfinite().all())
    # A head that would choose the last rows, were they there: what it drafts stays below them,
    # and tokens of the target that it cannot draft come out nevertheless.
    case = next(c for c in ABOUT["cases"] if max(c["expected"]["none"]["tokens"]) >= rows)
    drafted = []
    head.register_forward_hook(lambda *args: drafted.append(int(args[2].argmax(-1).max())))
    output = generate(model, case, "none", {"kind": "ssd", "threshold": 0.0})
    assert (
        output.sequences[0, len(case["input_ids"]) :].tolist()
        == (case["expected"]["none"]["tokens"])
    )
    assert drafted
    assert max(drafted) < rows


def remove(name):
    return lambda state: state.pop(name)


def add(name, *shape):
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (remove("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight is missi"),
        (remove("lm_head.weight"), "lm_head.weight is missing"),
        (remove("model.norm.weight"), "model.norm.weight is missing"),
        (add("model.layers.0.extra.weight", 2), "model.layers.0.extra.weight is unknown"),
        (add("visual.patch.weight", 2), "visual.patch.weight is unknown"),
        (add("model.norm.weight", 3), r"model.norm.weight has shape \[3\], expected \[64\]"),
        (add("lm_head.weight", 170, 64), r"lm_head.weight has shape \[170, 64\]"),
        (add("model.layers.3.x", 1), "holds the twig layers 0, 1, 2, 3, but a depth of 3"),
    ],
)
def test_weights_that_do_not_fit_are_named(model, checkpoint, edit, told):
    change(checkpoint, edit)
    with pytest.raises(CheckpointError, match=told):
        import_reference(checkpoint, model.stack, base="base", exit_layer=2, depth=3)


# -- the gates of TwigVLM++ ------------------------------------------------------------------------

LEAF = "leaf_attention_module."


def gates(query=f"{LEAF}q_gate.weight", key=f"{LEAF}k_gate.weight", *, groups=None):
    """An edit that adds gates; the base has as many key heads as query heads unless told."""
    random = torch.Generator().manual_seed(3)

    def edit(state):
        width = state["model.layers.0.self_attn.q_proj.weight"].shape[0]
        state[query] = torch.randn(width, 64, generator=random).half()
        state[key] = torch.randn(groups or width, 64, generator=random).half()

    return edit


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (f"{LEAF}q_gate.weight", f"{LEAF}k_gate.weight"),
        (f"model.{LEAF}q_gate.weight", f"model.{LEAF}k_gate.weight"),
        (f"module.{LEAF}q_gate.weight", f"module.{LEAF}k_gate.weight"),
        ("leaf_proj.q_proj.weight", "leaf_proj.k_proj.weight"),
        ("leaf_proj_q.weight", "leaf_proj_k.weight"),
    ],
)
def test_gates_become_the_pruning_head(model, checkpoint, tmp_path, capsys, query, key):
    change(checkpoint, gates(query, key))
    published = {n: w.float() for n, w in load_file(checkpoint / "model.safetensors").items()}
    assert import_to(tmp_path / "twig", checkpoint) == 0
    assert "'pruning'" in capsys.readouterr().out
    twig = TwigModel.from_pretrained(BASE, twig=tmp_path / "twig", dtype="float32").twig
    assert twig.spec.heads["pruning"].offset == 0.0
    assert twig.spec.heads["pruning"].rotary
    assert torch.equal(twig.head("pruning").query.weight, published[query])
    assert torch.equal(twig.head("pruning").key.weight, published[key])
    own, grown = twig.state_dict(), "self_attn.q_proj.weight"
    assert torch.equal(own[f"layers.1.{grown}"], published[f"model.layers.1.{grown}"])
    hidden = torch.randn(1, 2, 64)
    logits = hidden @ torch.cat((published[query], published[key])).T
    assert torch.allclose(twig.head("pruning")(hidden), logits.relu() * logits.sigmoid(), atol=1e-5)


def test_an_imported_pruning_head_prunes(checkpoint, tmp_path):
    change(checkpoint, gates())
    assert import_to(tmp_path / "twig", checkpoint) == 0
    model = TwigModel.from_pretrained(BASE, twig=tmp_path / "twig", dtype="float32")
    case = ABOUT["cases"][0]
    output = generate(model, case, "16", "ssd", pruner="p-head")
    assert output.stats.kept_tokens[ABOUT["exit_layer"]] == [case["expected"]["16"]["keep_count"]]
    plain = generate(model, case, "16", "plain", pruner="p-head")
    assert torch.equal(output.sequences, plain.sequences)


@pytest.mark.parametrize(
    ("edit", "listed"),
    [
        (gates(f"{LEAF}first.weight", f"{LEAF}second.weight"), ["first.weight", "second.weight"]),
        (gates("leaf_proj1.weight", "leaf_proj2.weight"), ["leaf_proj1.weight", "leaf_proj2.weig"]),
        (gates(f"{LEAF}q_proj.weight", f"{LEAF}q_gate.weight"), ["q_proj.weight", "q_gate.weight"]),
        (gates(groups=7), [r"q_gate.weight [64, 64]", r"k_gate.weight [7, 64]"]),
        (add(f"{LEAF}q_gate.weight", 64, 64), ["q_gate.weight [64, 64]"]),
        (
            lambda state: (gates()(state), add(f"{LEAF}q_gate.bias", 64)(state)),
            ["q_gate.bias [64]", "k_gate.weight [64, 64]"],
        ),
        (
            lambda state: (
                gates()(state),
                gates(f"model.{LEAF}q", f"model.{LEAF}k")(state),
            ),
            ["model.leaf_attention_module.q [64, 64]"],
        ),
    ],
    ids=["unnamed", "numbered", "twice", "another shape", "one alone", "a bias", "in two places"],
)
def test_gates_that_leave_a_doubt_are_refused_by_name(model, checkpoint, edit, listed):
    change(checkpoint, edit)
    with pytest.raises(CheckpointError, match="cannot tell the gates") as error:
        import_reference(checkpoint, model.stack, base="base", exit_layer=2, depth=3)
    assert all(name in str(error.value) for name in listed)


def test_gates_of_different_shapes_need_no_names(tmp_path):
    """With fewer key heads than query heads the shapes say which is which."""
    base = TwigModel(tiny_llava(8))
    twig = base.grow(TwigSpec(base="tiny", heads={"lm": {"kind": "lm"}}))
    state = {
        name.replace("heads.lm.linear.", "lm_head."): weight
        for name, weight in twig.state_dict().items()
    }
    state = {name if name.startswith("lm") else f"model.{name}": w for name, w in state.items()}
    state[f"{LEAF}one.weight"], state[f"{LEAF}two.weight"] = torch.ones(32, 64), torch.zeros(64, 64)
    save_file({n: w.clone() for n, w in state.items()}, tmp_path / "model.safetensors")
    found = import_reference(tmp_path, base.stack, base="tiny", exit_layer=2, depth=3)
    assert bool((found.head("pruning").key.weight == 1.0).all())
    assert bool((found.head("pruning").query.weight == 0.0).all())


def test_a_shape_outside_the_base_is_refused(model):
    with pytest.raises(SpecError, match="the base has 16 layers"):
        import_reference(PUBLISHED, model.stack, base="base", exit_layer=14, depth=3)


def test_a_failed_import_leaves_nothing_behind(checkpoint, tmp_path, capsys):
    change(checkpoint, remove("lm_head.weight"))
    out = tmp_path / "deep" / "twig"
    assert import_to(out, checkpoint) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert not out.parent.exists()


# -- copies of the base, and the names of inference ------------------------------------------------


def base_copies(dtype=torch.float16):
    """What the training scripts of TwigVLM++ leave in a checkpoint: the frozen base."""
    base = load_file(BASE / "model.safetensors")
    copies = {
        "bkb_lm_head.weight": base["language_model.lm_head.weight"][:150]
    }  # rows as published: fewer
    for name, weight in base.items():
        place = name.removeprefix("language_model.model.")
        if place.startswith(("layers.", "norm.")) and place != name:
            copies[f"model.bkb_{place}"] = weight
    return {name: weight.clone().to(dtype) for name, weight in copies.items()}


def as_trained(state, copies):
    """A ++ checkpoint as the training scripts save it."""
    gates()(state)
    state.update(copies)


def as_loaded(state, copies):
    """A ++ checkpoint with the names of inference, where the base has the plain names."""
    gates(f"model.{LEAF}q_gate.weight", f"model.{LEAF}k_gate.weight")(state)
    twig = {"lm_head.": "model.twig_head.", "model.norm.": "model.twig_norm."}
    twig["model.layers."] = "model.twig_layers."
    for name in list(state):
        for old, new in twig.items():
            if name.startswith(old):
                state[new + name.removeprefix(old)] = state.pop(name)
    state.update({name.replace("bkb_", ""): weight for name, weight in copies.items()})


def split(folder, parts=3):
    """Save a checkpoint in several files, as one of over 5 GB is."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, where = sorted(state), {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        save_file({name: state[name] for name in names[part::parts]}, folder / file)
        where.update(dict.fromkeys(names[part::parts], file))
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", [as_trained, as_loaded])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_with_copies_of_the_base_is_the_same_twig(
    model, checkpoint, layout, dtype, prefix
):
    plain = shutil.copytree(checkpoint, checkpoint.with_name("plain"))
    change(plain, gates())
    copies = base_copies(dtype)
    assert len(copies) > 16 * 9

    def edit(state):
        layout(state, copies)
        for name in list(state):
            state[prefix + name] = state.pop(name)

    change(checkpoint, edit)
    split(checkpoint)
    found = import_reference(checkpoint, model.stack, base="base").state_dict()
    wanted = import_reference(plain, model.stack, base="base", exit_layer=2, depth=3).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@torch.no_grad()
@pytest.mark.parametrize("layout", [as_trained, as_loaded])
@pytest.mark.parametrize(
    "name",
    ["bkb_lm_head.weight", "model.bkb_norm.weight", "model.bkb_layers.15.mlp.down_proj.weight"],
)
@pytest.mark.parametrize("how", ["one value", "shape"])
def test_a_copy_that_differs_from_the_base_is_named(model, checkpoint, layout, name, how):
    copies = base_copies()
    if how == "shape":
        copies[name] = copies[name][..., :-1].clone()
    else:
        copies[name].view(-1)[7] += 0.5
    change(checkpoint, lambda state: layout(state, copies))
    told = name if layout is as_trained else name.replace("bkb_", "")
    with pytest.raises(CheckpointError, match=f"^{told} in .* differs from the base at hand"):
        import_reference(checkpoint, model.stack, base="base")


@torch.no_grad()
def test_in_the_same_precision_copies_equal_the_base_in_every_bit(checkpoint):
    stack = TwigModel.from_pretrained(BASE).stack
    copies = base_copies()
    change(checkpoint, lambda state: as_trained(state, copies))
    assert import_reference(checkpoint, stack, base="base").depth == 3
    name = "model.bkb_layers.0.self_attn.q_proj.weight"
    copies[name].view(torch.int16)[5, 5] ^= 1
    change(checkpoint, lambda state: as_trained(state, copies))
    with pytest.raises(CheckpointError, match=name):
        import_reference(checkpoint, stack, base="base")


def test_a_copy_of_a_layer_that_the_base_lacks_is_unknown(model, checkpoint):
    change(checkpoint, add("model.bkb_layers.16.mlp.up_proj.weight", 128, 64))
    with pytest.raises(CheckpointError, match=r"bkb_layers\.16\.mlp\.up_proj\.weight is unknown"):
        import_reference(checkpoint, model.stack, base="base")


def test_one_tensor_is_in_memory_at_a_time(model, checkpoint, monkeypatch):
    change(checkpoint, lambda state: as_trained(state, base_copies()))
    split(checkpoint)
    read, held, most = [], [], []
    original = WeightFiles.read

    def counted(self, name):
        most.append(sum(tensor() is not None for tensor in held))
        tensor = original(self, name)
        read.append(name)
        held.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(WeightFiles, "read", counted)
    import_reference(checkpoint, model.stack, base="base")
    assert sorted(read) == sorted(WeightFiles(checkpoint).entries)
    assert max(most) == 0


# -- where the twig grows --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TwigVLM-llava-v1.5-7b-K2-T3", "K2T3", "twig_K2_T3-final"])
def test_exit_layer_and_depth_stand_in_the_folders_name(tmp_path, capsys, name):
    folder = shutil.copytree(PUBLISHED, tmp_path / name)
    words = ["import-reference", "--base", str(BASE), "--checkpoint", str(folder)]
    assert main([*words, "--out", str(tmp_path / "twig")]) == 0
    assert "a twig of 3 layers on layer 2" in capsys.readouterr().out
    for option, value in (("--exit-layer", "4"), ("--depth", "2")):
        assert main([*words, option, value, "--out", str(tmp_path / "other")]) == 2
        said = capsys.readouterr().err
        assert "T3" in said
        assert f"{option} is {value}" in said
    assert main([*words, *SHAPE, "--out", str(tmp_path / "same")]) == 0


def test_a_name_that_the_checkpoint_contradicts(model, tmp_path):
    folder = shutil.copytree(PUBLISHED, tmp_path / "TwigVLM-K4-T2")
    with pytest.raises(CheckpointError, match="twig layers 0, 1, 2, but a depth of 2"):
        import_reference(folder, model.stack, base="base")
    folder = folder.rename(tmp_path / "TwigVLM-K4-T3")
    assert import_reference(folder, model.stack, base="base").exit_layer == 4
    folder = folder.rename(tmp_path / "TwigVLM-SK4-T3x")
    assert import_reference(folder, model.stack, base="base").exit_layer == 2


def test_a_depth_that_nothing_has_costs_nothing(model, checkpoint):
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="but a depth of 1000000000 was asked for"):
        import_reference(checkpoint, model.stack, base="base", depth=1000000000)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_missing_layers_are_noticed_without_a_depth(model, checkpoint):
    def edit(state):
        for name in [name for name in state if name.startswith("model.layers.1.")]:
            del state[name]

    change(checkpoint, edit)
    with pytest.raises(CheckpointError, match="twig layers 0, 2, but none in between may lack"):
        import_reference(checkpoint, model.stack, base="base")
    with pytest.raises(CheckpointError, match="twig layers 0, 2, but a depth of 3 was asked for"):
        import_reference(checkpoint, model.stack, base="base", depth=3)


def test_an_imported_twig_replaces_another_only_by_force(tmp_path, capsys):
    assert import_to(tmp_path / "twig") == 0
    (tmp_path / "twig" / "notes.txt").write_text("kept")
    capsys.readouterr()
    assert import_to(tmp_path / "twig") == 2
    assert "--force" in capsys.readouterr().err
    assert import_to(tmp_path / "twig", PUBLISHED, "--force") == 0
    assert (tmp_path / "twig" / "notes.txt").read_text() == "kept"
