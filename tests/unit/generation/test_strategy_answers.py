"""A strategy that returns something else than its contract asks for is told what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from tests.support.tiny import tiny_llava
from twigkit import PluginError, TwigModel, TwigSpec
from twigkit.adapters.llava import LlavaAdapter
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.pruning_plan import meet_budget
from twigkit.heads.lm import LmHead
from twigkit.interfaces.pruner import PromptLayout, PruneContext, Selection, Stage
from twigkit.interfaces.tiny_models import TinyRow
from twigkit.testing import Lab


class OwnPruner:
    """A pruner that returns what it was told to."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch"})
    needs_twig: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, stages: Any = None, select: Any = None) -> None:
        self._stages, self._select = stages, select

    def stages(self, layout: PromptLayout) -> list[Stage]:
        return self._stages  # type: ignore[no-any-return]

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        return self._select(context)  # type: ignore[no-any-return]


STAGE = Stage(2, [3, 0])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (None, "returned None; expected a list of Stage"),
        (STAGE, "returned a Stage; expected a list of Stage"),
        ([(2, [3, 0])], "returned a list with a tuple; expected"),
        ([Stage(9, [3, 0])], "after layer 9; expected the number of base layers.* from 0 to 8"),
        ([Stage(-1, [3, 0])], "after layer -1; expected"),
        ([Stage(4, [3, 0]), STAGE], "layer 4 before the one after layer 2; return them by rising"),
        ([Stage(2, 3)], "keeps 3; expected a list of the visual tokens"),  # type: ignore[arg-type]
        ([Stage(2, [3])], re.escape("keeps [3]; expected a list") + ".* for each of 2 rows"),
        ([Stage(2, [3, -1])], r"keeps \[3, -1\]; .* at least 0"),
        ([Stage(2, [2.5, 0])], r"keeps \[2.5, 0\]"),  # type: ignore[list-item]
        ([Stage(2, torch.tensor([3, 0]))], "keeps tensor"),  # type: ignore[arg-type]
        ([replace(STAGE, attention="twigs")], "attention of 'twigs'; expected"),
        ([replace(STAGE, attention=1, rows="all")], "rows 'all'; expected 'last' or 'text'"),
    ],
)
def test_a_plan_that_is_none_is_refused(stages, message):
    layout = PromptLayout([6, 0], 8, 2, 0.5, None)
    with pytest.raises(PluginError, match=rf"stages\(\) of the pruner OwnPruner .*{message}"):
        meet_budget(OwnPruner(stages), layout)


def test_a_plan_with_several_cuts_in_one_place_is_taken():
    stages = [STAGE, Stage(2, [1, 0], attention=1, rows="text"), Stage(8, [0, 0])]
    assert meet_budget(OwnPruner(stages), PromptLayout([6, 0], 8, 2, 0.5, None)) == stages


@torch.inference_mode()
def answer(select):
    """Prune a tiny prompt of two rows by what a function makes of the context."""
    base = tiny_llava(layers=4)
    stack = LlavaAdapter().stack(base)
    rows = [TinyRow(("image",), 4, 1), TinyRow((), 3, 2)]
    prompt = stack.embed_prompt(**LlavaAdapter().tiny().inputs(rows))
    stages = [Stage(2, [3, 0])]
    return prefill(
        stack, prompt, Storage(4, drafts=False), pruner=OwnPruner(select=select), stages=stages
    )


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda c: None, r"None; expected a Selection\(scores\)"),
        (lambda c: c.hidden[..., 0], r"a tensor \[2, \d+\] of float32; expected a Sel"),
        (lambda c: Selection(c.hidden[:, :4, 0]), r"a tensor \[2, 4\] of .*= \[2, \d\d\]"),
        (lambda c: Selection(c.hidden[:1, :, 0]), r"a tensor \[1, \d+\] of .*\[batch, tokens\]"),
        (lambda c: Selection(c.hidden[..., 0].tolist()), "scores that are a list; expected"),
        (lambda c: Selection(c.hidden[..., 0].to(torch.complex64)), "of complex64; expected one"),
        (lambda c: Selection(c.hidden[..., 0], c.hidden[:, 1:]), r"states that are a tensor"),
        (lambda c: Selection(c.hidden[..., 0], c.hidden.double()), "float64; .* of float32"),
    ],
)
def test_scores_and_states_that_do_not_fit_are_refused(select, message):
    with pytest.raises(PluginError, match=rf"OwnPruner after layer 2 returned .*{message}"):
        answer(select)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float64])
def test_scores_may_be_any_real_numbers(dtype):
    (kept,) = answer(lambda context: Selection(context.visual.to(dtype))).kept
    assert kept.stage.keep == [3, 0]


class OwnDrafter:
    """A drafter that returns what a function makes of the candidates."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    linear, capacity, size, height = False, 4, 4, 1

    def __init__(self, draft: Any) -> None:
        self._draft = draft

    def draft(self, draft_model: Any, candidates: Any, room: int) -> Any:
        draft_model.expand(candidates, range(1))
        return self._draft(candidates)


def added(candidates, token):
    """Add two nodes with a token below the root."""
    tokens = torch.full((len(candidates.tokens), 2), token)
    candidates.add(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.float32))
    return candidates


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava(layers=4))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=1))
    return model


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (lambda c: None, "drafter OwnDrafter returned None; expected the candidates"),
        (
            lambda c: added(c, 5).tokens,
            r"returned a tensor \[1, 4\] of int64; expected",
        ),
        (lambda c: added(c, 1000), "ids lie between 1000 and 1000, and the base"),
        (lambda c: added(c, -1), "between -1 and -1.* of the base's vocabulary alone"),
    ],
)
def test_drafts_that_are_none_are_refused(model, draft, message):
    with pytest.raises(PluginError, match=message):
        model.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=8, drafter=OwnDrafter(draft))


def test_a_node_is_passed_once(model):
    class Again(OwnDrafter):
        def draft(self, draft_model: Any, candidates: Any, room: int) -> Any:
            for _ in range(2):
                draft_model.expand(candidates, range(1))
            return candidates

    with pytest.raises(PluginError, match=r"range\(0, 1\) holds nodes that were passed before"):
        model.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=8, drafter=Again(None))


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (lambda candidates: candidates.add(tokens(9), None, tokens(9).float()), "9 nodes do not"),
        (
            lambda candidates: candidates.add(tokens(1), None, tokens(2).float()),
            "nodes to add: logprob",
        ),
    ],
)
def test_candidates_that_do_not_fit_are_the_drafters_mistake_and_not_the_users(
    model, draft, message
):
    with pytest.raises(PluginError, match=f"^the drafter OwnDrafter: {message}"):
        model.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=8, drafter=OwnDrafter(draft))


def tokens(count: int) -> torch.Tensor:
    """So many tokens for one row."""
    return torch.full((1, count), 7)


class OwnHead(torch.nn.Linear):
    """A head that returns what it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__(64, 100)
        self.answer = answer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.answer(super().forward(hidden))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: 1 / 0, "the head OwnHead failed: ZeroDivisionError"),
        (
            lambda logits: logits[:, -1],
            r"head OwnHead makes \[1, 100\] of states \[1, 1, 64\]; exp",
        ),
        (lambda logits: (logits,), r"head OwnHead makes a tuple of states \[1, 1, 64\]; exp"),
    ],
)
def test_a_head_is_blamed_and_not_the_drafter_that_uses_it(answer, message):
    model = TwigModel(tiny_llava(layers=4))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=1))
    model.twig.heads["lm"] = OwnHead(answer)
    with pytest.raises(PluginError, match=message):
        model.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=8, drafter="ssd")


def test_a_head_that_grows_into_nothing_is_named(monkeypatch):
    monkeypatch.setattr(LmHead, "grow", classmethod(lambda cls, spec, stack: None))
    model = TwigModel(tiny_llava(layers=4))
    with pytest.raises(PluginError, match=r"grow\(\) of the head 'lm' of .* returned a NoneType"):
        model.grow(TwigSpec(base="tiny", exit_layer=2, depth=1))


def test_the_kit_names_the_strategy_that_it_watches():
    adapter = LlavaAdapter()
    lab = Lab(adapter, adapter.tiny(), exit_layer=2)
    rows, twig = [TinyRow(("image",), 4, 1)], lab.twig("always", ("lm",))
    with pytest.raises(PluginError, match="drafter OwnDrafter failed: ZeroDivisionError"):
        lab.run(rows, OwnDrafter(lambda candidates: 1 / 0), twig=twig)
    with pytest.raises(PluginError, match="pruner OwnPruner failed: ZeroDivisionError"):
        lab.run(rows, pruner=OwnPruner([Stage(2, [3])], lambda context: 1 / 0), twig=twig)
