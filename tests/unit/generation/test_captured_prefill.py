"""A replayed prefill gives what prefill gives; what cannot be captured runs as it is.

The proof that prefill can be captured needs no GPU: a recorder runs it as a CUDA graph would and
raises where a graph could not be captured, or would be wrong when replayed.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace

import pytest
import torch

from tests.support.capturing import both, capturing_model, recorded
from tests.support.prefills import apart
from tests.support.tiny import VISUAL, llava_inputs
from twigkit.errors import FamilyWarning
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.captured_pieces import CapturedPieces
from twigkit.generation.captured_prefill import CapturedPrefill, capturable, tensors_of
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.prompt_bucket import BUCKET
from twigkit.generation.visual_choice import ends_visual
from twigkit.interfaces.pruner import Selection, Stage
from twigkit.testing import CaptureError, CaptureRecorder
from twigkit.testing.capture import record

ALONE, ROWS, ENDS = [(3, 1, 5)], [(3, 1, 5), (6, 2, 2), (1, 0, 9)], [(2, 1, 0)]
EQUAL = [(3, 1, 22), (6, 2, 2)]
"""Two rows of one length with different pictures."""
CUTS = [Stage(2, [7, 9, 0], attention=1), Stage(6, [0, 0, 0])]
TREE = {"kind": "tree-ssd", "nodes": 8, "children": 3, "expanded": 2, "threshold": 0.1}


@pytest.fixture(scope="module")
def model():
    return capturing_model()


@pytest.fixture
def captured():
    return CapturedPrefill(CaptureRecorder)


class Attending:
    """A pruner that may be captured."""

    capabilities = frozenset({"capturable"})

    def select(self, stage, context):
        return Selection(context.attention)


class Asking(Attending):
    def select(self, stage, context):
        return Selection(context.attention * float(context.attention.max()))


class Keeping(Attending):
    def select(self, stage, context):
        self.kept = context.attention * 2
        return Selection(self.kept)


class OfTheLastPlace(Attending):
    """A pruner that takes the last place for the last prompt token."""

    def select(self, stage, context):
        last = context.hidden[:, -1:]
        return Selection((context.hidden * last).sum(-1))


class Broken(CapturedPieces):
    """Captures as a GPU would that nothing can be captured on, or whose replays do nothing."""

    def __init__(self, *, idle=False):
        super().__init__()
        self.idle = idle

    def record(self, piece):
        try:
            record(piece)
        except CaptureError as error:
            raise RuntimeError(str(error)) from error
        return (lambda: None) if self.idle else piece


def prompt_of(model, rows=ROWS, seed=0):
    return model.stack.embed_prompt(**llava_inputs(rows, seed=seed))


@torch.inference_mode()
def fill(model, run, prompt, pruner=None, stages=None, **layout):
    """Prefill, with stages of as many rows as the prompt has."""
    stages = CUTS if stages is None and pruner is not None else stages or []
    stages = [replace(stage, keep=stage.keep[: len(prompt.ids)]) for stage in stages]
    storage = Storage(0, **{"drafts": True, **layout})
    return run(model.stack, prompt, storage, twig=model.twig, pruner=pruner, stages=stages)


@torch.inference_mode()
def held_by(model):
    return model.batches.prefill(model.stack, model.twig)


def equal(first, second):
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("rows", "source", "kept_only"),
    [
        (ALONE, None, False),
        (ROWS, None, False),
        (ROWS, 1, False),
        (ALONE, 3, False),  # a layer that is run ahead
        (ALONE, "twig", False),
        (ROWS, "twig", True),
        (ENDS, 1, True),
    ],
)
def test_a_replay_gives_what_prefill_gives(model, captured, rows, kept_only, source):
    pruner = None if source is None else Attending()
    stages = [replace(CUTS[0], attention=source), CUTS[1]]
    given = {"pruner": pruner, "stages": stages if pruner else None, "kept_only": kept_only}
    found = []
    for seed in range(4):
        prompt = prompt_of(model, rows, seed)
        want = fill(model, prefill, prompt, **given)
        found.append((want, fill(model, captured.fill, prompt, **given)))
    assert (len(captured), captured.replays) == (1, 2)
    # What was given before is still as it was.
    assert [apart(*pair) for pair in found] == [""] * 4
    assert apart(found[2][0], found[3][0])


@pytest.mark.parametrize("kept_only", [False, True])
@pytest.mark.parametrize("source", [None, 1, 3, "twig"])
@pytest.mark.parametrize("rows", [ALONE, EQUAL], ids=["alone", "equal"])
def test_lengths_of_a_bucket_share_a_capture(model, captured, rows, source, kept_only):
    pruner = None if source is None else Attending()
    stages = [replace(CUTS[0], attention=source), CUTS[1]]
    given = {"pruner": pruner, "stages": stages if pruner else None, "kept_only": kept_only}
    longest = max(1 + before + (VISUAL + 1) * count + after for before, count, after in rows)
    lengths = {2 * BUCKET: 64, 2 * BUCKET - 1: 1, 2 * BUCKET - 19: 2, 2 * BUCKET - 7: 3}
    found = []
    for length, seed in lengths.items():  # the first has no fillers
        longer = [(before, count, after + length - longest) for before, count, after in rows]
        prompt = prompt_of(model, longer, seed)
        assert prompt.lengths == [length] * len(rows)
        want = fill(model, prefill, prompt, **given)
        found.append((want, fill(model, captured.fill, prompt, **given)))
    assert (len(captured), captured.replays) == (1, 2)
    assert [apart(*pair) for pair in found] == [""] * 4


def test_a_prompt_is_prefilled_alike_whether_it_came_before(model, captured):
    prompt = prompt_of(model, EQUAL)
    filled = [fill(model, captured.fill, prompt) for _ in range(3)]
    assert captured.replays == 1
    assert equal(filled[0], filled[1])
    assert equal(filled[0], filled[2])


def test_a_prompt_that_ends_with_its_picture_is_captured_by_its_length(model, captured):
    pruner = Attending()
    for words in (3, 4):
        inputs = llava_inputs([(words, 1, 0)])
        inputs = {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")} | {
            "pixel_values": inputs["pixel_values"]
        }
        prompt = model.stack.embed_prompt(**inputs)
        assert ends_visual(prompt) == [True]
        want = fill(model, prefill, prompt, pruner)
        for _ in range(3):
            assert not apart(want, fill(model, captured.fill, prompt, pruner))
    assert (len(captured), captured.replays) == (2, 2)


def test_a_pruner_that_takes_the_last_place_is_captured_by_length(model, captured):
    prompt, pruner = prompt_of(model, ALONE), OfTheLastPlace()
    want = fill(model, prefill, prompt, pruner)
    with pytest.warns(FamilyWarning, match="other scores where fillers follow"):
        assert not apart(want, fill(model, captured.fill, prompt, pruner))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert not apart(want, fill(model, captured.fill, prompt, pruner))
    assert (len(captured), captured.replays) == (1, 1)


@pytest.mark.parametrize(
    ("drafter", "pruning"),
    [
        ("plain", {"budget": 0.5, "pruner": "p-head"}),
        ({"kind": "ssd", "length": 2}, {"budget": 0.5}),
        (TREE, {"budget": 0.5, "pruner": "fastv"}),
        ("medusa-tree", {}),
    ],
    ids=["plain", "ssd", "tree", "medusa"],
)
def test_answers_are_the_same(model, drafter, pruning):
    options = {"drafter": drafter, "max_new_tokens": 3, **pruning}
    with recorded(model):
        for seed in range(3):
            want, got = both(model, **llava_inputs(ROWS[:2], seed=seed), **options)
            assert torch.equal(want, got)
            for name in ("kept_tokens", "visual_per_layer", "kv_bytes_prompt", "kv_bytes"):
                assert getattr(want.stats, name) == getattr(got.stats, name)
        assert (len(held_by(model)), held_by(model).replays) == (1, 1)


@pytest.mark.parametrize(
    ("drafter", "pruning"),
    [
        ("plain", {}),
        ("plain", {"budget": 0.5, "pruner": "pyramiddrop"}),
        ({"kind": "ssd", "length": 2}, {"budget": 0.5, "pruner": "p-head"}),
        ({"kind": "ssd", "length": 2}, {"budget": 0.5, "draft_cache": "kept"}),
        (TREE, {}),
        (TREE, {"budget": 0.5, "pruner": "ttp"}),
        ("medusa-tree", {}),
        ("medusa-tree", {"budget": 0.5, "pruner": "fastv"}),
    ],
)
@pytest.mark.parametrize("rows", [ALONE, EQUAL], ids=["alone", "equal"])
def test_answers_are_the_same_at_every_length_of_a_bucket(model, rows, drafter, pruning):
    options = {"drafter": drafter, "max_new_tokens": 6, "eos_token_id": None, **pruning}
    with recorded(model):
        for seed, words in enumerate((0, 2, 5)):
            longer = [(before, count, after + words) for before, count, after in rows]
            want, got = both(model, **llava_inputs(longer, seed=seed), **options)
            assert torch.equal(want, got)
            for name in ("kept_tokens", "visual_per_layer", "kv_bytes_prompt", "kv_bytes"):
                assert getattr(want.stats, name) == getattr(got.stats, name)
        assert (len(held_by(model)), held_by(model).replays) == (1, 1)


def test_a_changed_base_drops_what_was_captured(model):
    with recorded(model):
        for _ in range(3):
            model.generate(**llava_inputs(ALONE), drafter="plain", max_new_tokens=2)
        held = held_by(model)
        assert held.replays == 1
        layer = model.base.model.language_model.layers[3]
        handle = layer.register_forward_hook(lambda module, args, output: output.flip(-1))
        try:
            want, got = both(model, **llava_inputs(ALONE), drafter="plain", max_new_tokens=4)
        finally:
            handle.remove()
        assert torch.equal(want, got)
        assert held_by(model) is not held


def test_the_least_recently_used_goes(model):
    captured = CapturedPrefill(CaptureRecorder, most=2)
    shapes = [prompt_of(model, [(2, pictures, 2)]) for pictures in (3, 2, 1)]
    for place in (0, 0, 1, 1, 0, 2, 2, 0):
        fill(model, captured.fill, shapes[place])
    assert (len(captured), captured.replays) == (2, 2)
    for count in (2, 2, 3):  # seen, captured anew, replayed
        fill(model, captured.fill, shapes[1])
        assert captured.replays == count


def test_more_shapes_in_turn_than_are_kept_are_not_captured(model):
    captured = CapturedPrefill(CaptureRecorder, most=2)
    shapes = [prompt_of(model, [(2, pictures, 2)]) for pictures in (3, 2, 1)]
    for prompt in shapes * 3:
        fill(model, captured.fill, prompt)
    assert not len(captured)


def test_a_longer_prompt_takes_the_memory_of_what_was_captured(model, captured):
    short, long = prompt_of(model, ALONE), prompt_of(model, [(9, 4, 9)])
    for prompt in (short, short, long, long, short, short, short):
        assert not apart(fill(model, captured.fill, prompt), fill(model, prefill, prompt))
    assert (len(captured), captured.replays) == (2, 1)


@pytest.mark.parametrize(
    ("pruner", "message"), [(Asking(), "waits for the device"), (Keeping(), "outlives the piece")]
)
def test_a_pruner_that_cannot_be_captured_turns_the_proof_red(model, captured, pruner, message):
    prompt = prompt_of(model)
    fill(model, captured.fill, prompt, pruner)
    with pytest.raises(CaptureError, match=message):
        fill(model, captured.fill, prompt, pruner)


@pytest.mark.parametrize("idle", [False, True])
def test_what_goes_wrong_falls_back_with_one_warning(model, idle):
    captured = CapturedPrefill(lambda: Broken(idle=idle))
    pruner, prompt = Attending() if idle else Asking(), prompt_of(model)
    want = fill(model, prefill, prompt, pruner)
    assert equal(want, fill(model, captured.fill, prompt, pruner))
    reason = "its replay gave other states" if idle else ".*waits for the device"
    with pytest.warns(FamilyWarning, match=f"prefill could not be captured.*: {reason}"):
        assert equal(want, fill(model, captured.fill, prompt, pruner))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert equal(want, fill(model, captured.fill, prompt, pruner))
    assert captured.failed
    assert not captured.replays


def test_what_is_told_beforehand_is_not_tried(model, captured):
    prompt = prompt_of(model)
    silent = Asking()
    silent.capabilities = frozenset()
    for _ in range(3):
        fill(model, captured.fill, prompt, silent)
    assert not len(captured)
    stages = [Stage(2, [4, 4, 0], attention=1)]
    assert capturable(model.stack, prompt, Attending(), stages)
    of_text = [replace(stages[0], rows="text")]
    assert not capturable(model.stack, prompt, Attending(), of_text)
    many = replace(prompt, ids=torch.zeros(2, 2049))
    assert not capturable(model.stack, many, None, [])
    assert not capturable(model.stack, replace(prompt, table=5), None, [])


def test_while_another_thread_prefills_nothing_is_replayed(model, captured):
    inside, outside = threading.Event(), threading.Event()
    prompt = prompt_of(model, [(3, 1, BUCKET - VISUAL - 5)])
    assert prompt.lengths == [BUCKET]  # so that nothing is tried with fillers beforehand

    class Waiting(Attending):
        def select(self, stage, context):
            inside.set()
            outside.wait(20)
            return super().select(stage, context)

    want = fill(model, prefill, prompt)
    fill(model, captured.fill, prompt)
    other = threading.Thread(target=fill, args=(model, captured.fill, prompt, Waiting()))
    other.start()
    assert inside.wait(20)
    assert not apart(want, fill(model, captured.fill, prompt))
    outside.set()
    other.join()
    assert not len(captured)


@pytest.mark.gpu
@pytest.mark.parametrize("pruning", [{}, {"budget": 0.5}, {"budget": 0.5, "pruner": "p-head"}])
def test_a_gpu_replays_prefill(pruning):
    model = capturing_model()
    model.to("cuda")
    with warnings.catch_warnings():
        for message in (".*could not be captured", "prefill .* where fillers follow"):
            warnings.filterwarnings("error", message=message)
        for rows in (ALONE, EQUAL, ROWS):
            model.batches = BatchPool("on")
            for seed in range(4):
                words = 0 if rows is ROWS else seed  # padded rows are captured by their lengths
                longer = [(before, count, after + words) for before, count, after in rows]
                inputs = llava_inputs(longer, seed=seed)
                want, got = both(model, **inputs, drafter="ssd", max_new_tokens=8, **pruning)
                assert torch.equal(want, got)
            held = held_by(model)
            assert (len(held), held.replays) == (1, 2)
