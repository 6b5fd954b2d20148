"""CUDA graphs: refused without a GPU; with one, the tokens of the steps as they are."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.cuda_graphs import CudaGraphs


def test_there_is_no_graph_on_a_cpu():
    with pytest.raises(CapabilityError, match="but the model is on cpu"):
        CudaGraphs(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("drafter", ["plain", "ssd", "tree-ssd", "medusa-tree"])
def test_the_tokens_are_the_same(drafter):
    heads = {name: {"kind": name} for name in ("lm", "medusa")}
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3, heads=heads)).eval()
    model.to("cuda")
    batch = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
    options = {"drafter": drafter, "max_new_tokens": 40, "budget": 0.5, "pruner": "ttp"}
    model.batches = BatchPool("off")
    want = model.generate(**batch, **options)
    model.batches = BatchPool("on")
    for _ in range(2):
        assert torch.equal(want, model.generate(**batch, **options))
