"""Methods side by side: the arithmetic of the tables, and a drafter that breaks its promise."""

import dataclasses
import json

import pytest
import torch

from tests.support.broken import plant
from tests.support.checkpoints import tiny_processor
from twigkit import TwigModel
from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.bench import suite
from twigkit.bench.answering import answer
from twigkit.bench.batches import BatchRow, compare_batches, stack_prompts
from twigkit.bench.compare import Difference, compare, first_difference, rounding
from twigkit.bench.conditions import conditions
from twigkit.bench.control import Answered, compare_control, judge, ratio
from twigkit.bench.memory import measure_memory, token_bytes, visual_per_layer
from twigkit.bench.methods import Method, standard_methods
from twigkit.bench.table import HEADER, comparison_cells, markdown_table, size, text_table
from twigkit.bench.training import TrainingCost
from twigkit.bench.trees import graph_seconds, tree_seconds
from twigkit.cli.main import main
from twigkit.demo.unseen import unseen
from twigkit.io.processors import prepare
from twigkit.io.timing import PARTS
from twigkit.speculative.candidates import Candidates


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


@pytest.fixture(scope="module")
def prompts():
    return [
        prepare(tiny_processor(), s.description.question, [s.picture])
        for s in unseen(2, seed=1, short=0)
    ]


@pytest.fixture(scope="module")
def comparison(model, prompts):
    return compare(model, prompts, standard_methods(8), max_new_tokens=9, rounds=2)


def test_every_method_repeats_its_target(comparison):
    assert comparison.lossless
    names = [row.method.name for row in comparison.rows]
    assert names == ["Hugging Face generate", "twigkit plain", "TTP", "SSD", "TTP + SSD"]
    assert [row.same for row in comparison.rows] == [
        "is a target", "yes", "is a target", "yes", "yes",
    ]  # fmt: skip


def test_a_row_holds_what_its_answers_say(comparison):
    for row in comparison.rows:
        answers = comparison.answers[row.method.name]
        assert row.tokens == sum(len(given.tokens) for given in answers)
        assert row.prefill_seconds > 0
        assert row.decode_seconds > 0
        whole = 2 * (row.prefill_seconds + row.decode_seconds)
        assert row.tokens_per_second == pytest.approx(row.tokens / whole)
        decode = (row.tokens - 2) / (2 * row.decode_seconds)
        assert row.decode_tokens_per_second == pytest.approx(decode)
    plain, both = comparison.row("twigkit plain"), comparison.row("TTP + SSD")
    assert plain.accepted_length == 1
    assert comparison.row("Hugging Face generate").accepted_length is None
    assert plain.draft_kv_bytes == 0 < both.draft_kv_bytes
    assert both.kv_bytes < plain.kv_bytes
    speed = comparison.speed("TTP", "SSD")
    assert speed == pytest.approx(
        comparison.row("TTP").tokens_per_second / comparison.row("SSD").tokens_per_second
    )


def test_both_engines_measure_the_same_cache(comparison, model):
    """Hugging Face's cache and twigkit's hold the same tokens when nothing is pruned."""
    hugging_face = comparison.row("Hugging Face generate")
    assert hugging_face.kv_bytes == comparison.row("twigkit plain").kv_bytes
    (each,) = set(token_bytes(model))
    assert each == 2 * 2 * 16 * 4  # keys and values, 2 groups of 16 numbers of 4 bytes
    assert 2 * hugging_face.kv_bytes % (each * model.stack.depth) == 0  # the mean of two prompts


def test_a_static_cache_says_the_same(model, prompts):
    method = Method("static", engine="hugging-face", cache="static")
    dynamic = answer(model, prompts[0], Method("d", engine="hugging-face"), max_new_tokens=5)
    static = answer(model, prompts[0], method, max_new_tokens=5)
    assert static.tokens == dynamic.tokens
    assert static.kv_bytes == dynamic.kv_bytes
    assert static.kv_bytes_allocated >= static.kv_bytes


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 4}])
def test_the_drafts_of_hugging_face_are_measured(options):
    """Its early exit knows language models only."""
    model = TwigModel(tiny_causal_lm("llama").model)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]])}
    methods = [Method("hf", engine="hugging-face")]
    methods.append(Method("drafts", engine="hugging-face", target="hf", options=options))
    passes = []
    hook = model.base.model.layers[-1].register_forward_pre_hook(
        lambda layer, states: passes.append(states[0].shape[1])
    )
    found = compare(model, [inputs], methods, max_new_tokens=9)
    hook.remove()
    assert found.row("drafts").same == "yes"
    assert any(1 < tokens < 6 for tokens in passes)  # verified together; the prompt has 6


def test_a_broken_drafter_is_seen(model, prompts, monkeypatch):
    plant(monkeypatch)
    methods = standard_methods(8, drafter="broken")
    found = compare(model, prompts, methods, max_new_tokens=9)
    assert not found.lossless
    assert found.row("twigkit plain").same == "yes"
    assert found.row("SSD").same.startswith("no (prompt 1, token ")
    assert found.row("TTP + SSD").same.startswith("no (prompt ")
    row = found.row("SSD")
    at = row.difference.token
    own, target = (found.answers[name][0].tokens for name in ("SSD", "twigkit plain"))
    assert own[:at] == target[:at]
    assert own[at : at + 1] != target[at : at + 1]


def test_the_first_difference():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], []) is None


def test_visual_tokens_per_layer():
    assert visual_per_layer(16, {}, 4) == [16] * 4
    assert visual_per_layer(16, {2: 5, 3: 0}, 5) == [16, 16, 5, 0, 0]
    assert visual_per_layer(16, {0: 5}, 2) == [5, 5]


@pytest.mark.parametrize("drafter", ["plain", "ssd"])
@pytest.mark.parametrize("budget", [None, 8, 0.5])
def test_the_storages_hold_what_the_arithmetic_says(model, prompts, budget, drafter):
    memory = measure_memory(
        model, prompts[0], "run", budget=budget, drafter=drafter, max_new_tokens=7, slots=61
    )
    assert memory.deviation == 0
    assert memory.average == (16 if budget is None else 8)
    assert memory.bytes_used <= memory.allocated <= memory.allowed
    assert (memory.twig_bytes > 0) == (drafter == "ssd")


def test_a_cache_that_kept_too_much_is_seen():
    memory = suite.Memory("run", 8.0, 1000, 1000, 1030, 1000, 1, 2, 0)
    assert memory.deviation == pytest.approx(0.03)
    memory = dataclasses.replace(memory, bytes_used=1000, prompt_bytes=900)
    assert memory.deviation == pytest.approx(0.1)


@pytest.fixture
def measured(comparison):
    """Decoding, prefill and batches with made-up figures."""
    rates = {suite.DYNAMIC: 10.0, suite.STATIC: 16.0, suite.PLAIN: 20.0, suite.SSD: 26.0,
             suite.TREE: 40.0, suite.TTP: 24.0, suite.BOTH: 32.0}  # fmt: skip
    lengths = {suite.SSD: 4.0, suite.TREE: 5.0}
    seconds = {"draft": 1.0, "verify": 3.0, "propose": 0.5, "accept": 0.25, "host": 0.25}
    row = dataclasses.replace(comparison.rows[0], step_seconds=seconds)
    rows = [
        dataclasses.replace(
            row,
            method=Method(name, target=suite.PLAIN if name in lengths else ""),
            tokens_per_second=rate,
            accepted_length=lengths.get(name),
        )
        for name, rate in rates.items()
    ]
    decoding = dataclasses.replace(comparison, rows=rows)
    times = {suite.UNPRUNED: 0.3, suite.PRUNED: 0.2}
    rows = [
        dataclasses.replace(row, method=Method(name), prefill_seconds=seconds)
        for name, seconds in times.items()
    ]
    batches = [
        BatchRow(Method(name), 4, tokens, 1.0, True)
        for name, tokens in ((suite.PLAIN, 50), (suite.SSD, 65), (suite.TREE, 80))
    ]
    return decoding, dataclasses.replace(comparison, rows=rows), batches


def test_ratios_take_the_better_cache_and_know_their_targets(measured):
    found = {ratio.name: ratio for ratio in suite.ratios(*measured)}
    assert {name: (ratio.value, ratio.verdict) for name, ratio in found.items()} == {
        "twigkit plain / Hugging Face, static cache": (pytest.approx(1.25), "met"),
        "SSD / twigkit plain": (pytest.approx(1.3), "missed"),
        "best drafter (tree SSD) / Hugging Face, static cache": (pytest.approx(2.5), "missed"),
        "best drafter (tree SSD) / twigkit plain": (pytest.approx(2.0), "met"),
        "accepted length, tree SSD / SSD, depth 5": (pytest.approx(1.25), "met"),
        "gain of SSD in batches of 4 / alone": (pytest.approx(1.0), "met"),
        "gain of tree SSD in batches of 4 / alone": (pytest.approx(0.6), "missed"),
        "share of a step outside of model calls, tree SSD": (pytest.approx(0.2), "missed"),
        "TTP / Hugging Face, static cache": (pytest.approx(1.5), "-"),
        "TTP + SSD / Hugging Face, static cache": (pytest.approx(2.0), "-"),
        "prefill, unpruned / pruned to 1/9": (pytest.approx(1.5), "met"),
    }


def test_a_drafter_that_changes_the_answer_is_not_the_best(measured):
    decoding = measured[0]
    tree = decoding.row(suite.TREE)
    wrong = dataclasses.replace(tree, difference=Difference(0, 3))
    rows = [wrong if row is tree else row for row in decoding.rows]
    assert suite.best_drafter(dataclasses.replace(decoding, rows=rows)) == suite.SSD


def test_the_parts_of_a_step_make_up_its_time(model, prompts):
    given = answer(model, prompts[0], Method("SSD", drafter="ssd"), max_new_tokens=9)
    assert set(given.step_seconds) == set(PARTS)
    assert min(given.step_seconds["draft"], given.step_seconds["verify"]) > 0
    whole = sum(given.step_seconds.values())
    assert 0.5 * given.decode_seconds < whole <= given.decode_seconds
    plain = answer(model, prompts[0], Method("plain"), max_new_tokens=9)
    assert plain.step_seconds["draft"] == 0 < plain.step_seconds["verify"]


def test_batches_repeat_what_rows_say_alone(model, prompts):
    methods = [Method("plain"), Method("SSD", drafter="ssd")]
    rows = compare_batches(model, prompts * 2, methods, size=2, max_new_tokens=7, rounds=1)
    assert [row.same for row in rows] == [True, True]
    assert [row.tokens for row in rows] == [28, 28]
    assert all(row.seconds > 0 for row in rows)
    broken = [Method("plain"), Method("pruned", budget=0.5)]
    assert not compare_batches(model, prompts, broken, size=2, max_new_tokens=7, rounds=1)[1].same


def test_the_tree_that_is_timed_is_the_papers(monkeypatch):
    trees, cut = [], Candidates.cut

    def note(table, count):
        kept = cut(table, count)
        trees.append((table.size, table.height, kept.size, int(kept.depth.max())))
        return kept

    monkeypatch.setattr(Candidates, "cut", note)
    assert tree_seconds(torch.device("cpu"), rounds=20) > 0
    assert set(trees) == {(311, 4, 61, 4)}
    assert len(trees) == 21  # one to warm up
    assert graph_seconds(rounds=2) > 0
    assert len(trees) == 22, "a graph is made of one tree, again and again"


def test_the_controller_is_held_against_its_own_choices(model, prompts):
    control = compare_control(model, prompts, max_new_tokens=7, long=7)
    assert (control.prompts, control.long) == (2, 2)
    assert set(control.total) == {"auto", "auto, untrained twig", "plain", *control.fixed}
    assert len(control.fixed) == 3
    assert set(control.worst) == {"auto", "auto, untrained twig", "plain"}
    assert min(control.worst.values()) > 0
    assert len(control.rows) == len(control.total)
    slow = dict.fromkeys(control.cpu_total, 2.0) | {control.fixed[1]: 1.0}
    slow = dataclasses.replace(control, cpu_total=slow)
    assert slow.best_fixed == control.fixed[1]
    assert [bound for _, _, bound in slow.bounds] == [1.03, 1.03, 1.1, 1.1, 1.05]
    assert slow.bounds[-1][1] == 2
    none = dataclasses.replace(slow, long=0)
    assert [bound for _, _, bound in none.bounds] == [1.03, 1.03, 1.05]


def test_long_answers_are_judged_by_medians():
    """One slow run in three is chance."""

    def replays(*auto, untrained=1.0):
        plain = {"plain": 1.0, "plain again": 1.0, "auto, untrained twig": untrained}
        return [{**plain, "auto": seconds} for seconds in auto]

    def runs(*seconds):
        return [Answered(64, 1.0, value) for value in seconds]

    ways = {"plain": 1.0, "plain again": 2.0, "auto": 9.0, "auto, untrained twig": 1.5, "ssd": 0.5}
    found = judge(
        {name: runs(seconds, seconds) for name, seconds in ways.items()},
        [replays(9.0, 1.2, 1.1), replays(1.0, 1.0, 9.0, untrained=1.1)],
        ("ssd",),
    )
    assert (found.prompts, found.long) == (2, 2)
    assert found.worst == pytest.approx({"plain": 1, "auto": 1.2, "auto, untrained twig": 1.1})
    assert found.cpu_total == {"plain": 3, "auto": 18, "auto, untrained twig": 3, "ssd": 1}
    assert found.total == dict.fromkeys(found.cpu_total, 2.0)
    drifting = [{"plain": 1.0, "auto": 1.5, "plain again": 2.0}]
    assert ratio(drifting, "auto") == 1


def test_tables(comparison):
    cells = comparison_cells(comparison)
    assert len(cells) == 5
    assert all(len(row) == len(HEADER) for row in cells)
    assert cells[0][6] == "1.00x"
    lines = text_table(["name", "count"], [["a", "5"], ["long", "125"]]).splitlines()
    assert lines == ["name  count", "----  -----", "a         5", "long    125"]
    assert markdown_table(["a|b"], [["c\n d"]]).splitlines() == ["| a\\|b |", "| --- |", "| c d |"]
    assert markdown_table(["name", "count"], [["a", "5"]]).splitlines() == [
        "| name | count |", "| --- | ---: |", "| a | 5 |",
    ]  # fmt: skip
    assert [size(n) for n in (5, 1500, 2_500_000, 3e9)] == ["5 B", "1.50 kB", "2.50 MB", "3.00 GB"]


def test_conditions_name_what_matters(model):
    found = conditions(model)
    assert found["dtype"] == "float32"
    assert found["threads"] == str(torch.get_num_threads())
    assert found["torch"] == torch.__version__
    assert found["processor"]
    assert "8 layers of width 64" in found["base"]
    assert "2 layers on layer 2" in found["twig"]


def test_unseen_scenes_are_long_enough_and_repeat_themselves():
    samples = unseen(4, seed=3, short=2)
    assert [len(sample.turns) for sample in samples] == [3] * 4
    assert all(len(sample.description.answer.split()) >= 60 for sample in samples)
    assert [s.turns for s in unseen(4, seed=3, short=2)] == [s.turns for s in samples]
    assert unseen(1, seed=4)[0].scene != samples[0].scene
    assert len({sample.scene for sample in samples}) == 4


def test_the_command_writes_json_and_markdown(model, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "NINTH", 0.5)
    halves = [dataclasses.replace(method, budget=method.budget and 0.5) for method in suite.METHODS]
    monkeypatch.setattr(suite, "METHODS", tuple(halves))
    before = torch.get_num_threads()
    words = ["bench", "--quick", "--threads", "1", "--max-new-tokens", "6", "--out", tmp_path]
    words += ["--control", "1", "--training", "1"]
    asked = []

    def measured(*given, rounds, progress):  # measured in a test of its own
        asked.append((len(given[1]), rounds))
        return TrainingCost(rounds, 4, 99, 2, 3, 32, 0.2, 1.0, 32, 0.7, 1.0, 0.02, 0.3)

    monkeypatch.setattr("twigkit.bench.training.measure_training", measured)
    assert main([*map(str, words), *folders.model]) == 0
    assert torch.get_num_threads() == before
    data = json.loads((tmp_path / "bench.json").read_text())
    assert [row["method"]["name"] for row in data["decoding"]] == [
        method.name for method in suite.methods(model, "grams")
    ]
    tables = [row["method"]["drafter"]["table"] for row in data["decoding"]
              if row["method"]["name"] == "4-gram"]  # fmt: skip
    assert tables == ["grams.json"]  # not where it lay while the benchmark ran
    assert data["control"]["prompts"] == 1
    assert asked == [(8, 1)]
    verdicts = [ratio["verdict"] for ratio in data["training"]["ratios"]]
    assert verdicts == ["met", "missed", "met"]
    assert data["conditions"]["threads"] == "1"
    assert all(row["difference"] is None for row in data["decoding"])
    assert all(entry["deviation"] < 0.02 for entry in data["memory"])
    assert all(entry["allocated"] <= entry["allowed"] for entry in data["memory"])
    text = (tmp_path / "bench.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "twigkit plain / Hugging Face" in text
    assert "milliseconds to build a token tree and cut it to 60 nodes" in text
    assert "## The controller" in text
    assert "## Training" in text
    assert "| 0.700 | at most 0.60 | missed |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]


def test_a_pruner_that_draws_draws_the_same_for_method_and_target(model, prompts):
    methods = standard_methods(8, pruner="random")
    answers = compare(model, prompts, methods, max_new_tokens=5).answers
    for target, drafted in zip(answers["TTP"], answers["TTP + SSD"], strict=True):
        assert torch.equal(target.kept[0].positions, drafted.kept[0].positions)
        assert target.tokens == drafted.tokens


def test_a_tie_is_told_from_an_error(model, prompts, monkeypatch):
    """The same different token counts as a tie where the target's logits lie within rounding."""
    plant(monkeypatch)
    methods = [Method("plain"), Method("broken", target="plain", drafter="broken")]
    found = compare(model, prompts, methods, max_new_tokens=9)
    row = found.row("broken")
    assert row.difference.gap > 100 * row.difference.rounding > 0
    assert row.wrong
    assert not found.lossless
    assert f"gap {row.difference.gap:.2g}" in row.same
    monkeypatch.setattr("twigkit.bench.compare.ULPS", 1e8)
    tied = compare(model, prompts, methods, max_new_tokens=9)
    assert tied.lossless
    assert tied.row("broken").same.startswith("up to a tie (prompt 1, token ")


def test_the_gap_is_the_targets_own(model, prompts):
    given = answer(model, prompts[0], Method("plain"), max_new_tokens=3, keep_logits=True)
    other = Method("hf", engine="hugging-face")
    same = answer(model, prompts[0], other, max_new_tokens=3, keep_logits=True)
    assert int(given.logits.argmax()) == given.tokens[-1]
    torch.testing.assert_close(given.logits, same.logits)
    logits = torch.tensor([4.0, -8.0])
    assert rounding(logits, torch.bfloat16) == 8 * 2**-7 * 8
    assert rounding(logits, torch.float32) == 8 * 2**-23 * 8


def test_plain_decoding_is_best_where_every_drafter_is_wrong(measured):
    decoding, prefill, batches = measured
    wrong = [
        dataclasses.replace(row, difference=Difference(0, 1)) if row.method.target else row
        for row in decoding.rows
    ]
    decoding = dataclasses.replace(decoding, rows=wrong)
    assert suite.best_drafter(decoding) == suite.PLAIN
    assert suite.ratios(decoding, prefill, batches)
    tie = dataclasses.replace(wrong[4], difference=Difference(0, 1, gap=0.01, rounding=0.1))
    rows = [tie if row is wrong[4] else row for row in wrong]
    assert suite.best_drafter(dataclasses.replace(decoding, rows=rows)) == tie.method.name


def test_all_that_belongs_to_tokens_is_padded():
    def prompt(tokens):
        return {
            "input_ids": torch.ones(1, tokens, dtype=torch.long),
            "attention_mask": torch.ones(1, tokens, dtype=torch.long),
            "mm_token_type_ids": torch.full((1, tokens), 2),
            "inputs_embeds": torch.ones(1, tokens, 3),
            "pixel_values": torch.ones(1, 3, 2, 2),  # as many channels as some prompts have tokens
            "image_grid_thw": torch.ones(1, 3),
        }

    joined = stack_prompts([prompt(5), prompt(3)], padding=7)
    assert joined["input_ids"][1].tolist() == [7, 7, 1, 1, 1]
    assert joined["mm_token_type_ids"][1].tolist() == [0, 0, 2, 2, 2]
    assert joined["attention_mask"].sum(1).tolist() == [5, 3]
    assert joined["inputs_embeds"].sum((1, 2)).tolist() == [15, 9]
    assert joined["image_grid_thw"].shape == (2, 3)
    same = stack_prompts([prompt(3), prompt(3)])
    assert same["pixel_values"].shape == (2, 3, 2, 2)
