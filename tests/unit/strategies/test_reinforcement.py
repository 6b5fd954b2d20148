"""Stage 2: rewards of the pruned base, the right sign, and nothing but the pruning head learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.support.samples import batch_of
from tests.support.tiny import tiny_llava
from twigkit import BudgetError, CapabilityError, TwigModel, TwigSpec
from twigkit.backbone.fused_layer import FusedLayer
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.learning.attention_targets import teacher_layer
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.learning.forward import embed_batch, turns_with_visuals
from twigkit.plugins.discovery import default_registry
from twigkit.strategies import reinforcement
from twigkit.strategies.reinforcement import (
    Reinforcement,
    ReinforcementSpec,
    anchor_growth,
    budget_odds,
)
from twigkit.testing.reference import masked_logits
from twigkit.testing.watch import LayerWatch

DEPTH, EXIT, WIPE = 8, 2, 6
BUDGETS = (0.35, 0.5)
HEADS = {"lm": {"kind": "lm"}, "pruning": {"kind": "pruning"}}
ROWS = ("w3 i w4 a5", "w2 a3 w2 i w1 i w2 a2 w3 a4 w6", "w5 a6")


def grown(base=None, exit_layer=EXIT, depth=2, heads=HEADS):
    model = TwigModel(base or tiny_llava(DEPTH))
    model.grow(TwigSpec(base="tiny", exit_layer=exit_layer, depth=depth, heads=heads))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.twig.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.02)
    return model


def stage(model, **spec):
    settings = {"group": 6, "budgets": BUDGETS, "anchor": 0.0, **spec}
    return Reinforcement(ReinforcementSpec(**settings), model.stack, model.twig).train()


class Spy:
    """Writes down what the rewards were asked for and what they were."""

    def __init__(self, monkeypatch):
        self.calls, ask = [], reinforcement.answer_rewards

        def spying(stack, samples, targets, kept, counts, **options):
            found = ask(stack, samples, targets, kept, counts, **options)
            self.calls.append((samples, targets, kept, counts, found))
            return found

        monkeypatch.setattr(reinforcement, "answer_rewards", spying)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def own_reward(base, ids, pictures, turn, kept):
    """The mean log-probability that the untouched base gives an answer, tokens made invisible."""
    inputs = {"input_ids": ids[None, : turn.start], "pixel_values": pictures}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    answer = ids[turn.start : turn.stop].tolist()
    text = inputs["input_ids"][0] != 99
    seen = [None] * EXIT + [text | kept] * (WIPE - EXIT) + [text] * (DEPTH - WIPE)
    logits = masked_logits(base, base.model.language_model.layers, inputs, answer[:-1], seen)
    found = logits[turn.start - 1 :].log_softmax(-1)
    return float(found.gather(1, torch.tensor(answer)[:, None]).mean())


# -- rewards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 5, 1])
def test_a_reward_is_what_the_base_says_were_dropped_tokens_invisible(spy, chunk):
    batch, base = batch_of(*ROWS), tiny_llava(DEPTH)
    model = grown()
    stage(model, chunk=chunk)(batch, 0.0, 3)
    ((samples, targets, kept, counts, rewards),) = spy.calls
    assert counts == [math.ceil(visual * (8 * 0.35 - 2) / 4) for visual in (16, 32)] == [4, 7]
    pictures = batch.inputs["pixel_values"]
    for number, row in enumerate((0, 1)):
        padding = int((batch.inputs["attention_mask"][row] == 0).sum())
        ids = batch.inputs["input_ids"][row, padding:]
        turns = [
            Turn(t.query - padding, t.start - padding, t.stop - padding) for t in batch.turns[row]
        ]
        (turn,) = [t for t in turns if ids[t.start : t.stop].tolist() == targets[number].tolist()]
        length = samples.lengths[number]
        assert length == turn.stop - 1  # the last token predicts nothing
        for choice in range(6):
            hidden = kept[number, choice][-length:]
            assert int(hidden.sum()) == counts[number]
            want = own_reward(base, ids, pictures.split((1, 2))[row], turn, hidden[: turn.start])
            assert float(rewards[number, choice]) == pytest.approx(want, abs=2e-5)
    assert float(rewards.std(1).min()) > 1e-4


def test_shared_layers_run_once_and_choices_run_together(spy):
    model, batch = grown(), batch_of("w3 i w4 a5", "w6 i w1 a5")
    watch = LayerWatch(model.stack)
    twig = []
    objective = stage(model, budgets=(0.5,))
    with torch.no_grad():
        fused = model.twig.runners(model.stack)
    for layer in fused:
        layer.register_forward_pre_hook(lambda module, args: twig.append(type(module)))
    objective(batch, 0.0, 3)
    longest = 28  # a first token, 16 visual ones, 7 words, 4 of 5 answer tokens
    kept, text = longest - 8, longest - 16  # half of 8 layers: (0.5 * 8 - 2) / 4 of 16 are kept
    calls = watch.take()
    assert calls == [[longest]] * EXIT + [[kept]] * (WIPE - EXIT) + [[text]] * (DEPTH - WIPE)
    # Fused layers ran, for nothing is differentiated but the head.
    assert twig == [FusedLayer] * model.twig.depth
    stage(model, budgets=(0.5,), chunk=4)(batch, 0.0, 3)
    assert watch.take() == [
        *[[longest]] * EXIT,
        *[[kept] * 3] * (WIPE - EXIT),
        *[[text] * 3] * (DEPTH - WIPE),
    ]
    watch.remove()


def test_chunks_change_nothing(spy):
    model, batch = grown(), batch_of(*ROWS)
    for chunk in (None, 1, 5):
        stage(model, chunk=chunk)(batch, 0.0, 3)
    for _, _, kept, _, rewards in spy.calls[1:]:
        assert torch.equal(kept, spy.calls[0][2])
        assert torch.allclose(rewards, spy.calls[0][4], atol=1e-5)


def test_without_a_wipe_layer_the_kept_tokens_stay_to_the_end(spy):
    model, batch = grown(), batch_of("w3 i w4 a5")
    watch = LayerWatch(model.stack)
    stage(model, wipe_layer=DEPTH, budgets=(0.5,))(batch, 0.0, 3)
    watch.remove()
    kept = math.ceil((8 * 8 - 2 * 16) / 6)
    assert watch.take()[EXIT:] == [[28 - 16 + kept]] * (DEPTH - EXIT)


# -- which turn, which tokens, which budget --------------------------------------------------------


def test_every_turn_with_a_picture_in_front_is_drawn_and_no_other(spy):
    model, batch = grown(), batch_of("w2 a3 w2 i w1 i w2 a2 w3 a4 w6 a1")
    objective = stage(model, group=2)
    drawn = {}
    for seed in range(24):
        objective(batch, 0.0, seed)
        samples, (target,), *_ = spy.calls[-1]
        drawn[tuple(target.tolist())] = samples
    ids = batch.inputs["input_ids"][0]
    answers = [tuple(ids[turn.start : turn.stop].tolist()) for turn in batch.turns[0]]
    assert set(drawn) == set(answers[1:])
    for answer, turn in zip(answers[1:], batch.turns[0][1:], strict=True):
        assert drawn[answer].ids.tolist() == [ids[: turn.stop - 1].tolist()]


def test_the_last_prompt_token_scores_as_at_inference(monkeypatch, spy):
    """What the greedy choice keeps is what ``generate`` keeps for the prompt without its answer."""
    model, batch = grown(), batch_of("w3 i w4 a5", "w1 i w2 i w3 a2")
    objective = stage(model)
    with torch.no_grad():
        _, figures = objective(batch, 1.0, 0)
    ((samples, _, kept, counts, rewards),) = spy.calls
    assert kept.shape[1] == 1
    assert float(figures["reward/groups"]) == pytest.approx(float(rewards.sum()))
    for row, turns in enumerate(batch.turns):
        valid = batch.inputs["attention_mask"][row].bool()
        valid[turns[0].start :] = False
        ids = batch.inputs["input_ids"][row, valid][None]
        pictures = (
            batch.inputs["pixel_values"][:1] if row == 0 else batch.inputs["pixel_values"][1:]
        )
        output = model.generate(
            input_ids=ids,
            pixel_values=pictures,
            budget=BUDGETS[0],
            pruner="p-head",
            wipe_layer=WIPE,
            max_new_tokens=1,
            return_dict_in_generate=True,
        )
        stays = output.kept[0].positions[0]
        visual = stays[ids[0, stays] == 99]
        assert output.kept[0].stage.keep == [counts[row]]
        length = samples.lengths[row]
        assert kept[row, 0][-length:].nonzero()[:, 0].tolist() == visual.tolist()


def test_the_seed_decides_everything():
    model, batch = grown(), batch_of(*ROWS)
    objective = stage(model)
    first, again, other = (objective(batch, 0.3, seed) for seed in (1, 1, 2))
    assert first[1] == again[1]
    assert float(first[0]["policy"].total.detach()) == float(again[0]["policy"].total.detach())
    assert first[1] != other[1]


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 8.0), (0.5, 8.0), (1.0, 8.0), (1.0, 0.0)])
def test_budgets_move_to_the_smallest_as_training_goes_on(progress, beta):
    odds = budget_odds(7, beta, progress)
    weights = [math.exp(-beta * progress**2 * i) for i in range(7)]
    assert odds.tolist() == pytest.approx([w / sum(weights) for w in weights], rel=1e-5)
    assert (odds[0] > 0.99) == (progress == 1.0 and beta == 8.0)


def test_budgets_are_drawn_as_the_schedule_says(spy):
    model, batch = grown(), batch_of("w1 i w1 a1")
    objective = stage(model, group=2)
    seen = {progress: set() for progress in (0.0, 1.0)}
    for progress, seed in itertools.product(seen, range(10)):
        objective(batch, progress, seed)
        seen[progress].add(spy.calls[-1][3][0])
    assert seen == {0.0: {4, 8}, 1.0: {4}}


# -- the loss --------------------------------------------------------------------------------------


def test_advantages_compare_within_a_group_and_vanish_where_nothing_differs():
    objective = stage(grown())
    rewards = torch.tensor([[1.0, 2.0, 3.0, 2.0], [-5.0] * 4, [-5.0, -5.0, -5.0 + 4e-6, -5.0]])
    found = objective.advantages(rewards)
    deviation = math.sqrt(0.5)
    assert found[0].tolist() == pytest.approx([-1 / deviation, 0.0, 1 / deviation, 0.0])
    assert found[1:].tolist() == [[0.0] * 4] * 2


def test_a_group_without_differences_moves_nothing():
    """All tokens are kept, so that every action shows the base the same."""
    model, batch = grown(), batch_of("w3 i w4 a5")
    objective = stage(model, budgets=(0.75,))
    parts, figures = objective(batch, 0.0, 0)
    parts["policy"].total.backward()
    assert float(figures["level/groups"]) == 1.0
    assert float(figures["kept/groups"]) == 1.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in objective.parameters())


def finds(sign, seed, steps=34):
    """Train on one sample whose 120 subsets are all known; the rank of what is kept in the end."""
    model = TwigModel(tiny_llava(4, seed=seed))
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=1, heads=HEADS))
    batch = batch_of("w3 i w4 a3", seed=seed)
    objective = stage(model, budgets=(0.3125,), group=32)
    right = objective.advantages
    objective.advantages = lambda rewards: sign * right(rewards)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=4e-3, weight_decay=0.0)
    for step in range(steps):
        parts, _ = objective(batch, step / steps, step)
        parts["policy"].total.backward()
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        samples = objective._prepare(batch, {0: batch.turns[0][0]})
        visual = samples.prompt.visual
        places = visual[0].nonzero()[:, 0]
        scores = objective.head.scores(samples.probe, visual)[0, 0, places]
        pairs = list(itertools.combinations(range(16), 2))
        rewards = objective._rewards(samples, places[None], torch.tensor([pairs]), [2])[0]
    kept = tuple(sorted(scores.topk(2).indices.tolist()))
    return float((rewards > rewards[pairs.index(kept)]).sum()), len(pairs)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_policy_finds_the_best_subset(seed):
    rank, _ = finds(1, seed)
    assert rank == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_with_the_sign_flipped_it_finds_the_worst(seed):
    rank, subsets = finds(-1, seed)
    assert rank >= subsets - 3


def test_the_anchor_is_the_distance_to_the_bases_attention_and_grows_with_the_budget():
    model, batch = grown(), batch_of("w3 i w4 a1")
    objective, parts = stage(model, anchor=0.7), {}
    for seed in range(9):
        found, figures = objective(batch, 0.0, seed)
        parts[float(figures["kept/groups"])] = found["anchor"]
    apart = distance(model, batch, batch.turns[0][0], 1)
    small, large = (parts[kept] for kept in (0.25, 0.5))  # budgets of 0.35 and 0.5
    assert set(parts) == {0.25, 0.5}
    for part in (small, large):
        assert float(part.total.detach()) == pytest.approx(apart, rel=1e-3)
        assert part.unit == "groups"
    assert (small.weight, large.weight) == (pytest.approx(0.7), pytest.approx(2.8))


def test_the_anchor_of_a_later_turn_has_the_rows_of_that_turns_text():
    model, batch = grown(), batch_of("w9 i w2 a3 w9 a2", "w3 i w2 a2 w4 a1")
    objective = stage(model, anchor=0.7, teacher_rows="text")
    (first, second), found = batch.turns[1], set()
    expected = [distance(model, batch, first, 2), distance(model, batch, second, 4)]
    inputs = {name: value[1:] for name, value in batch.inputs.items()}
    row = Batch(inputs, batch.labels[1:], batch.turns[1:], ["padded"])
    for seed in range(9):
        part = float(objective(row, 0.0, seed)[0]["anchor"].total.detach())
        (near,) = (n for n, value in enumerate(expected) if part == pytest.approx(value, rel=1e-3))
        found.add(near)
    assert found == {0, 1}


def distance(model, batch, turn, rows):
    """How far the pruning head is from the base's attention of the last so many rows before."""
    ids, mask = (batch.inputs[name][-1:, : turn.start] for name in ("input_ids", "attention_mask"))
    inputs = {
        "input_ids": ids[mask.bool()][None],
        "pixel_values": batch.inputs["pixel_values"][-1:],
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    visual = inputs["input_ids"][0] == 99
    target = per_head(inputs, rows)[..., visual]
    target = (target / target.sum(-1, keepdim=True)).mean((0, 1))  # softmax over visual keys
    output = model.generate(
        **inputs,
        budget=0.5,
        pruner="p-head",
        wipe_layer=WIPE,
        max_new_tokens=1,
        return_dict_in_generate=True,
    )
    return float((target * (target / output.kept[0].scores[0][visual]).log()).sum())


def per_head(inputs, rows):
    """The last rows' attention at the teacher's layer, by head, from the base's eager attention."""
    base = tiny_llava(DEPTH)
    base.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = base(**inputs, output_attentions=True).attentions
    return attentions[teacher_layer(DEPTH, 19 / 32)][0, :, -rows:]


def test_the_anchor_is_on_by_default_and_grows_evenly_in_its_root():
    model = grown()
    objective = Reinforcement(ReinforcementSpec(budgets=BUDGETS), model.stack, model.twig)
    assert set(objective(batch_of("i w1 a2"), 0.0, 0)[0]) == {"policy", "anchor"}
    budgets = ReinforcementSpec().budgets
    growth = [anchor_growth(budgets, budget) for budget in budgets]
    assert growth == pytest.approx(
        [(count / 64) ** 2 for count in (64, 74.5, 85, 96, 107, 117.5, 128)], rel=0.02
    )
    assert anchor_growth((0.5,), 0.5) == 1.0


# -- who learns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [0.0, 0.5])
def test_gradients_reach_the_pruning_head_and_nothing_else(anchor):
    model, batch = grown(), batch_of(*ROWS)
    model.base.requires_grad_(True)
    objective = stage(model, anchor=anchor)
    parts, _ = objective(batch, 0.0, 0)
    torch.stack([part.total for part in parts.values()]).sum().backward()
    head = model.twig.head("pruning")
    assert {id(p) for p in objective.parameters()} == {id(p) for p in head.parameters()}
    assert all(float(p.grad.abs().max()) > 0 for p in head.parameters())
    others = [p for n, p in model.twig.named_parameters() if not n.startswith("heads.pruning")]
    assert all(p.grad is None and not p.requires_grad for p in others)
    assert all(p.grad is None for p in model.base.parameters())


@pytest.mark.parametrize("anchor", [0.0, 0.5])
def test_rows_without_a_picture_in_front_of_an_answer_are_left_out(spy, anchor):
    model = grown()
    objective = stage(model, anchor=anchor)
    batch = batch_of(*ROWS, "w2 a3 w2 i w3")
    assert objective.counts(batch) == {"tokens": 23, "samples": 4, "visual": 3, "groups": 2}
    parts, figures = objective(batch, 0.0, 0)
    assert spy.calls[0][4].shape == (2, 6)
    for nothing in (batch_of("w5 a6", "w3 a2"), batch_of("w2 a3 w2 i w3")):
        watch = LayerWatch(model.stack)
        empty, silent = objective(nothing, 0.0, 0)
        assert watch.take() == [[]] * DEPTH
        watch.remove()
        assert objective.counts(nothing)["groups"] == 0
        assert (set(empty), set(silent)) == (set(parts), set(figures))
        objective.zero_grad()
        torch.stack([part.total for part in empty.values()]).sum().backward()
        assert all(float(p.grad.abs().max()) == 0.0 for p in objective.parameters())
    assert len(spy.calls) == 1


def test_evaluations_are_judged_by_the_reward():
    objective = stage(grown())
    assert objective.criterion(3.0, {"reward": -0.5}) < objective.criterion(1.0, {"reward": -0.9})


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(CapabilityError, match="no pruning head to train; it has lm"):
        stage(grown(heads={"lm": {"kind": "lm"}}))
    with pytest.raises(BudgetError, match=r"below the floor of 144 that 2 of 8 unpruned"):
        stage(grown(), budgets=(0.1, 0.5))


# -- other families and precisions -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3"])
def test_other_families_train_too(spy, name):
    tiny = default_registry().get("adapter", name).cls().tiny()
    rows = [TinyRow(("image",), 5, 1), TinyRow((), 9, 2), TinyRow(("image", "image"), 4, 3)]
    inputs = tiny.inputs(rows)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = IGNORED
    stop = labels.shape[1]
    turns = [[Turn(stop - 4, stop - 3, stop)] for _ in rows]
    batch = Batch(inputs, labels, turns, ["a", "b", "c"])
    model = grown(spread_weights(tiny.model))
    objective = stage(model, budgets=(0.5,))
    parts, _ = objective(batch, 0.0, 0)
    parts["policy"].total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())
    assert all(float(p.grad.abs().max()) > 0 for p in objective.parameters())
    ((samples, targets, kept, _, rewards),) = spy.calls
    own = tiny_copy(name)
    for number, row in enumerate((rows[0], rows[2])):
        alone = tiny.inputs([row])
        length = alone["input_ids"].shape[1]
        assert samples.lengths[number] == length - 1
        stays = torch.zeros(length, dtype=torch.bool)
        stays[: length - 1] = kept[number, 0][1 - length :]
        text = ~embed_batch(model.stack, Batch(alone, alone["input_ids"], [[]], ["x"])).visual[0]
        seen = [None] * EXIT + [text | stays] * (WIPE - EXIT) + [text] * (DEPTH - WIPE)
        logits = masked_logits(own, own_layers(own), alone, [], seen)[-4:-1].log_softmax(-1)
        want = float(logits.gather(1, targets[number][:, None]).mean())
        assert float(rewards[number, 0]) == pytest.approx(want, abs=5e-5)


def tiny_copy(name):
    """The family's tiny model with the same weights, untouched."""
    return spread_weights(default_registry().get("adapter", name).cls().tiny().model)


def own_layers(model):
    return model.model.language_model.layers


def test_a_twig_in_half_precision_has_its_head_trained_in_full():
    model, batch = grown(tiny_llava(DEPTH).to(torch.bfloat16)), batch_of(*ROWS)
    assert next(model.twig.parameters()).dtype == torch.bfloat16
    objective = stage(model)
    model.twig.head("pruning").float()
    for halved in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            parts, _ = objective(batch, 0.0, 0)
        parts["policy"].total.backward()
    assert all(p.grad.dtype == torch.float32 for p in objective.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())


def test_turns_with_a_picture_in_front_are_found_without_running_anything():
    batch = batch_of(*ROWS)
    assert turns_with_visuals(batch, grown().stack) == [[True], [False, True, True], [False]]
