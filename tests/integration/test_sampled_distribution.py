"""What ``generate`` draws has the target's own distribution: exact enumeration against 200,000.

Every combination of the first three tokens is counted and compared with its exact probability, by
the base's own forward and transformers' own processors, in a chi-square test. Base and twig are as
small as can be: a layer each, four tokens. Biases planted on purpose must fail the same test.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from twigkit import TwigModel, TwigSpec
from twigkit.generation import token_selection
from twigkit.generation.token_selection import ProcessedSelector, Texts, TokenSelection
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.speculative import rejection_sampling as rejection
from twigkit.speculative.acceptance import walk
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.sampling import Noise

VOCABULARY, LENGTH, DRAWS, BATCH = 4, 3, 200_000, 4_000
SEEDS = (1, 2, 3)
LEVEL = 1e-3
PROMPT = torch.tensor([[1, 3]])
HEADS = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa", "offsets": 1}}
DRAFTERS = {
    "path": {"kind": "ssd", "length": 2, "threshold": 0.3},
    "dynamic tree": {
        "kind": "tree-ssd",
        "children": 2,
        "expanded": 1,
        "levels": 2,
        "nodes": 3,
        "threshold": 0,
    },
    "static tree": {"kind": "medusa-tree", "paths": [[0], [1], [0, 0]]},
    "drawn path": {"kind": "ssd", "length": 2, "threshold": 0.3, "draws": True},
}
HOT = {"temperature": 1.4, "top_k": 0}
PROCESSINGS = {
    "path": {"temperature": 1.2, "top_k": 3},
    "dynamic tree": {"top_p": 0.8, "top_k": 0},
    "static tree": {"min_p": 0.2, "top_k": 0, "repetition_penalty": 1.3},
    "drawn path": {"temperature": 1.3, "top_k": 3, "top_p": 0.9},
}


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    base = spread_weights(LlamaForCausalLM(config), seed=3)
    base.generation_config.eos_token_id = None  # every answer is of full length
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(5.0 if parameter.ndim > 1 else 1.0)
    model = TwigModel(base)
    model.grow(TwigSpec(base="tiny", exit_layer=0, depth=1, heads=HEADS)).eval()
    with torch.no_grad():  # right often, and not always
        for parameter in model.twig.layers.parameters():
            parameter.mul_(0.6)
    return model


def processors(temperature=1.0, top_k=50, top_p=1.0, min_p=None, repetition_penalty=1.0):
    """What transformers makes of the settings, in its order."""
    made = [RepetitionPenaltyLogitsProcessor(repetition_penalty)]
    made.append(TemperatureLogitsWarper(temperature))
    made += [TopKLogitsWarper(top_k)] if top_k else []
    made += [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p or 0.0)]
    return LogitsProcessorList(made)


@torch.inference_mode()
def exact(model, settings):
    """The joint distribution of the first tokens, by the base's own forward."""
    texts, chance = PROMPT, torch.ones(1, dtype=torch.float64)
    for _ in range(LENGTH):
        scores = processors(**settings)(texts, model.base(texts).logits[:, -1])
        chance = (chance[:, None] * scores.double().softmax(-1)).flatten()
        following = torch.arange(VOCABULARY).repeat(len(texts))
        texts = torch.cat((texts.repeat_interleave(VOCABULARY, 0), following[:, None]), 1)
    return chance


def chance_of(model, drafter, seed, settings=HOT):
    """Probability of a deviation at least as large as that of the generated texts."""
    counted = torch.zeros(VOCABULARY**LENGTH, dtype=torch.float64)
    place = torch.tensor([VOCABULARY**2, VOCABULARY, 1])
    gained = 0.0
    for start in range(0, DRAWS, BATCH):
        output = model.generate(
            input_ids=PROMPT.expand(BATCH, -1),
            max_new_tokens=LENGTH,
            do_sample=True,
            **settings,
            drafter=drafter,
            seed=seed * 10 * DRAWS + start,
        )
        counted += (output[:, -LENGTH:] @ place).bincount(minlength=len(counted))
        gained = max(gained, output.stats.accepted_length)
    chance = exact(model, settings)
    possible = chance > 0
    expected = (chance * DRAWS)[possible]
    assert counted.sum() == DRAWS
    assert expected.min() > 5
    assert expected.max() > 10 * expected.min()
    assert (gained > 1.1) == (drafter != "plain"), gained
    if counted[~possible].any():
        return 0.0
    statistic = ((counted[possible] - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(expected) - 1.0, dtype=torch.float64)
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["path", "dynamic tree", "static tree"])
def test_the_first_tokens_have_the_targets_distribution(model, name, seed):
    assert chance_of(model, DRAFTERS[name], seed) > LEVEL


def test_they_have_it_where_drafts_are_drawn(model):
    """The rule is another one; its other seeds are in ``test_rejection.py``."""
    assert chance_of(model, DRAFTERS["drawn path"], 1) > LEVEL


@pytest.mark.parametrize("name", PROCESSINGS)
def test_they_have_it_after_processing(model, name):
    settings = PROCESSINGS[name]
    assert chance_of(model, DRAFTERS[name], 2, settings) > LEVEL
    assert (exact(model, settings) - exact(model, HOT)).abs().sum() > 0.1


def forgetful(candidates, choose, *, eager):
    """A choice that is no child is forgotten now and then, and the likeliest child accepted."""
    accepted = walk(candidates, choose, eager=eager)
    if candidates.size > 1:
        child = candidates.tokens[:, 1]
        lost = (accepted.count == 0) & (accepted.next_token != child)
        again = torch.arange(len(child)) % 8 == 0
        token = torch.where(lost & again, child, accepted.next_token)
        accepted = dataclasses.replace(accepted, next_token=token)
    return accepted


def generous(candidates, target, noise, closing):
    """Drafts are accepted a little more often than p / q allows."""
    return rejection.accept_path(candidates, target, noise * 0.95, closing)


def without_residual(target, proposal):
    """A rejected draft is followed by a token of the whole target."""
    return target


@pytest.mark.parametrize(
    ("name", "module", "part", "biased"),
    [
        ("dynamic tree", token_selection, "walk", forgetful),
        ("drawn path", token_selection, "settle", generous),
        ("drawn path", rejection, "_residual", without_residual),
    ],
    ids=["a choice forgotten", "drafts favoured", "no residual"],
)
def test_a_planted_bias_is_caught(model, monkeypatch, name, module, part, biased):
    monkeypatch.setattr(module, part, biased)
    assert chance_of(model, DRAFTERS[name], 2) < LEVEL


def test_tokens_that_a_drafter_drew_are_accepted_by_their_own_rule():
    rows = 30_000
    logits = torch.tensor([[[0.0, 1.0, -1.0, 0.5]] * 2])
    prompt = PROMPT.expand(rows, -1)
    texts = Texts(prompt, prompt > 0, [[] for _ in range(rows)])
    noise = Noise(torch.arange(rows))
    selector = ProcessedSelector(TokenSelection.drawing(), texts, noise, eager=True)
    root = torch.zeros(rows, dtype=torch.long)
    table = Candidates.path(root, 2, numbers=lambda: noise.numbers("draft", root, 2))
    proposal = torch.tensor([0.1, 0.2, 0.6, 0.1]).expand(rows, 1, -1)
    nodes = torch.zeros(rows, 1, dtype=torch.long)
    table.sample(nodes, proposal, 1)
    accepted = selector.accept(table, logits.expand(rows, -1, -1), 1)
    counted = accepted.emitted(table.tokens)[:, 0].bincount(minlength=4).double()
    expected = logits[0, 0].double().softmax(-1) * rows
    statistic = ((counted - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor(1.5).double(), statistic / 2) > LEVEL
    assert 0 < accepted.count.float().mean() < 0.9
