"""A ``TwigModel`` is what scripts, pipelines and harnesses expect of a model of transformers."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel, TwigSpec
from twigkit.io.files import write_whole
from twigkit.io.processors import load_processor, open_picture
from twigkit.specs.run import GenerationSpec


def test_it_has_what_callers_expect_of_a_model(folders):
    model = TwigModel.from_pretrained(folders.base, folders.twig)
    assert model.device == model.base.device
    assert model.dtype == torch.float32
    assert model.config is model.base.config
    assert model.generation_config is model.base.generation_config
    assert model.get_input_embeddings() is model.base.get_input_embeddings()
    assert model.train().training
    assert not model.base.training
    assert not model.eval().training
    assert [*model.parameters()] == [*model.twig.parameters()]
    assert not [*TwigModel(model.base).parameters()]
    assert model.can_generate()
    assert model.input_modalities == model.base.input_modalities
    with pytest.raises(AttributeError, match="no attribute 'flavour'"):
        _ = model.flavour


def test_ids_may_come_first_and_inputs_be_moved_to_its_device(folders):
    model = TwigModel.from_pretrained(folders.base, folders.twig)
    ids = torch.tensor([[1, 20, 30, 40]]).to(model.device)
    own = model.base.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), own)
    with pytest.raises(InputError, match="given twice"):
        model.generate(ids, input_ids=ids)


def test_it_moves_whole(folders):
    model = TwigModel.from_pretrained(folders.base, folders.twig)
    ids = torch.tensor([[1, 20, 30, 40]])
    options = {"max_new_tokens": 12, "drafter": {"kind": "ssd", "threshold": 0.0}}
    before = model.generate(ids, **options)
    for moved in (model.to(torch.float64), model.to("cpu"), model.float()):
        assert {p.dtype for p in moved.parameters()} == {moved.dtype}
        assert torch.equal(before, moved.generate(ids, **options))
    assert model.half().dtype == torch.float16
    assert {p.dtype for p in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_its_precision_is_given_by_either_name(folders, name):
    model = TwigModel.from_pretrained(folders.base, folders.twig, **{name: torch.float64})
    assert model.dtype == torch.float64
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    with pytest.raises(InputError, match="give one"):
        TwigModel.from_pretrained(folders.base, dtype="float32", torch_dtype=torch.float64)


def test_a_model_without_a_head_is_told():
    with pytest.raises(InputError, match="no language-model head"):
        TwigModel(tiny_llava().model)


def test_a_pipeline_takes_it(folders):
    from transformers import AutoProcessor, pipeline

    model = TwigModel.from_pretrained(folders.base, folders.twig)
    processor = AutoProcessor.from_pretrained(folders.base)
    made = [
        pipeline("image-text-to-text", model=each, processor=processor)(
            images=str(folders.picture),
            text="<image> what is there ?",
            generate_kwargs={"max_new_tokens": 6, "do_sample": False},
        )
        for each in (model, model.base)
    ]
    assert made[0] == made[1]


def test_the_default_dtype_and_device_of_torch_change_nothing():
    model = TwigModel(tiny_llava())
    heads = {"lm": "lm", "medusa": "medusa"}
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3, heads=heads)).eval()
    inputs = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
    cases = [
        {"drafter": drafter, **options}
        for drafter in ("plain", "ssd", "tree-ssd", "medusa-tree", "prompt-lookup", "auto")
        for options in ({"budget": 0.5}, {"do_sample": True, "seed": 1, "repetition_penalty": 1.2})
    ]
    expected = [model.generate(**inputs, max_new_tokens=8, **case) for case in cases]
    for dtype, device in ((torch.bfloat16, None), (torch.float64, None), (torch.float32, "meta")):
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        try:
            got = [model.generate(**inputs, max_new_tokens=8, **case) for case in cases]
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        assert all(torch.equal(*pair) for pair in zip(expected, got, strict=True))


def test_a_tilde_is_the_home_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("base", "twig"):
        (tmp_path / name).symlink_to(getattr(folders, name), target_is_directory=True)
    (tmp_path / "picture.png").symlink_to(folders.picture)
    model = TwigModel.from_pretrained("~/base", "~/twig")
    saved = model.save_twig("~/saved/twig")
    assert saved == tmp_path / "saved" / "twig"
    assert TwigModel.from_pretrained("~/base", "~/saved/twig").twig is not None
    assert open_picture("~/picture.png").mode == "RGB"
    assert load_processor("~/base") is not None
    written = write_whole("~/spec.json", '{"do_sample": true}')
    assert written == tmp_path / "spec.json"
    assert GenerationSpec.from_file("~/spec.json").do_sample
