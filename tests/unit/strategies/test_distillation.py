"""Stage 1: the right layers run, the terms are the plain formulas, and only the twig learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.samples import batch_of
from tests.support.tiny import tiny_llava
from twigkit import CapabilityError, SpecError, TwigModel, TwigSpec
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.learning.answer_tokens import find_answers
from twigkit.learning.attention_targets import teacher_layer
from twigkit.learning.batch import IGNORED, Batch, Turn
from twigkit.learning.forward import embed_batch, run_base, run_twig
from twigkit.learning.losses import ahead_sums, token_sums
from twigkit.plugins.discovery import default_registry
from twigkit.strategies.distillation import Distillation, DistillationSpec
from twigkit.testing.watch import LayerWatch
from twigkit.twig.cut_vocabulary import cut_vocabulary

DEPTH, EXIT, TWIG = 8, 2, 2
EVERY = {"lm": {"kind": "lm"}, "pruning": {"kind": "pruning"}, "medusa": {"kind": "medusa"}}
ROWS = ("w3 i w4 a5", "w2 a3 w2 i w1 i w2 a2 w3 a4", "w5 a6")
"""A picture; two after the first of three answers; none."""


def grown(base=None, heads=EVERY, **settings):
    model = TwigModel(base or tiny_llava(DEPTH))
    model.grow(TwigSpec(base="tiny", exit_layer=EXIT, depth=TWIG, heads=heads, **settings))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.twig.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.02)
    return model


def learn(model, batch, **spec):
    objective = Distillation(DistillationSpec(**spec), model.stack, model.twig).train()
    parts, figures = objective(batch, 0.5, 0)
    return objective, parts, figures


def loss_of(objective, parts, batch):
    counts = objective.counts(batch)
    terms = [part.weight * part.total / max(1, counts[part.unit]) for part in parts.values()]
    return torch.stack(terms).sum()


# -- which layers run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ({"prediction": 0.0, "attention": 0.0}, EXIT),
        ({"prediction": 0.0, "attention": 0.0, "medusa": 0.0}, EXIT),
        ({"prediction": 0.0}, teacher_layer(DEPTH, 19 / 32) + 1),
        ({"prediction": 0.0, "teacher_layer": 1}, EXIT),
        ({"prediction": 0.0, "teacher_layer": 6}, 7),
        ({"next_token": 0.0, "prediction": 0.0, "medusa": 0.0, "teacher_layer": 3}, 4),
        ({}, DEPTH),
        ({"attention": 0.0}, DEPTH),
    ],
)
def test_layers_run_once_and_only_those_that_somebody_needs(spec, layers):
    model, batch = grown(), batch_of(*ROWS)
    watch, calls = LayerWatch(model.stack), []
    for layer in model.twig.layers:
        layer.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    _, parts, _ = learn(model, batch, **spec)
    torch.stack([part.total for part in parts.values()]).sum().backward()
    length = batch.labels.shape[1]
    expected = [[length]] * layers + [[]] * (DEPTH - layers)
    assert watch.take() == expected
    assert calls == [(len(ROWS), length, 64)] * TWIG
    watch.remove()


def test_without_a_picture_no_layer_runs_for_the_attention():
    model, batch = grown(), batch_of("w3 a4", "w2 a1 w2 a3")
    watch = LayerWatch(model.stack)
    _, parts, _ = learn(model, batch, prediction=0.0)
    assert [len(calls) for calls in watch.take()] == [1] * EXIT + [0] * (DEPTH - EXIT)
    assert float(parts["attention"].total.detach()) == 0.0


# -- what the terms are ----------------------------------------------------------------------------


def eager_attention(base, inputs, layer):
    """The attention of every token at a base layer, by the base itself, head by head."""
    base.set_attn_implementation("eager")
    with torch.no_grad():
        output = base(**inputs, output_attentions=True)
    base.set_attn_implementation("sdpa")
    return output.attentions[layer], output.logits


def alone(batch, row):
    """One row of a batch without its padding; its pictures come first."""
    keep = batch.inputs["attention_mask"][row].bool()
    ids = batch.inputs["input_ids"][row][keep]
    shift = int((~keep).sum())
    turns = [Turn(t.query - shift, t.start - shift, t.stop - shift) for t in batch.turns[row]]
    before = int((batch.inputs["input_ids"][:row] == 99).sum()) // 16
    count = int((ids == 99).sum()) // 16
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    if count:
        inputs["pixel_values"] = batch.inputs["pixel_values"][before : before + count]
    return Batch(inputs, batch.labels[row, keep][None], [turns], ["alone"], [bool(count)])


def plain_terms(model, batch):
    """Every term of one unpadded row, from the base's own outputs and the twig's layers."""
    layer = teacher_layer(DEPTH, 19 / 32)
    attention, wanted = eager_attention(tiny_llava(DEPTH), batch.inputs, layer)
    stack, twig = model.stack, model.twig
    prompt = stack.embed_prompt(**batch.inputs)
    hidden = prompt.hidden
    for number in range(EXIT):
        hidden = stack.run(
            hidden, number, number + 1, rope=stack.rope(hidden, prompt.rope), masks={None: None}
        )
    inner = hidden
    rope = stack.rope(hidden, prompt.rope)
    for layer in twig.layers:
        before = inner
        inner = layer(inner, attention_mask=None, position_embeddings=rope["default"])
    states = twig.norm(inner)[0]
    logits, ahead = twig.head("lm")(states[None])[0], twig.head("medusa")(states[None])[0]
    terms = {"next_token": 0.0, "prediction": 0.0, "attention": 0.0}
    terms |= {f"medusa_{number}": 0.0 for number in (1, 2, 3)}
    ids = batch.inputs["input_ids"][0]
    for turn in batch.turns[0]:
        for place in range(turn.start - 1, turn.stop - 1):
            terms["next_token"] += F.cross_entropy(logits[place], ids[place + 1])
            p, q = (wanted[0, place] / 5).softmax(-1), (logits[place] / 5).softmax(-1)
            terms["prediction"] += min(1.0, 25 * float((p * (p / q).log()).sum()) / 4)
            for number in (1, 2, 3):
                target = place + 1 + number
                if target < turn.stop:
                    entropy = F.cross_entropy(ahead[place, number - 1], ids[target])
                    terms[f"medusa_{number}"] += entropy
        seen = (ids == 99) & (torch.arange(len(ids)) <= turn.query)
        if seen.any():
            target = attention[0, :, turn.query, seen]
            target = (target / target.sum(-1, keepdim=True)).mean(0)  # softmax, then heads
            scores = shape_scores(model, before, rope["default"], turn.query, seen)
            terms["attention"] += (target * (target / scores).log()).sum()
    return {name: float(value) for name, value in terms.items()}


def shape_scores(model, before, rope, query, seen):
    """The pruning head's scores from the last twig layer's modules, row by row."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    layer, head = model.twig.layers[-1], model.twig.head("pruning")
    states = layer.input_layernorm(before)
    q = layer.self_attn.q_proj(states).view(1, -1, 4, 16).transpose(1, 2)
    k = layer.self_attn.k_proj(states).view(1, -1, 2, 16).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rope)

    def gates(linear, count):
        logits = linear(states) + head.offset
        gated = torch.relu(logits) * torch.sigmoid(logits)
        return gated.view(1, -1, count, 16).transpose(1, 2)

    q, k = q * gates(head.query, 4), (k * gates(head.key, 2)).repeat_interleave(2, 1)
    logits = (q[0, :, query, None] * k[0]).sum(-1)[:, seen] / 4
    return logits.softmax(-1).mean(0)


@torch.no_grad()
def test_the_terms_are_the_plain_formulas_in_a_padded_batch():
    model, batch = grown(), batch_of(*ROWS)
    _, parts, _ = learn(model, batch)
    rows = [plain_terms(model, alone(batch, row)) for row in range(len(ROWS))]
    assert set(parts) == set(rows[0])
    for name, part in parts.items():
        assert float(part.total) == pytest.approx(sum(row[name] for row in rows), rel=2e-4), name
    assert rows[2]["attention"] == 0.0
    assert all(row["prediction"] > 0 for row in rows)


def test_units_and_weights_are_those_of_the_paper():
    model, batch = grown(), batch_of(*ROWS)
    objective, parts, figures = learn(model, batch)
    assert objective.counts(batch) == {
        "tokens": 20,
        "samples": 3,
        "visual": 2,
        "queries": 3,  # of five turns, one has no picture yet and one has none at all
        "ahead_1": 15,
        "ahead_2": 10,
        "ahead_3": 6,
    }
    table = {name: (part.unit, part.weight) for name, part in parts.items()}
    assert table == {
        "next_token": ("tokens", 1.0),
        "prediction": ("tokens", 0.1),
        "attention": ("queries", 1.0),
        "medusa_1": ("ahead_1", 0.2),
        "medusa_2": ("ahead_2", pytest.approx(0.16)),
        "medusa_3": ("ahead_3", pytest.approx(0.128)),
    }
    assert set(figures) == {
        "right/tokens",
        "agree/tokens",
        *(f"right_{i}/ahead_{i}" for i in (1, 2, 3)),
    }


@torch.no_grad()
def test_training_scores_with_the_row_that_inference_takes():
    """With the answer after the prompt, the score row is the one that the prompt alone has."""
    model, batch = grown(), batch_of("w3 i w4 a5", "w1 i w2 i w3 a2")
    probes = []
    pruning = model.twig.head("pruning")
    objective = Distillation(DistillationSpec(), model.stack, model.twig)
    scores = pruning.scores
    pruning.scores = lambda probe, visual: probes.append(scores(probe, visual)) or probes[-1]
    objective(batch, 0.0, 0)
    del pruning.scores
    for row in range(2):
        sample = alone(batch, row)
        stop = sample.turns[0][0].start
        prompt = {**sample.inputs, "input_ids": sample.inputs["input_ids"][:, :stop]}
        prompt["attention_mask"] = prompt["attention_mask"][:, :stop]
        model.twig.eval()
        output = model.generate(
            **prompt, budget=0.5, pruner="p-head", max_new_tokens=1, return_dict_in_generate=True
        )
        query = batch.turns[row][0].query
        trained = probes[0][row, 0, query + 1 - stop : query + 1]
        assert (trained - output.kept[0].scores[0]).abs().max() < 1e-6
        assert float(output.kept[0].scores.sum()) == pytest.approx(1.0, abs=1e-5)


# -- who learns ------------------------------------------------------------------------------------


def test_gradients_reach_the_twig_and_nothing_else():
    model, batch = grown(), batch_of(*ROWS)
    model.base.requires_grad_(True)
    objective, parts, _ = learn(model, batch)
    loss_of(objective, parts, batch).backward()
    assert all(p.grad is None for p in model.base.parameters())
    reached = {name for name, p in model.twig.named_parameters() if p.grad.abs().max() > 0}
    assert reached == {name for name, _ in model.twig.named_parameters()}
    own = {id(p) for p in objective.parameters()}
    assert own == {id(p) for p in model.twig.parameters()}


@pytest.mark.parametrize(
    ("spec", "frozen"),
    [
        ({"attention": 0.0}, ["heads.pruning"]),
        ({"medusa": 0.0}, ["heads.medusa"]),
        ({"next_token": 0.0, "prediction": 0.0}, ["heads.lm"]),
        (
            {"next_token": 0.0, "prediction": 0.0, "medusa": 0.0},
            ["heads.lm", "heads.medusa", "norm"],
        ),
    ],
)
@pytest.mark.parametrize("rows", [ROWS, ("w4 a3",)])
def test_what_no_term_reaches_is_frozen_and_all_else_takes_part(spec, frozen, rows):
    model, batch = grown(), batch_of(*rows)
    objective, parts, _ = learn(model, batch, **spec)
    loss_of(objective, parts, batch).backward()
    for name, parameter in model.twig.named_parameters():
        off = name.startswith(tuple(frozen))
        assert parameter.requires_grad is not off, name
        assert (parameter.grad is None) is off, name
        assert off or bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize(
    "spec",
    [{"prediction": 0.0}, {"next_token": 0.0, "medusa": 0.0}],  # drawn answers contradict the base
    ids=["answers", "predictions"],
)
def test_a_few_steps_bring_every_term_down(spec):
    model, batch = grown(), batch_of(*ROWS)
    with torch.no_grad():
        for weight in model.twig.heads["pruning"].parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    objective = Distillation(DistillationSpec(**spec), model.stack, model.twig).train()
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3, weight_decay=0.0)
    seen = []
    for _ in range(9):
        parts, _ = objective(batch, 0.0, 0)
        seen.append({name: float(part.total.detach()) for name, part in parts.items()})
        loss_of(objective, parts, batch).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(seen[-1][name] < 0.8 * value for name, value in seen[0].items())


# -- heads that are there or not -------------------------------------------------------------------


def test_a_missing_head_switches_its_term_off():
    model, batch = grown(heads={"lm": {"kind": "lm"}}), batch_of(*ROWS)
    objective, parts, _ = learn(model, batch)
    assert set(parts) == {"next_token", "prediction"}
    assert set(objective.counts(batch)) == {"tokens", "samples", "visual"}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"attention": 1.0},
            "'attention' has the weight 1, but the twig has no head that do",
        ),
        ({"medusa": 0.1}, "'medusa' has the weight 0.1"),
        ({"next_token": 0.0, "prediction": 0.0}, "no loss is left"),
        ({"teacher_layer": 8}, "outside the base's 8 layers"),
    ],
)
def test_what_cannot_be_trained_is_refused(spec, told):
    with pytest.raises((CapabilityError, SpecError), match=told):
        learn(grown(heads={"lm": {"kind": "lm"}}), batch_of(*ROWS), **spec)


def test_two_heads_for_one_term_are_a_question_not_a_guess():
    heads = {"lm": {"kind": "lm"}, "more": {"kind": "lm"}}
    with pytest.raises(CapabilityError, match=r"lm, more can all do 'next-token'"):
        learn(grown(heads=heads), batch_of(*ROWS))


# -- other families and precisions -----------------------------------------------------------------


def family_batch(name, rows):
    """A batch of a family's own tiny model; the last tokens of every row are the answer."""
    tiny = default_registry().get("adapter", name).cls().tiny()
    inputs = tiny.inputs(rows)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = IGNORED
    stop = labels.shape[1]
    turns = [[Turn(stop - 4, stop - 3, stop)] for _ in rows]
    ids = [f"sample-{number}" for number in range(len(rows))]
    return spread_weights(tiny.model), Batch(inputs, labels, turns, ids)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3", "llava_next", "smolvlm"])
def test_other_families_train_too(name):
    rows = [TinyRow(("image",), 5, 1), TinyRow((), 9, 2), TinyRow(("image", "image"), 4, 3)]
    base, batch = family_batch(name, rows)
    model = grown(base)
    objective, parts, _ = learn(model, batch)
    assert objective.counts(batch)["queries"] == 2
    assert {"next_token", "prediction", "attention", "medusa_1"} <= set(parts)
    loss = loss_of(objective, parts, batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())
    assert all(p.grad is None for p in model.base.parameters())


def test_a_language_model_learns_next_tokens():
    base, batch = family_batch("causal_lm", [TinyRow((), 7, 1), TinyRow((), 4, 2)])
    model = grown(base, heads={"lm": {"kind": "lm"}})
    objective, parts, _ = learn(model, batch, prediction=0.0)
    assert set(parts) == {"next_token"}
    loss_of(objective, parts, batch).backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_a_base_in_half_precision_teaches_a_twig_in_full():
    model, batch = grown(tiny_llava(DEPTH).to(torch.bfloat16)), batch_of(*ROWS)
    model.twig.float()
    objective = Distillation(DistillationSpec(), model.stack, model.twig).train()
    with torch.autocast("cpu", torch.bfloat16):
        parts, _ = objective(batch, 0.0, 0)
    exact, _ = objective(batch, 0.0, 0)
    loss_of(objective, parts, batch).backward()
    for name, part in parts.items():
        assert part.total.dtype == torch.float32
        assert float(part.total.detach()) == pytest.approx(
            float(exact[name].total.detach()), rel=0.1, abs=0.05
        )
    assert all(p.grad.dtype == torch.float32 for p in objective.parameters())


# -- a part of the vocabulary ----------------------------------------------------------------------


def test_heads_of_a_part_of_the_vocabulary_learn_the_tokens_that_they_score():
    model, batch = grown(), batch_of(*ROWS)
    answers = find_answers(batch, 3)
    lacked = answers.targets.unique()[::2]
    ids = [n for n in range(model.stack.vocabulary) if n not in lacked.tolist()]
    cut_vocabulary(model.twig, ids)
    objective, parts, figures = learn(model, batch, prediction=0.0, attention=0.0)
    shared, _ = run_base(model.stack, embed_batch(model.stack, batch), 0, EXIT)
    normed = model.twig.norm(answers.states(run_twig(model.stack, model.twig, shared)[0]))
    heads = model.twig.heads
    one = token_sums(normed, answers.targets, lambda part: heads["lm"](part[None])[0], chunk=4)
    more = ahead_sums(normed, answers.ahead, lambda part: heads["medusa"](part[None])[0], chunk=4)
    assert float(parts["next_token"].total.detach()) == pytest.approx(
        float(one[0].detach()), rel=1e-5
    )
    assert int(figures["right/tokens"]) == int(one[2])
    for number in range(3):
        total = float(parts[f"medusa_{number + 1}"].total.detach())
        assert total == pytest.approx(float(more[0, number].detach()), rel=1e-5)
    loss_of(objective, parts, batch).backward()
    gradient = heads["lm"].linear.weight.grad
    assert gradient.shape[0] == len(ids)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0.0


def test_compared_with_the_base_such_a_head_learns_the_same_next_tokens():
    model, batch = grown(), batch_of(*ROWS)
    cut_vocabulary(model.twig, range(0, model.stack.vocabulary, 2))
    found = [learn(model, batch, prediction=weight, attention=0.0)[1] for weight in (0.0, 0.1)]
    alone, beside = (float(parts["next_token"].total.detach()) for parts in found)
    assert alone == pytest.approx(beside, rel=1e-5)


def test_the_rows_that_teach_are_those_of_the_spec():
    def taught(row, which):
        spec = {"prediction": 0.0, "teacher_rows": which}
        return float(learn(grown(), batch_of(row), **spec)[1]["attention"].total.detach())

    assert taught("i w1 a4", "text") == pytest.approx(taught("i w1 a4", "query"), rel=1e-6)
    many = [taught("i w5 a4", which) for which in ("query", "text", "answer")]
    assert len({round(value, 6) for value in many}) == 3
