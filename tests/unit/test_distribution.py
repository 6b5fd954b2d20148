"""What ``generate`` draws has the target's own distribution: exact enumeration against 200,000."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import spread_weights
from twigkit import TwigModel, TwigSpec, choosing
from twigkit.acceptance import walk
from twigkit.candidates import Candidates
from twigkit.choosing import Decoding, ProcessedChooser, Texts
from twigkit.sampling import Noise

VOCABULARY, LENGTH, DRAWS, BATCH = 4, 3, 200_000, 20_000
LEVEL = 1e-3
TEMPERATURE = 1.4
PROMPT = torch.tensor([[1, 3, 2]])
TREE = {"kind": "tree-ssd", "children": 2, "expanded": 2, "levels": 2, "nodes": 5, "threshold": 0}
PATH = {"kind": "ssd", "length": 2, "threshold": 0.0}


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    base = spread_weights(LlamaForCausalLM(config).eval(), seed=3)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    model = TwigModel(base)
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=1)).eval()
    with torch.no_grad():  # right often, and not always
        for parameter in model.twig.layers.parameters():
            parameter.mul_(0.6)
    return model


@torch.inference_mode()
def exact(model):
    """The joint distribution of the first tokens, by the base's own forward."""
    texts, chance = PROMPT, torch.ones(1, dtype=torch.float64)
    for _ in range(LENGTH):
        logits = model.base(texts).logits[:, -1].double() / TEMPERATURE
        chance = (chance[:, None] * logits.softmax(-1)).flatten()
        texts = torch.cat(
            (
                texts.repeat_interleave(VOCABULARY, 0),
                torch.arange(VOCABULARY).repeat(len(texts))[:, None],
            ),
            1,
        )
    return chance


def chance_of(model, drafter, seed):
    """Probability of a deviation at least as large as that of the generated texts."""
    counted = torch.zeros(VOCABULARY**LENGTH, dtype=torch.float64)
    gains = 0.0
    for start in range(0, DRAWS, BATCH):
        output = model.generate(
            input_ids=PROMPT.expand(BATCH, -1),
            attention_mask=torch.ones(BATCH, 3, dtype=torch.long),
            max_new_tokens=LENGTH,
            do_sample=True,
            top_k=0,
            temperature=TEMPERATURE,
            drafter=drafter,
            seed=seed * 10 * DRAWS + start,
        )
        place = output[:, 3:] @ torch.tensor([VOCABULARY**2, VOCABULARY, 1])
        counted += place.bincount(minlength=len(counted))
        gains = max(gains, output.stats.accepted_length)
    expected = exact(model) * DRAWS
    assert counted.sum() == DRAWS
    assert expected.min() > 5
    assert expected.max() > 10 * expected.min()
    assert (gains > 1.1) == (drafter != "plain"), gains
    statistic = ((counted - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(counted) - 1.0, dtype=torch.float64)
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()


@pytest.mark.parametrize(
    ("drafter", "seed"),
    [(PATH, 1), (TREE, 2), ("plain", 3)],
    ids=["path", "tree", "plain"],
)
def test_the_first_tokens_have_the_targets_distribution(model, drafter, seed):
    """The seed decides the tokens whoever drafts, so each seed needs one drafter only."""
    assert chance_of(model, drafter, seed) > LEVEL


def forgetful(candidates, choose, *, eager):
    """A choice that is no child is forgotten, and the most likely child below accepted."""
    accepted = walk(candidates, choose, eager=eager)
    if candidates.size > 1:
        child = candidates.tokens[:, 1]
        lost = (accepted.count == 0) & (accepted.next_token != child)
        again = torch.arange(len(child)) % 8 == 0
        token = torch.where(lost & again, child, accepted.next_token)
        accepted = dataclasses.replace(accepted, next_token=token)
    return accepted


def test_a_planted_bias_is_caught(model, monkeypatch):
    monkeypatch.setattr(choosing, "walk", forgetful)
    assert chance_of(model, TREE, 2) < LEVEL


def test_tokens_that_a_drafter_drew_are_accepted_by_their_own_rule():
    rows = 30_000
    logits = torch.tensor([[[0.0, 1.0, -1.0, 0.5]] * 2])
    texts = Texts(PROMPT.expand(rows, -1), PROMPT.expand(rows, -1) > 0, [[] for _ in range(rows)])
    noise = Noise(torch.arange(rows))
    chooser = ProcessedChooser(Decoding(draws=True), texts, noise, eager=True)
    root = torch.zeros(rows, dtype=torch.long)
    table = Candidates.start(root, 2, True, lambda: noise.table("draft", root, 2))
    proposal = torch.tensor([0.1, 0.2, 0.6, 0.1]).expand(rows, 1, -1)
    nodes = torch.zeros(rows, 1, dtype=torch.long)
    table.sample(nodes, proposal, 1)
    accepted = chooser.accept(table, logits.expand(rows, -1, -1), 1)
    counted = accepted.emitted(table.tokens)[:, 0].bincount(minlength=4).double()
    expected = logits[0, 0].double().softmax(-1) * rows
    statistic = ((counted - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor(1.5).double(), statistic / 2) > LEVEL
    assert 0 < accepted.count.float().mean() < 0.9
