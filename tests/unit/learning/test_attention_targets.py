"""The base's attention as a teacher: the rows of its own eager attention, and never all of them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.samples import batch_of
from tests.support.tiny import IMAGE_TOKEN, tiny_llava
from twigkit import SpecError, TwigModel, TwigSpec
from twigkit.learning import attention_targets as teaching
from twigkit.learning.attention_targets import teacher_layer, teacher_rows, text_starts
from twigkit.learning.forward import embed_batch, run_base
from twigkit.strategies.distillation import Distillation, DistillationSpec

ROWS = ("w3 i w4 a5", "w2 a3 w2 i w1 i w2 a2 w3 a4", "w5 a6")
LAYER = 5


def whole_matrices(base, batch):
    """The attention of every token of every row at the teacher's layer, from eager attention."""
    base.set_attn_implementation("eager")
    with torch.no_grad():
        output = base(**batch.inputs, output_attentions=True)
    return output.attentions[LAYER]


@pytest.mark.parametrize("at_once", [1, 3, 64])
@pytest.mark.parametrize("softmax", ["visual", "all"])
@pytest.mark.parametrize("which", ["query", "text", "answer"])
def test_a_turns_attention_is_the_mean_over_its_rows(monkeypatch, which, softmax, at_once):
    monkeypatch.setattr(teaching, "AT_ONCE", at_once)
    stack, batch = TwigModel(tiny_llava(8)).stack, batch_of(*ROWS)
    visual = batch.inputs["input_ids"] == IMAGE_TOKEN
    valid = batch.inputs["attention_mask"].bool()
    starts = text_starts(batch.turns, visual, valid)
    rows = teacher_rows(batch.turns, which, starts)
    _, probes = run_base(
        stack, embed_batch(stack, batch), 0, LAYER + 1, rows=rows.rows, probed=[LAYER]
    )
    found = rows.read(probes[LAYER], visual, softmax)
    assert found.shape == (3, 3, batch.labels.shape[1])
    every = whole_matrices(tiny_llava(8), batch) * visual[:, None, None]
    if softmax == "visual":  # what a softmax over the visual keys alone comes to, head by head
        every = every / every.sum(-1, keepdim=True).clamp(min=1e-30)
    every = every.mean(1)
    for row, turns in enumerate(batch.turns):
        for number, turn in enumerate(turns):
            first = starts[row][number] if which == "text" else turn.query
            last = turn.stop - 1 if which == "answer" else turn.query + 1
            expected = every[row, first:last].mean(0)
            real = valid[row]
            assert (found[row, number] - expected)[real].abs().max() < 1e-6
            assert float(found[row, number, ~real].abs().sum()) == 0.0
        assert float(found[row, len(turns) :].abs().sum()) == 0.0


def test_a_prompts_text_begins_after_its_pictures_and_the_answer_before():
    batch = batch_of(*ROWS)
    visual = batch.inputs["input_ids"] == IMAGE_TOKEN
    valid = batch.inputs["attention_mask"].bool()
    starts = text_starts(batch.turns, visual, valid)
    for row, (turns, firsts) in enumerate(zip(batch.turns, starts, strict=True)):
        texts = [range(first, turn.query + 1) for first, turn in zip(firsts, turns, strict=True)]
        assert not any(visual[row, list(text)].any() for text in texts)
        before = [int(valid[row].int().argmax()), *(turn.stop for turn in turns)]
        for text, stop in zip(texts, before, strict=False):
            assert text.start == stop or visual[row, text.start - 1]
    lengths = [
        [turn.query + 1 - first for first, turn in zip(firsts, turns, strict=True)]
        for firsts, turns in zip(starts, batch.turns, strict=True)
    ]
    assert lengths == [[4], [3, 2, 3], [6]], "with the start token"


def test_a_prompt_that_ends_with_a_picture_has_its_last_token_for_text():
    batch = batch_of("w4 i a2")
    visual = batch.inputs["input_ids"] == IMAGE_TOKEN
    valid = batch.inputs["attention_mask"].bool()
    assert text_starts(batch.turns, visual, valid) == [[batch.turns[0][0].query]]


class Square(TorchDispatchMode):
    """Notes tensors of numbers that hold one for every pair of tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.found = tokens, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                shape = tuple(tensor.shape)
                if len(shape) > 2 and min(shape[-2:]) >= self.tokens:
                    self.found.append((str(func), shape))
        return made


@pytest.mark.parametrize("which", ["query", "text", "answer"])
def test_no_step_of_the_training_makes_a_whole_attention_matrix(which):
    model = TwigModel(tiny_llava(8, context=2048))
    heads = {"pruning": {"kind": "pruning"}}
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2, heads=heads))
    spec = DistillationSpec(teacher_rows=which)
    objective, batch = (
        Distillation(spec, model.stack, model.twig),
        batch_of("w190 i w4 a5", "w190 i w6 a3"),
    )
    tokens = batch.labels.shape[1]
    with Square(tokens) as seen:
        parts, _ = objective(batch, 0.0, 0)
        parts["attention"].total.backward()
    assert seen.found == []
    with Square(tokens) as seen:  # what would be found
        whole_matrices(tiny_llava(8, context=2048), batch)
    assert seen.found


@pytest.mark.parametrize(
    ("given", "depth", "layer"),
    [(None, 32, 19), (19 / 32, 32, 19), (19 / 32, 40, 24), (1.0, 32, 31), (0.25, 8, 2), (7, 8, 7)],
)
def test_the_teacher_layer_is_an_index_or_a_fraction_of_the_depth(given, depth, layer):
    assert teacher_layer(depth, given) == layer


def test_a_teacher_layer_outside_the_base_is_refused():
    with pytest.raises(SpecError, match="outside the base's 8 layers; give 0 to 7"):
        teacher_layer(8, 8)
