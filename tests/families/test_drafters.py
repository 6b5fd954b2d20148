"""Every drafter in every family: all, half or none of its drafts accepted, and no token changes.

The heads are scripted, so that what is accepted does not depend on what a twig could know: after
a prompt that was pruned and wiped, or several tokens ahead. Layers, caches and masks are the
family's own.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from twigkit.plugins.discovery import default_registry
from twigkit.testing import AGREEMENTS, Script, ScriptedDrafter

NEW = 9
SPECS = {
    "ssd": {"length": 3, "threshold": 0.5},
    "tree-ssd": {"children": 3, "expanded": 2, "levels": 3, "nodes": 8},
    "medusa-tree": {"paths": [[0], [1], [0, 0], [0, 1], [0, 0, 0]]},
    "auto": {},
    "prompt-lookup": {"length": 3},
    "ngram": {"length": 3},
}
LONGEST = {"ssd": 4, "tree-ssd": 4, "medusa-tree": 4}
"""Tokens of a step whose drafts are all accepted."""


def entries():
    found = default_registry().entries("drafter")
    return [e for e in found if e.distribution == "twigkit" and e.name != "plain"]


def test_every_drafter_is_tried():
    assert {entry.name for entry in entries()} == set(SPECS)


def made(entry):
    """The drafter; a controller takes all its ways in turn."""
    drafter = entry.cls(entry.spec(**SPECS[entry.name]))
    if hasattr(drafter, "decide"):
        ways = itertools.cycle((1, 2, 0, 3))
        drafter.bandit.choose = lambda: next(ways)
    return drafter


def asked(family):
    """The prompts that differ most, and how they are pruned."""
    prompts = family.prompts()
    names = [n for n in ("video batch", "uneven batch", "image batch", "batch") if n in prompts]
    pruned = {"budget": 0.5, "wipe_layer": 6} if family.visual else {}
    return prompts[names[0]], {**pruned, "max_new_tokens": NEW}


@pytest.mark.parametrize("share", AGREEMENTS)
@torch.inference_mode()
def test_no_drafter_changes_a_token_whatever_is_accepted(family, share):
    inputs, options = asked(family)
    plain = family.model.generate(**inputs, **options, drafter="plain")
    width = inputs["input_ids"].shape[1]
    counts = plain.stats.new_tokens
    answers = [row[:n] for row, n in zip(plain[:, width:].tolist(), counts, strict=True)]
    assert max(counts) == NEW
    script = Script(family.model.stack.embed_prompt(**inputs), answers, share)
    for entry in entries():
        drafter = made(entry)
        if not drafter.heads and share != "half":
            continue  # what it drafts is in the text, and no script changes that
        scripted = ScriptedDrafter(drafter, script) if drafter.heads else drafter
        output = family.model.generate(**inputs, **options, drafter=scripted)
        assert torch.equal(plain, output), entry.name
        gains = {gain for row in output.stats.accepted_lengths for gain in row[:-1]}
        if entry.name not in LONGEST:
            continue
        if share == "always":
            assert gains <= {LONGEST[entry.name]}, entry.name
        elif share == "never":
            assert gains == {1}, entry.name
        else:
            assert 1 < max(gains) < LONGEST[entry.name], entry.name
