"""Captured prefill in every family: prompts of several lengths share one capture."""

from __future__ import annotations

import pytest
import torch

from tests.support.capturing import both, recorded
from tests.support.prefills import apart
from twigkit.generation.captured_prefill import CapturedPrefill
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.prompt_bucket import BUCKET
from twigkit.interfaces.pruner import PromptLayout
from twigkit.interfaces.tiny_models import TinyRow
from twigkit.strategies.ttp import TtpPruner, TtpPrunerSpec
from twigkit.testing import CaptureRecorder

FILLERS = (0, 2, 13, 5)
BUDGET, WIPE = 0.5, 6


def batches(family):
    """Inputs of rows of one length, for each medium that the family takes."""
    rows = 2 if "batch" in family.capabilities else 1
    media = [kind for kind in ("image", "video") if kind in family.capabilities]
    for kind in media or [None]:
        yield family.tiny.inputs([TinyRow((kind,) if kind else (), words=4, seed=1)] * rows)


def filled_up(inputs, fillers):
    """The inputs with words at the end, to some tokens less than a bucket."""
    ids = inputs["input_ids"]
    count = (ids.shape[1] // BUCKET + 2) * BUCKET - fillers - ids.shape[1]
    words = torch.randint(3, 60, (len(ids), count), generator=torch.Generator().manual_seed(count))
    more = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    return {
        name: torch.cat((value, more.get(name, torch.zeros_like(words)).to(value.dtype)), 1)
        if value.shape == ids.shape
        else value
        for name, value in inputs.items()
    }


@torch.inference_mode()
def test_lengths_share_a_capture(family):
    stack, storage, pruners = family.model.stack, Storage(0, drafts=True), [None]
    if family.visual:
        pruners.append(TtpPruner(TtpPrunerSpec()))
    for inputs in batches(family):
        for pruner in pruners:
            captured, given = CapturedPrefill(CaptureRecorder), {"twig": family.model.twig}
            for fillers in FILLERS:
                prompt = stack.embed_prompt(**filled_up(inputs, fillers))
                assert prompt.lengths[0] % BUCKET == -fillers % BUCKET
                if pruner is not None:
                    layout = PromptLayout(prompt.visual_counts, stack.depth, 2, BUDGET, WIPE)
                    given |= {"pruner": pruner, "stages": pruner.stages(layout)}
                want = prefill(stack, prompt, storage, **given)
                assert apart(captured.fill(stack, prompt, storage, **given), want) == ""
            assert (len(captured), captured.replays) == (1, len(FILLERS) - 2)


@pytest.mark.parametrize(
    "family",
    [("qwen2_vl", "qwen2"), ("qwen3_vl", "dense"), ("gemma3", "tiny")],
    indirect=True,
    ids="-".join,
    scope="session",
)
@torch.inference_mode()
def test_answers_are_the_same(family):
    inputs = next(iter(batches(family)))
    options = {"budget": BUDGET, "wipe_layer": WIPE} if family.visual else {}
    drafter = {"kind": "ssd", "length": 3, "threshold": 0.0}
    with recorded(family.model):
        for fillers in FILLERS:
            given = filled_up(inputs, fillers)
            want, got = both(
                family.model,
                **given,
                drafter=drafter,
                max_new_tokens=8,
                eos_token_id=None,
                **options,
            )
            assert torch.equal(want, got)
        held = family.model.batches.prefill(family.model.stack, family.model.twig)
        assert (len(held), held.replays) == (1, len(FILLERS) - 2)
