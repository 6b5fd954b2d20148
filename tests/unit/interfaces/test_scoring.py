"""The rules that benchmarks score by, on cases worked out by hand."""

import pytest

from twigkit.interfaces import (
    consensus_accuracy,
    infer_option,
    normalise_answer,
    relaxed_match,
    said_yes_or_no,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Cat.", "cat"),
        ("two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("lets", "lets"),
        ("couldntve", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("black-white", "black white"),  # a mark that joins becomes a space
        ("black -white", "black white"),  # one beside a space goes
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("a\nb\tc", "b c"),
    ],
)
def test_answers_are_normalised(text, plain):
    assert normalise_answer(text) == plain


@pytest.mark.parametrize(
    ("same", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_ten_answers(same, score):
    """With n of ten saying it: (n min(1, (n-1)/3) + (10-n) min(1, n/3)) / 10."""
    references = ["yes"] * same + ["no"] * (10 - same)
    assert vqa_accuracy("Yes.", references) == pytest.approx(score)
    assert consensus_accuracy("Yes.", references) == pytest.approx(score)


def test_references_that_agree_stay_as_they_are_in_vqa():
    assert vqa_accuracy("the cat", ["the cat"] * 10) == 0
    assert vqa_accuracy("cat", ["cat"] * 10) == 1
    assert vqa_accuracy("the cat", ["the cat"] * 9 + ["dog"]) == 1
    assert consensus_accuracy("the cat", ["the cat"] * 10) == 1


def test_possessives_stand_apart_in_textvqa():
    assert consensus_accuracy("Sam's, bar?", ["sams bar"] * 5 + ["sam 's bar"] * 5) == 1
    assert vqa_accuracy("x", []) == 0


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("105", "100", True),
        ("106", "100", False),
        ("95", "100", True),
        ("5%", "0.05", True),
        ("-4.9", "-5", True),
        ("0", "0", True),
        ("0.01", "0", False),
        ("Red", "red", True),
        ("100 apples", "100", False),
    ],
)
def test_numbers_are_right_within_five_per_cent(answer, reference, right):
    assert relaxed_match(answer, reference) is right


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"),
        ("No, there is none", "no"),
        ("There is not a cat. Yes.", "no"),
        ("Yes. There is no doubt", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
    ],
)
def test_yes_unless_the_first_sentence_denies(text, said):
    assert said_yes_or_no(text) == said


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("B is what I would say if you asked me", ""),  # too far from the end
        ("A or B", ""),
        ("a dog", "B"),
        ("cat and dog", ""),
        ("I really have no idea at all about any of this, a dog maybe", ""),  # too long
        ("", ""),
    ],
)
def test_an_option_is_read_only_without_doubt(text, letter):
    assert infer_option(text, {"A": "cat", "B": "dog"}) == letter
