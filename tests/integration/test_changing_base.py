"""A base that changes after it was wrapped: twigkit gives what the base gives now."""

from __future__ import annotations

import gc
import threading
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import LlavaForConditionalGeneration

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.backbone.fused_layer import FusedLayer
from twigkit.backbone.stock_layer import StockLayer
from twigkit.errors import FamilyWarning

INPUTS = llava_inputs([(3, 1, 5), (6, 2, 2)])
NEW = 8


def own(base: nn.Module) -> torch.Tensor:
    return base.generate(**INPUTS, do_sample=False, max_new_tokens=NEW)


def drafted(model: TwigModel) -> torch.Tensor:
    return model.generate(**INPUTS, max_new_tokens=NEW, drafter={"kind": "ssd", "threshold": 0.0})


def grown(base: nn.Module) -> TwigModel:
    model = TwigModel(base)
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    return model


def layers_of(base: nn.Module) -> nn.ModuleList:
    return base.model.language_model.layers


# -- hooks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", ["", "self_attn", "mlp", "self_attn.q_proj"])
def test_forward_hooks_on_layers_and_their_parts(when, part):
    base = tiny_llava()
    plain = own(base)
    model = grown(base) if when == "after" else None
    if model is not None:
        assert torch.equal(drafted(model), plain)
    module = layers_of(base)[4].get_submodule(part)

    def steer(_module, _args, output):
        if isinstance(output, tuple):
            return (output[0].roll(1, -1), *output[1:])
        return output.roll(1, -1)

    handle = module.register_forward_hook(steer)
    model = model or grown(base)
    steered = own(base)
    assert not torch.equal(plain, steered)
    assert torch.equal(drafted(model), steered)
    kinds = [type(layer) for layer in model.stack.layers]
    assert kinds == [FusedLayer] * 4 + [StockLayer] + [FusedLayer] * 3
    handle.remove()
    assert torch.equal(drafted(model), plain)
    assert all(isinstance(layer, FusedLayer) for layer in model.stack.layers)


def test_a_hook_on_every_module_at_once():
    base = tiny_llava()
    model = grown(base)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen.append(module)
    )
    try:
        model.generate(**INPUTS, max_new_tokens=2, drafter="plain")
    finally:
        handle.remove()
    assert all(layer.mlp in seen for layer in layers_of(base))


@pytest.mark.parametrize("part", ["", "model", "model.language_model"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_around_all_layers_is_refused_while_it_is_there(part, kind):
    base = tiny_llava()
    model = grown(base)
    plain = own(base)
    module = base.get_submodule(part)
    handle = getattr(module, kind)(lambda *_: None)
    with pytest.raises(CapabilityError, match=f"on {type(module).__name__} cannot run"):
        drafted(model)
    with pytest.raises(CapabilityError, match="cannot run"):
        TwigModel(base)
    handle.remove()
    assert torch.equal(drafted(model), plain)


def test_the_hooks_that_transformers_leaves_do_not_slow_the_layers_down():
    base = tiny_llava()
    model = grown(base)
    base(**INPUTS, output_hidden_states=True)
    assert layers_of(base)[0]._forward_hooks
    drafted(model)
    assert all(isinstance(layer, FusedLayer) for layer in model.stack.layers)


# -- weights and modules ---------------------------------------------------------------------------


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 0.5


def assign(base: nn.Module) -> None:
    base.load_state_dict(tiny_llava(seed=9).state_dict(), assign=True)


def replace_part(base: nn.Module) -> None:
    layers_of(base)[3].mlp = layers_of(tiny_llava(seed=9))[3].mlp


def replace_layer(base: nn.Module) -> None:
    layers_of(base)[3] = layers_of(tiny_llava(seed=9))[3]


def parametrise(base: nn.Module) -> None:
    parametrize.register_parametrization(layers_of(base)[3].mlp.up_proj, "weight", Halved())


def rescale(base: nn.Module) -> None:
    layers_of(base)[3].self_attn.scaling *= 4


def bind_forward(base: nn.Module) -> None:
    attention = layers_of(base)[3].self_attn

    def doubled(self, *args, **kwargs):
        output, weights = type(attention).forward(self, *args, **kwargs)
        return 2 * output, weights

    attention.forward = types.MethodType(doubled, attention)


@pytest.mark.parametrize(
    "change", [assign, replace_part, replace_layer, parametrise, rescale, bind_forward]
)
def test_weights_and_modules_that_are_replaced(change):
    base = tiny_llava()
    model = grown(base)
    plain = drafted(model)
    change(base)
    changed = own(base)
    assert not torch.equal(plain, changed)
    assert torch.equal(drafted(model), changed)


def test_a_forward_that_calls_the_module_itself_is_refused():
    base = tiny_llava()
    model = grown(base)
    attention = layers_of(base)[3].self_attn
    before = attention.forward
    attention.forward = lambda *args, **kwargs: before(*args, **kwargs)
    with pytest.raises(CapabilityError, match=r"LlamaAttention was replaced by .* forward hook"):
        drafted(model)


def test_a_base_in_training_mode_with_checkpoints_keeps_its_cache():
    base = tiny_llava()
    model = grown(base)
    plain = drafted(model)
    layers_of(base)[3].register_forward_hook(lambda *_: None)  # so that it runs as it is
    base.gradient_checkpointing_enable()
    base.train()
    assert torch.equal(drafted(model), plain)


def test_a_twig_goes_along_when_its_base_is_converted():
    base = tiny_llava()
    model = grown(base)
    base.to(torch.bfloat16)
    with pytest.warns(FamilyWarning, match=r"torch.bfloat16 on cpu now; the twig was converted"):
        output = drafted(model)
    assert {weight.dtype for weight in model.twig.parameters()} == {torch.bfloat16}
    plain = model.generate(**INPUTS, max_new_tokens=NEW, drafter="plain")
    assert output.shape == plain.shape
    model.twig.train()
    base.to(torch.float32)
    with pytest.raises(CapabilityError, match=r"in training mode.* call eval\(\)"):
        drafted(model)
    model.twig.eval()
    with pytest.warns(FamilyWarning, match="torch.float32"):
        drafted(model)
    model.twig.train()
    assert all(not weight.is_inference() for weight in model.twig.parameters())


def test_hooks_on_a_twigs_layers_run():
    model = grown(tiny_llava())
    calls = []
    model.twig.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    drafted(model)
    assert calls


# -- offloading ------------------------------------------------------------------------------------


def test_an_offloaded_base_generates_and_knows_its_own_twig(tmp_path):
    tiny_llava().save_pretrained(tmp_path / "base")
    whole = TwigModel.from_pretrained(tmp_path / "base")
    whole.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    whole.save_twig(tmp_path / "twig")
    places = {
        "model.vision_tower": "cpu",
        "model.multi_modal_projector": "cpu",
        "lm_head": "cpu",
        **{f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "norm")},
        "model.language_model.rotary_emb": "cpu",
        **{f"model.language_model.layers.{n}": "disk" if n > 5 else "cpu" for n in range(8)},
    }
    base = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "base", device_map=places, offload_folder=tmp_path / "offload"
    )
    model = TwigModel.from_pretrained(base, twig=tmp_path / "twig")
    assert layers_of(base)[7].mlp.up_proj.weight.is_meta
    assert torch.equal(drafted(model), own(base))
    assert torch.equal(drafted(model), drafted(whole))
    assert not any(hasattr(part, "_hf_hook") for part in model.twig.modules())
    pruned = [m.generate(**INPUTS, max_new_tokens=NEW, budget=0.5) for m in (model, whole)]
    assert torch.equal(*pruned)


# -- what stays on the base ------------------------------------------------------------------------


def test_wrapping_leaves_nothing_on_the_base():
    base = tiny_llava()
    own(base)  # transformers notes things on the modules that it runs

    def state() -> dict[str, tuple]:
        return {
            name: (set(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks))
            for name, m in base.named_modules()
        }

    before = state()
    stacks = []
    for _ in range(3):
        model = grown(base)
        model.generate(**INPUTS, max_new_tokens=1)
        stacks.append(weakref.ref(model.stack))
        del model
    gc.collect()
    assert all(stack() is None for stack in stacks)
    assert state() == before


def test_the_same_layers_run_while_nothing_changes():
    model = grown(tiny_llava())
    first = list(model.stack.layers)
    model.stack.refresh()
    assert all(one is other for one, other in zip(first, model.stack.layers, strict=True))


def test_the_base_generates_the_same_bits_in_another_thread_meanwhile():
    base = tiny_llava()
    layers_of(base)[3].register_forward_hook(lambda *_: None)  # one of its own layers runs too
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    alone = base.generate(**INPUTS, max_new_tokens=NEW, **options)
    model, found, done = grown(base), [], threading.Event()

    def generate() -> None:
        with torch.inference_mode():
            for _ in range(6):
                found.append(base.generate(**INPUTS, max_new_tokens=NEW, **options))
        done.set()

    thread = threading.Thread(target=generate)
    thread.start()
    rounds = 0
    while not done.is_set() and thread.is_alive():
        assert torch.equal(drafted(model), alone.sequences)
        rounds += 1
    thread.join()
    assert rounds
    assert len(found) == 6
    for one in found:
        assert all(torch.equal(a, b) for a, b in zip(one.logits, alone.logits, strict=True))
