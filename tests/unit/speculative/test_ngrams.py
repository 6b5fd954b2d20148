"""Tables of n-grams: what follows most often, and what a file must hold."""

from __future__ import annotations

import random

import pytest

from twigkit import InputError
from twigkit.speculative.ngrams import NgramTable, propose_ngrams


def counted(texts, order, text, length):
    """The n-gram drafter in a few slow lines: scan all texts for every end."""
    text, drafts = list(text), []
    for _ in range(length):
        for size in range(min(order - 1, len(text)), 0, -1):
            best, times = None, {}
            for known in texts:
                for place in range(size, len(known)):
                    if known[place - size : place] == text[-size:]:
                        times[known[place]] = times.get(known[place], 0) + 1
                        if times[known[place]] >= times.get(best, 0):
                            best = known[place]
            if best is not None:
                break
        else:
            break
        text.append(best)
        drafts.append(best)
    return drafts


@pytest.mark.parametrize("seed", range(30))
def test_what_followed_most_often_is_proposed(seed, tmp_path):
    rng = random.Random(seed)
    order = rng.randint(2, 5)
    texts = [[rng.randrange(4) for _ in range(rng.randint(1, 15))] for _ in range(3)]
    table = NgramTable.count(texts, order)
    table.save(tmp_path / "grams.json")
    again = NgramTable.load(tmp_path / "grams.json")
    for _ in range(5):
        text = [rng.randrange(5) for _ in range(rng.randint(1, 6))]
        assert propose_ngrams([table], text, 6) == counted(texts, order, text, 6)
        assert propose_ngrams([again], text, 6) == propose_ngrams([table], text, 6)


def test_what_was_seen_counts_more_than_the_table():
    seen, table = NgramTable.count([[1, 2, 5]]), NgramTable.count([[1, 2, 8, 9], [3, 2, 8]])
    assert propose_ngrams([seen, table], [1, 2], 3) == [5]
    assert propose_ngrams([seen, table], [3, 2], 3) == [
        8,
        9,
    ]  # a longer end counts more than who saw it
    assert NgramTable.count([[4, -1, 6, 7]]).following((4,)) is None


@pytest.mark.parametrize("text", ["", "[]", '{"order": 4}', '{"order": 4, "grams": {"x": [1, 2]}}'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json is no table of n-grams"):
        NgramTable.load(tmp_path / "t.json")
    with pytest.raises(InputError, match="cannot be read"):
        NgramTable.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"order": 4, "grams": {"3": [-5, 1]}}',
        '{"order": 4, "grams": {"-3": [5, 1]}}',
        '{"order": 4, "grams": {"3": [Infinity, 1]}}',
        '{"order": 4, "grams": {"3": [5, NaN]}}',
        '{"order": 4, "grams": {"3": [5, 1.5]}}',
        '{"order": 4, "grams": {"3": [5, true]}}',
        '{"order": Infinity, "grams": {}}',
        '{"order": 0, "grams": {}}',
        '{"order": 4, "grams": {"3": [1180591620717411303424, 1]}}',
        '{"order": 4, "grams": {"1180591620717411303424": [5, 1]}}',
    ],
)
def test_numbers_that_are_no_tokens_are_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"stands where a whole number from [01] to") as refusal:
        NgramTable.load(tmp_path / "t.json")
    assert "\n" not in str(refusal.value)
