"""Who wrote each token, and the picture of it."""

import pytest

from twigkit.demo.decoding_image import DRAFT, OWN, render_decoding, written_tokens


class Words:
    """A tokenizer of words; 0 ends an answer and has no text."""

    def decode(self, ids, **_):
        return " ".join(f"w{number}" for number in ids if number)


def test_the_last_token_of_a_step_is_the_targets_own():
    written = written_tokens([1, 2, 3, 4, 5, 6, 0], [3, 1, 2], Words())
    assert [token.text.strip() for token in written] == ["w1", "w2", "w3", "w4", "w5", "w6"]
    assert [token.drafted for token in written] == [False, True, True, False, False, True]
    assert [token.step for token in written] == [0, 1, 1, 1, 2, 3]


def test_plain_decoding_has_the_targets_tokens_alone():
    written = written_tokens([1, 2, 3], [1, 1], Words())
    assert not any(token.drafted for token in written)
    assert len(written_tokens([1, 2, 3], [], Words())) == 3


@pytest.mark.parametrize("gains", [[3, 1, 2], []])
def test_the_picture_has_both_colours_and_a_bar_per_step(gains):
    written = written_tokens([1, 2, 3, 4, 5, 6, 0], gains, Words())
    image = render_decoding(written, gains, "what ?")
    pixels = {color: count for count, color in image.getcolors(1 << 20)}
    legend = 22 * 15
    assert pixels[OWN] > 2 * legend
    assert (pixels[DRAFT] > 2 * legend) == bool(gains)
    assert (image.height > 250) == bool(gains)


def test_long_answers_break_into_lines():
    tokens = list(range(1, 200))
    short = render_decoding(written_tokens(tokens[:5], [], Words()), [])
    long = render_decoding(written_tokens(tokens, [], Words()), [])
    assert long.width == short.width
    assert long.height > short.height + 5 * 30
