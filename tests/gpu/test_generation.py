"""Every family on the device: each drafter, pruned and not, against the base's own generate there.

``--device cpu`` runs the same checks without an accelerator.
"""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from twigkit.bench.compare import compare
from twigkit.bench.methods import Method
from twigkit.errors import CapabilityError
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.model import TwigModel
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import TwigSpec

pytestmark = [
    pytest.mark.gpu,
    # Steps that fall back to running as they are would give the right tokens too.
    pytest.mark.filterwarnings("error:a step could not be captured"),
    pytest.mark.filterwarnings("error:prefill (could not be captured|.* where fillers follow)"),
]

DRAFTERS = ("ssd", "tree-ssd", "medusa-tree", "prompt-lookup")
NEW = 16


def families():
    """Name and maker of every tiny model that can be generated with."""
    for entry in default_registry().entries("adapter"):
        for variant, make in entry.cls().variants().items():
            yield pytest.param(make, id=f"{entry.name}-{variant}")


def methods(prunes: bool) -> list[Method]:
    """Each drafter against plain decoding, which is held against Hugging Face's generate."""
    found = [Method("base", engine="hugging-face"), Method("plain", target="base")]
    found += [Method(name, target="plain", drafter=name) for name in DRAFTERS]
    if prunes:
        found.append(Method("pruned", budget=0.5))
        found += [
            Method(f"pruned, {name}", target="pruned", budget=0.5, drafter=name)
            for name in DRAFTERS
        ]
    return found


def placed(inputs, model):
    """The inputs on the model's device, pixels in its precision."""
    return {
        name: value.to(model.device, model.dtype)
        if value.is_floating_point()
        else value.to(model.device)
        for name, value in inputs.items()
    }


def comparable(model, dtype):
    """A base that transformers runs as published, in steps that can be captured."""
    for part in model.modules():
        config = part.config if isinstance(part, PreTrainedModel) else None
        if getattr(config, "attn_logit_softcapping", None):
            # Its SDPA leaves the soft limit of the attention's logits out, up to 5.17.
            part.set_attn_implementation("eager")
    if dtype == torch.float32:
        # torch's grouped product in another precision than bf16 copies numbers to the host.
        model.set_experts_implementation("batched_mm")
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("make", [*families()])
def test_every_method_says_what_the_base_says(make, dtype, device):
    family = make()
    spread_weights(family.model, seed=3)
    try:
        model = TwigModel(comparable(family.model.to(device, dtype), dtype))
    except CapabilityError as error:
        if "upgrade transformers" not in str(error):
            raise
        pytest.skip(str(error))
    heads = {"lm": "lm", "medusa": "medusa"}
    model.grow(TwigSpec.parse({"base": "tiny", "exit_layer": 2, "depth": 2, "heads": heads})).eval()
    pictures = "image" in model.adapter.capabilities
    row = TinyRow(("image",) if pictures else (), words=6, seed=1)
    prompt = placed(family.inputs([row]), model)
    visual = model.stack.visual_positions(prompt["input_ids"], prompt)
    prunes = "pruning" in model.adapter.capabilities and bool(visual.any())
    found = compare(model, [prompt], methods(prunes), max_new_tokens=NEW)
    assert {row.method.name: row.same for row in found.rows if row.wrong} == {}
    if dtype == torch.float32:
        assert all(row.difference is None for row in found.rows)


def test_a_prompt_on_the_host_serves_a_model_on_the_device(device):
    entry = default_registry().get("adapter", "llava_next")
    family = next(iter(entry.cls().variants().values()))()
    spread_weights(family.model, seed=3)
    model = TwigModel(family.model.to(device))
    rows = [TinyRow(("image",), words=6, seed=1), TinyRow(("image",), words=2, seed=2)]
    inputs = family.inputs(rows)
    assert all(value.device.type == "cpu" for value in inputs.values())
    here = model.generate(**inputs, max_new_tokens=8)
    there = model.generate(**placed(inputs, model), max_new_tokens=8)
    assert here.tolist() == there.tolist()
