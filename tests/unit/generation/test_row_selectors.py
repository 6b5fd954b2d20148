"""Each row's tokens are selected in its own way."""

from __future__ import annotations

import torch

from twigkit.generation.row_selectors import RowSelectors, row_of
from twigkit.generation.token_selection import ProcessedSelector, Texts, TokenSelection
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.sampling import Noise, Sampling


def drawing(seed):
    texts = Texts(torch.tensor([[1, 2]]), torch.ones(1, 2).bool(), [[]])
    selection = TokenSelection.drawing(Sampling(temperature=3.0))
    return ProcessedSelector(selection, texts, Noise.of([seed], torch.device("cpu")), eager=True)


def tree():
    """Three rows with the drafts 5 and 6, one after the other."""
    candidates = Candidates.path(torch.tensor([3, 3, 3]), capacity=3)
    drafts = torch.tensor([[5, 6]] * 3)
    candidates.add(drafts, None, torch.zeros(3, 2))
    return candidates


def test_rows_are_selected_apart():
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    first = RowSelectors([None, drawing(7), drawing(8)]).first(logits)
    assert first[0] == logits[0].argmax()
    for row, seed in ((1, 7), (2, 8)):
        assert first[row] == drawing(seed).first(logits[row : row + 1])[0]


def test_rows_accept_what_they_accept_alone():
    logits = torch.randn(3, 3, 12, generator=torch.Generator().manual_seed(1))
    logits[:, 0, 5] += 9
    start = logits[:, 0]
    selectors = RowSelectors([None, drawing(7), drawing(8)])
    selectors.first(start)
    accepted = selectors.accept(tree(), logits, 2)
    assert accepted.path.shape == (3, 3)
    greedy = RowSelectors([None] * 3).accept(tree(), logits, 2)
    assert accepted.count[0] == greedy.count[0] >= 1
    for row, seed in ((1, 7), (2, 8)):
        own = drawing(seed)
        own.first(start[row : row + 1])
        alone = own.accept(row_of(tree(), row), logits[row : row + 1], 2)
        assert accepted.count[row] == alone.count[0]
        assert accepted.next_token[row] == alone.next_token[0]


def test_the_other_rows_are_selected_as_the_batch_does():
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    texts = Texts(torch.tensor([[1], [2]]), torch.ones(2, 1).bool(), [[], []])
    selection = TokenSelection.drawing(Sampling(temperature=3.0))
    noise = Noise.of([4, 5], torch.device("cpu"))
    selectors = RowSelectors(
        [None, drawing(7)], ProcessedSelector(selection, texts, noise, eager=True)
    )
    first = selectors.first(logits)
    assert first[0] == drawing(4).first(logits[:1])[0]
    assert first[1] == drawing(7).first(logits[1:])[0]


def test_a_row_of_a_tree_is_a_view():
    whole = tree()
    own = row_of(whole, 1)
    assert own.tokens.tolist() == [[3, 5, 6]]
    whole.tokens[1, 2] = 9
    assert own.tokens[0, 2] == 9
    assert (own.size, own.height, own.linear) == (3, 2, True)
