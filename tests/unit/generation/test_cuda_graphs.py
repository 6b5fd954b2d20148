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


def captured_product(graphs, width=2048):
    """A captured product that asks for a workspace: inputs, output and replay."""
    states = torch.randn(4, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(width, width, device="cuda", dtype=torch.bfloat16)
    output = torch.zeros_like(states)

    def piece():
        output.copy_(torch.nn.functional.linear(states, weight))

    graphs.warm_up(piece)
    return piece, output, graphs.record(piece)


def gives_the_same(piece, output, replay):
    """Whether a replay writes what the piece itself writes."""
    piece()
    expected = output.clone()
    output.zero_()
    replay()
    torch.cuda.synchronize()
    return torch.equal(output, expected)


@pytest.mark.gpu
@torch.inference_mode()
def test_graphs_outlive_others_of_their_pool():
    graphs = CudaGraphs(torch.device("cuda"))
    first, (piece, output, replay) = captured_product(graphs), captured_product(graphs)
    del first  # its graph goes, and what torch frees with it
    torch.cuda.empty_cache()
    others = [torch.full((2**22,), 7.0, device="cuda") for _ in range(16)]  # where it may have been
    assert gives_the_same(piece, output, replay)
    assert all((other == 7.0).all() for other in others)


@pytest.mark.gpu
@torch.inference_mode()
def test_a_capture_that_fails_leaves_the_device_as_it_was():
    graphs, stream = CudaGraphs(torch.device("cuda")), torch.cuda.current_stream()
    number = torch.ones(1, device="cuda")
    with pytest.raises(RuntimeError, match="captur"):
        graphs.record(lambda: number.item())
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # which fails while torch believes that something is captured
    assert torch.isfinite(torch.randn(1, device="cuda")).all()  # its generator is not captured
    assert gives_the_same(*captured_product(CudaGraphs(torch.device("cuda"))))
