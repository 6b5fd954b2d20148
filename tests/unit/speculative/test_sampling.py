"""Processing must equal Hugging Face's to the bit; drawing must follow weights and noise."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.support.versions import skip_before_pinned
from twigkit.errors import InputError
from twigkit.speculative.sampling import Noise, Sampling, draw, draw_scores, process_logits

VOCABULARY = 50


def scores(seed, *shape):
    """Random logits with exact ties and impossible tokens among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, VOCABULARY, generator=generator) * 3
    rounded = torch.rand(logits.shape, generator=generator) < 0.3
    logits = torch.where(rounded, logits.round(), logits)
    ruled_out = torch.rand(logits.shape, generator=generator) < 0.1
    return logits.masked_fill(ruled_out, float("-inf"))


CASES = {
    "temperature": (Sampling(temperature=0.7), [TemperatureLogitsWarper(0.7)]),
    "top_k": (Sampling(top_k=7), [TopKLogitsWarper(7)]),
    "top_k of all": (Sampling(top_k=80), [TopKLogitsWarper(80)]),
    "top_p": (Sampling(top_p=0.8), [TopPLogitsWarper(0.8)]),
    "top_p of nothing": (Sampling(top_p=0.0), [TopPLogitsWarper(0.0)]),
    "min_p": (Sampling(min_p=0.05), [MinPLogitsWarper(0.05)]),
    "min_p of the best": (Sampling(min_p=1.0), [MinPLogitsWarper(1.0)]),
    "penalty": (Sampling(repetition_penalty=1.4), [RepetitionPenaltyLogitsProcessor(1.4)]),
    "reward": (Sampling(repetition_penalty=0.6), [RepetitionPenaltyLogitsProcessor(0.6)]),
}


def seen_in(ids):
    """Which tokens each row of ids holds."""
    return torch.stack([torch.isin(torch.arange(VOCABULARY), row) for row in ids])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(10))
def test_each_processor_equals_transformers(case, seed):
    sampling, processors = CASES[case]
    logits = scores(seed, 6)
    ids = torch.randint(0, VOCABULARY, (6, 9), generator=torch.Generator().manual_seed(seed))
    expected = LogitsProcessorList(processors)(ids, logits.clone())
    assert torch.equal(process_logits(logits, sampling, seen_in(ids)), expected)


def generate_processors(sampling):
    """The processors that ``generate`` itself builds, in its order."""
    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k or 0,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
    )
    mixin = GenerationMixin()
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    built = mixin._get_logits_processor(config, input_ids_seq_length=9, logits_processor=[])
    assert len(built) == sum(
        given != default
        for given, default in zip(
            (getattr(sampling, name) for name in Sampling.__slots__),
            (1.0, None, 1.0, None, 1.0),
            strict=True,
        )
    )
    return built


@pytest.mark.parametrize("seed", range(3))
def test_order_equals_generate(seed):
    for temperature, top_k, top_p, min_p, penalty in itertools.product(
        (1.0, 0.5, 1.7), (None, 12), (1.0, 0.6), (None, 0.1), (1.0, 1.3)
    ):
        sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
        logits = scores(seed, 4)
        ids = torch.randint(0, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(seed))
        expected = generate_processors(sampling)(ids, logits.clone())
        seen = seen_in(ids)
        assert torch.equal(process_logits(logits, sampling, seen), expected), sampling


@pytest.mark.parametrize("seed", range(20))
def test_every_node_equals_its_own_path(seed, grow):
    """All nodes of a batch of trees at once, against each node's ids run through transformers."""
    import random

    skip_before_pinned("cannot penalise ids beyond the vocabulary, which image tokens may be")
    sampling = Sampling(0.8, 15, 0.9, 0.02, 1.5)
    _, plain = grow(random.Random(seed), 3, 12, vocabulary=VOCABULARY)
    generator = torch.Generator().manual_seed(seed)
    prefix = torch.randint(0, VOCABULARY + 3, (3, 6), generator=generator)
    valid = torch.arange(6) >= torch.tensor([[0], [2], [6]])
    logits = scores(seed, 3, 12)
    seen = torch.zeros(3, 12, VOCABULARY, dtype=torch.bool)
    for row, tree in enumerate(plain):
        for node in range(len(tree.tokens)):
            path = torch.tensor([tree.tokens[i] for i in tree.path(node)])
            seen[row, node] = seen_in(torch.cat([prefix[row, valid[row]], path])[None])[0]
    processed = process_logits(logits, sampling, seen)
    for row, tree in enumerate(plain):
        for node in range(len(tree.tokens)):
            path = [tree.tokens[i] for i in tree.path(node)]
            ids = torch.tensor([prefix[row, valid[row]].tolist() + path])
            expected = generate_processors(sampling)(ids, logits[row, node][None].clone())
            assert torch.equal(processed[row, node], expected[0])


def test_defaults_change_nothing():
    logits = scores(0, 2, 3)
    assert torch.equal(process_logits(logits, Sampling()), logits)
    assert process_logits(logits.bfloat16(), Sampling()).dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
    ],
)
def test_bounds_are_named(field, value):
    with pytest.raises(InputError, match=field):
        Sampling(**{field: value})


def test_a_penalty_needs_to_know_what_was_seen():
    with pytest.raises(InputError, match="seen"):
        process_logits(scores(0, 2), Sampling(repetition_penalty=1.2))


def test_draw_follows_the_weights():
    weights = torch.tensor([0.0, 5.0, 0.0, 3.0, 2.0, 0.0])
    uniform = Noise(torch.tensor([0])).numbers("draft", torch.tensor([3]), 100_000)[0]
    share = draw(weights.expand(100_000, -1), uniform).bincount(minlength=6) / 100_000
    assert torch.allclose(share, weights / 10, atol=6e-3)
    assert share[[0, 2, 5]].eq(0).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e7])
def test_draw_never_leaves_the_support(scale):
    """The ends of the unit interval meet tokens of weight 0 at both ends of the vocabulary."""
    weights = torch.tensor([0.0, 0.1, 0.7, 0.0, 0.2, 0.0]) * scale
    ends = torch.tensor([0.0, 5e-324, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert draw(weights.expand(4, -1), ends).tolist() == [1, 1, 4, 4]


def test_draw_handles_nodes_and_scores():
    logits = scores(1, 3, 4)
    uniform = Noise(torch.arange(3)).numbers("choice", torch.zeros(3).long(), 4)
    drawn = draw_scores(logits, uniform)
    assert drawn.shape == (3, 4)
    for row, node in itertools.product(range(3), range(4)):
        alone = draw_scores(logits[row, node], uniform[row, node])
        assert drawn[row, node] == alone


def reference(seed, counter):
    """SplitMix64 in Python's own numbers."""
    golden, whole = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(bits):
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & whole
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & whole
        return bits ^ bits >> 31

    return (mix(mix(seed + golden & whole) + (counter + 1) * golden & whole) >> 11) * 2.0**-53


def test_noise_is_splitmix_addressed_by_counter():
    seeds = [0, 1, 7, 2**62, -1, -(2**63), 2**63 - 1]
    noise = Noise.of(seeds, torch.device("cpu"))
    place = torch.arange(len(seeds)) * 1000
    drafts, own = noise.numbers("draft", place, 5), noise.at(place)
    for row, seed in enumerate(seeds):
        assert own[row] == reference(seed, int(place[row]) << 18)
        for item in range(5):
            assert drafts[row, item] == reference(seed, (int(place[row]) << 18) + (item << 2) + 1)
    assert Noise.of([2**64 + 5], place.device).at(place[:1]) == Noise.of([5], place.device).at(
        place[:1]
    )


def test_a_rows_noise_does_not_depend_on_its_neighbours():
    seeds, place = torch.tensor([3, 4, 5]), torch.tensor([9, 0, 70])
    noise = Noise(seeds)
    together = noise.numbers("acceptance", place, 7)
    for row in range(3):
        alone = Noise(seeds[[row]])
        assert torch.equal(alone.numbers("acceptance", place[[row]], 7)[0], together[row])
        assert torch.equal(alone.at(place[[row]])[0], noise.at(place)[row])
    order = torch.tensor([2, 0])
    assert torch.equal(noise.rows(order).numbers("acceptance", place[order], 7), together[order])


def test_noise_belongs_to_positions_and_purposes():
    noise, place = Noise(torch.tensor([1, 2])), torch.tensor([[0, 1, 1], [2, 3, 9]])
    chosen = noise.at(place)
    assert chosen[0, 1] == chosen[0, 2]
    for column in range(3):
        assert torch.equal(noise.at(place[:, column]), chosen[:, column])
    purposes = ("choice", "draft", "acceptance")
    numbers = torch.stack([noise.numbers(p, place[:, 0], 50) for p in purposes])
    assert len(numbers.unique()) == numbers.numel()
    assert torch.equal(numbers[0, :, 0], chosen[:, 0])


@pytest.mark.parametrize("axis", ["seeds", "places", "items", "purposes"])
def test_noise_is_uniform_and_independent_along_every_axis(axis):
    """Neighbouring numbers fill the square evenly: a chi-square test over 256 cells."""
    count = 2**16
    ids = torch.arange(count)
    numbers = {
        "seeds": lambda: Noise(ids).at(torch.zeros_like(ids)),
        "places": lambda: Noise(torch.tensor([5])).at(ids[None])[0],
        "items": lambda: Noise(torch.tensor([5])).numbers("draft", ids[:1], count)[0],
        "purposes": lambda: torch.stack(
            [Noise(ids[: count // 2]).numbers(p, ids[: count // 2], 1)[:, 0] for p in PAIR], 1
        ).flatten(),
    }[axis]()
    cell = (numbers * 16).long().view(-1, 2)
    counted = (cell[:, 0] * 16 + cell[:, 1]).bincount(minlength=256).double()
    expected = count / 2 / 256
    statistic = ((counted - expected) ** 2 / expected).sum()
    assert 1e-3 < torch.special.gammaincc(torch.tensor(127.5).double(), statistic / 2) < 1 - 1e-3


PAIR = ("choice", "acceptance")
