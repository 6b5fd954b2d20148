"""Which kernel serves, and the reason where one cannot."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.backbone import attention, attention_kernel
from twigkit.backbone.attention_kernel import choose_kernel, flash_obstacle, kernels_for
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_context import LayerContext
from twigkit.errors import CapabilityError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "width", "reason"),
    [
        (CPU, torch.float16, 64, "it runs on CUDA devices, and the base is on cpu"),
        (CUDA, torch.float32, 64, "float16 and bfloat16, and the base in torch.float32"),
        (CUDA, torch.bfloat16, 512, "at most 256 wide, and the base's 512"),
        (CUDA, torch.bfloat16, 60, "a multiple of 8"),
    ],
)
def test_what_flash_attn_cannot_serve(device, dtype, width, reason):
    assert reason in flash_obstacle(device, dtype, width)
    assert choose_kernel("auto", device, dtype, width) == "sdpa"
    with pytest.raises(CapabilityError, match="Choose 'auto' or 'sdpa'"):
        choose_kernel("flash", device, dtype, width)


@pytest.fixture
def ampere(monkeypatch):
    """Let a GPU that flash-attn serves seem to be there; a test may install a package for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    attention_kernel._package_obstacle.cache_clear()
    yield monkeypatch
    attention_kernel._package_obstacle.cache_clear()


def install(monkeypatch, folder, source, name="__init__.py"):
    """Put a package flash_attn on the path."""
    file = folder / "flash_attn" / name
    file.parent.mkdir(parents=True)
    file.write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)


def test_flash_attn_is_found_where_it_is_installed(ampere, tmp_path):
    names = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
    install(ampere, tmp_path, "\n".join(f"def {name}(): ..." for name in names))
    assert flash_obstacle(CUDA, torch.bfloat16, 128) is None
    assert choose_kernel("auto", CUDA, torch.bfloat16, 128) == "flash"
    assert choose_kernel("flash", CUDA, torch.float16, 128) == "flash"
    assert choose_kernel("sdpa", CUDA, torch.float16, 128) == "sdpa"
    assert attention_kernel.flash_function(names[0]).__module__ == "flash_attn"


def test_flash_attn_that_is_not_installed(ampere):
    ampere.setattr(importlib.util, "find_spec", lambda name: None)
    assert "is not installed (pip install" in flash_obstacle(CUDA, torch.bfloat16, 128)


@pytest.mark.parametrize(
    ("source", "file", "reason"),
    [
        ("raise ImportError('undefined symbol: _ZN3c105Error')", "__init__.py", "undefined symbol"),
        ("raise OSError('libcudart.so.12')", "__init__.py", "libcudart.so.12"),
        ("def flash_attn_func(): ...", "__init__.py", "has no flash_attn_varlen_func"),
        ("def flash_attn_func(): ...", "cute.py", "has no flash_attn_func"),  # flash-attn 4 alone
    ],
)
def test_a_package_that_cannot_serve_is_told_of_and_not_taken(
    ampere, tmp_path, caplog, source, file, reason
):
    install(ampere, tmp_path, source, file)
    assert choose_kernel("auto", CUDA, torch.bfloat16, 128) == "sdpa"
    assert choose_kernel("auto", CUDA, torch.bfloat16, 128) == "sdpa"
    assert [record.message.count(reason) for record in caplog.records] == [1]
    with pytest.raises(CapabilityError, match=reason):
        choose_kernel("flash", CUDA, torch.bfloat16, 128)


def test_flash_attn_does_not_serve_older_gpus(ampere, tmp_path):
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "from Ampere on, and cuda is older" in flash_obstacle(CUDA, torch.float16, 128)
    assert choose_kernel("auto", CUDA, torch.float16, 128) == "sdpa"


@pytest.fixture(scope="module")
def model():
    found = TwigModel(tiny_llava())
    found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return found


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kernel", ["eager", "flex", "sdpa"])
@pytest.mark.parametrize("packed", [1, 2])
def test_the_output_is_contiguous_as_that_of_transformers_is(kernel, packed):
    query, key = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 5, 16)
    mask = torch.zeros(2, 1, 3 * packed, 5)
    mixed, _ = attention.twig_attention(torch.nn.Module(), query, key, key, mask, kernel=kernel)
    assert mixed.shape == (2, 3, 4, 16)
    assert mixed.is_contiguous()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kernel", ["eager", "flex", "sdpa", "auto"])
def test_every_kernel_gives_the_same_answers(model, kernel):
    inputs = llava_inputs([(3, 1, 2), (6, 1, 5)])
    options = {"max_new_tokens": 8, "budget": 0.5, "eos_token_id": None}
    expected = model.choose_attention("sdpa").generate(**inputs, drafter="plain", **options)
    found = model.choose_attention(kernel).generate(**inputs, drafter="tree-ssd", **options)
    assert torch.equal(found, expected)
    assert model.stack.kernel == ("sdpa" if kernel == "auto" else kernel)


def test_what_is_trained_never_runs_through_flex_attention():
    states = torch.rand(3, 1, 4, 6, 16).requires_grad_()
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    output, _ = attention.twig_attention(None, *states, mask, kernel="flex")
    output.sum().backward()  # torch has no such pass on a CPU
    expected, _ = attention.twig_attention(None, *states, mask)
    assert torch.equal(output, expected)


def test_the_choice_outlives_a_move_and_a_refused_one_changes_nothing(model):
    model.choose_attention("eager").to(torch.float32)
    assert model.stack.kernel == "eager"
    with pytest.raises(CapabilityError, match="CUDA"):
        model.choose_attention("flash")
    assert model.attention == "eager"
    model.choose_attention("auto")


def test_nothing_changes_on_a_cpu():
    with kernels_for(CPU) as held:
        assert held is None


class FlashAttn:
    """What flash-attn computes, by its documentation, written out; counts its calls."""

    def __init__(self):
        self.calls = Counter()

    def flash_attn_func(self, query, key, value, softmax_scale, causal):
        self.calls["prompt"] += 1
        rows = torch.full((len(query),), key.shape[1])
        return self._attend(query, key, value, rows, softmax_scale, causal)

    def flash_attn_varlen_func(self, *states, softmax_scale, causal, **bounds):
        self.calls["rows"] += 1
        queries, keys = (bounds[f"cu_seqlens_{name}"].tolist() for name in "qk")
        assert queries == keys
        longest = max(end - start for start, end in itertools.pairwise(keys))
        assert bounds["max_seqlen_q"] == bounds["max_seqlen_k"] == longest
        rows = []
        for own in map(slice, keys, keys[1:]):
            query, key, value = (each[None, own] for each in states)
            ends = torch.tensor([key.shape[1]])
            rows.append(self._attend(query, key, value, ends, softmax_scale, causal)[0])
        return torch.cat(rows)

    def flash_attn_with_kvcache(self, query, key, value, cache_seqlens, softmax_scale, causal):
        self.calls["cache"] += 1
        assert cache_seqlens.dtype == torch.int32
        return self._attend(query, key, value, cache_seqlens, softmax_scale, causal)

    @staticmethod
    def _attend(query, key, value, ends, scale, causal):
        """Attend; the last query sees the keys up to its row's end, each before it one less."""
        assert causal
        assert {each.stride(-1) for each in (query, key, value)} == {1}
        repeat = query.shape[2] // key.shape[2]
        key, value = (each.repeat_interleave(repeat, 2) for each in (key, value))
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * scale
        last = ends[:, None] - query.shape[1] + torch.arange(query.shape[1]) + 1
        hidden = torch.arange(key.shape[1]) >= last[:, None, :, None]
        weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.fixture
def flash_attn(monkeypatch):
    found = FlashAttn()
    monkeypatch.setitem(sys.modules, "flash_attn", found)
    return found


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("drafter", ["plain", {"kind": "ssd", "threshold": 0.01}, "tree-ssd"])
def test_flash_attn_reads_the_cache_for_paths(flash_attn, drafter, bucketed, heads):
    found = TwigModel(tiny_llava(kv_heads=heads))
    found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    for rows in ([(3, 1, 2)], [(3, 1, 2), (6, 1, 5)]):
        options = {**llava_inputs(rows), "max_new_tokens": 9, "bucketed": bucketed}
        options |= {"budget": 0.5, "drafter": drafter, "eos_token_id": None}
        found.stack.kernel = "sdpa"
        expected = found.generate(**options)
        found.stack.kernel = "flash"
        assert torch.equal(found.generate(**options), expected)
    steps = set() if drafter == "tree-ssd" else {"cache"}  # a mask says who sees whom in a tree
    assert set(flash_attn.calls) == {"prompt", "rows"} | steps


def test_a_layer_with_a_window_and_a_tree_have_masks():
    segment = Segment(0, 1, 8)
    index = torch.arange(3)[None]
    segment.begin_prefill(index, torch.ones_like(index, dtype=torch.bool), [3])
    hidden, rope = torch.zeros(1, 2, 4), {"default": (torch.ones(1, 2, 4), torch.zeros(1, 2, 4))}
    context = LayerContext.of(hidden, rope, {}, segment, "flash")
    assert context.ends(None) is None  # a prompt's
    segment.begin_step(torch.tensor([[3, 4]]))
    for in_order, ends in ((True, [5]), (False, None)):
        segment.in_order = in_order
        context = LayerContext.of(hidden, rope, {}, segment, "flash")
        assert context.ends(2) is None
        found = context.ends(None)
        assert ends == (None if found is None else found.tolist())


def test_a_compiled_step_leaves_flash_attn_out(flash_attn, model):
    inputs = {**llava_inputs([(3, 1, 2)]), "max_new_tokens": 4, "drafter": "plain"}
    expected = model.generate(**inputs)
    model.stack.kernel = "flash"
    model.compile(backend="eager")
    assert torch.equal(model.generate(**inputs), expected)
    model.choose_attention("auto")


@pytest.mark.gpu
def test_no_kernel_that_plans_every_shape():
    with kernels_for(CUDA):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [[(3, 1, 2)], [(3, 1, 2), (6, 1, 5)]])
def test_flash_attn_gives_the_states_of_sdpa(rows):
    pytest.importorskip("flash_attn")
    found = TwigModel(tiny_llava().to("cuda", torch.bfloat16))
    inputs = {name: value.to("cuda") for name, value in llava_inputs(rows).items()}
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    logits = [
        found.choose_attention(kernel).generate(**inputs, drafter="plain", **options).logits[0]
        for kernel in ("sdpa", "flash")
    ]
    torch.testing.assert_close(*logits, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("masked", [False, True])
def test_grouped_heads_have_a_kernel_on_every_device(monkeypatch, masked):
    assert attention.takes_groups("cpu", masked=True)
    assert attention.takes_groups("cuda", masked=False)
    assert not attention.takes_groups("cuda", masked=True)
    query, key, value = (torch.randn(2, heads, 5, 8) for heads in (4, 2, 2))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril() if masked else None
    expected, _ = attention.twig_attention(None, query, key, value, mask)
    asked, whole = [], F.scaled_dot_product_attention

    def spied(query, key, value, **options):
        asked.append((key.shape[1], options["enable_gqa"]))
        return whole(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    takes_groups = attention.takes_groups
    monkeypatch.setattr(attention, "takes_groups", lambda _, **how: takes_groups("cuda", **how))
    found, _ = attention.twig_attention(None, query, key, value, mask)
    assert asked == [(4, False) if masked else (2, True)]
    torch.testing.assert_close(found, expected)
