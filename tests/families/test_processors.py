"""From a picture and a question, through the family's real processor, to the model's own answer."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from tests.families.conftest import VISUAL, make_family
from tests.support.family_processors import (
    PROCESSORS,
    QUESTION,
    VIDEO_MARKS,
    VIDEOS,
    picture,
)
from twigkit import CheckpointError, TwigModel
from twigkit.cli.main import main
from twigkit.io.processors import load_processor, prepare

torch.set_num_threads(1)

NEW = 6
SIZES = ((40, 30), (16, 16), (90, 20))
CASES = pytest.mark.parametrize("case", PROCESSORS, ids="-".join, scope="module")


@pytest.fixture(scope="module")
def made(case):
    """A processor, the mark of a picture, and the tiny model that it belongs to."""
    make, mark = PROCESSORS[case]
    return make(), mark, make_family(*case)


def same_answer(family, inputs):
    """The answer, which is the base's own; and under pruning, with and without drafting."""
    model, options = family.model, {"max_new_tokens": NEW}
    own = family.base.generate(**inputs, **options, do_sample=False)
    assert torch.equal(model.generate(**inputs, **options), own)
    if model.stack.embed_prompt(**inputs).visual_counts[0]:
        options |= {"budget": 0.5, "wipe_layer": 6}
        pruned = model.generate(**inputs, **options, drafter="plain")
        assert torch.equal(model.generate(**inputs, **options), pruned)


def test_every_variant_with_pictures_has_a_processor():
    assert set(PROCESSORS) == set(VISUAL)


@CASES
def test_a_picture_and_a_question(made):
    processor, mark, family = made
    counts = set()
    for size in SIZES:
        inputs = prepare(processor, f"{mark} {QUESTION}", [picture(*size)], raw=True)
        prompt = family.model.stack.embed_prompt(**inputs)
        counts.add(prompt.visual_counts[0])
        assert prompt.ids[0, -5:].tolist() == processor.tokenizer(QUESTION)["input_ids"][1:]
        same_answer(family, inputs)
    assert 0 not in counts
    assert (len(counts) > 1) == ("dynamic-resolution" in family.capabilities)


@CASES
def test_several_pictures_and_none(case, made):
    processor, mark, family = made
    pictures = [picture(*size) for size in SIZES[:2]]
    several = prepare(processor, f"{mark} there {mark} {QUESTION}", pictures, raw=True)
    same_answer(family, several)
    if case[0] != "paligemma":  # whose processor takes no prompt without a picture
        same_answer(family, prepare(processor, QUESTION, raw=True))


@CASES
def test_a_padded_batch(made):
    processor, mark, family = made
    texts = [f"{mark} {QUESTION}", f"{mark} there {mark} a red blue circle"]
    pictures = [[picture(*SIZES[0])], [picture(*SIZES[1]), picture(*SIZES[2])]]
    inputs = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    own = family.base.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(family.model.generate(**inputs, max_new_tokens=NEW), own)


@pytest.mark.skipif(not VIDEOS, reason="video processors need torchvision, which is not installed")
@CASES
def test_a_video(case, made):
    processor, _, family = made
    mark = VIDEO_MARKS.get(case[0])
    if mark is None or not hasattr(processor, "video_processor"):
        pytest.skip("the family takes no videos")
    frames = numpy.random.default_rng(0).integers(0, 255, (8, 32, 24, 3), dtype=numpy.uint8)
    told = {"fps": 4.0, "total_num_frames": 8, "duration": 2.0, "frames_indices": [*range(8)]}
    options = {} if case[0] == "video_llava" else {"video_metadata": [told]}
    text = [f"{mark} {QUESTION}"]
    inputs = dict(processor(text=text, videos=[frames], return_tensors="pt", **options))
    assert family.model.stack.embed_prompt(**inputs).visual_counts[0] > 8
    same_answer(family, inputs)


def test_the_seconds_of_a_video_are_not_rounded_with_its_pixels():
    """In half precision they would move its positions; the base takes them as they come."""
    family = make_family("qwen2_vl", "qwen2.5")
    model = TwigModel(family.base.to(torch.bfloat16))
    inputs = family.prompts()["video"] | {"second_per_grid_ts": torch.tensor([1.503])}
    seen = []
    embed = model.stack.embed_prompt
    model.stack.embed_prompt = lambda **given: seen.append(given) or embed(**given)
    model.generate(**inputs, max_new_tokens=1)
    assert seen[0]["second_per_grid_ts"].item() == inputs["second_per_grid_ts"].item()
    assert seen[0]["pixel_values_videos"].dtype == torch.bfloat16


@pytest.mark.parametrize("case", [("llava_next", "mistral"), ("smolvlm", "idefics3"),
                                  ("gemma3", "tiny")], ids="-".join)  # fmt: skip
def test_a_folder_with_model_and_processor_answers_on_the_command_line(case, tmp_path, capsys):
    make, mark = PROCESSORS[case]
    make().save_pretrained(tmp_path)
    base = make_family(*case).base
    base.save_pretrained(tmp_path)
    file = tmp_path / "picture.png"
    picture(40, 30).save(file)
    words = ["generate", "--base", tmp_path, "--image", file, "--raw", "--max-new-tokens", NEW]
    assert main([str(word) for word in (*words, "--prompt", f"{mark} {QUESTION}")]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    inputs = prepare(load_processor(tmp_path), f"{mark} {QUESTION}", [picture(40, 30)], raw=True)
    own = base.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    new = own[0, inputs["input_ids"].shape[1] :]
    assert said == make().tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.skipif(VIDEOS, reason="torchvision is installed, so nothing is missing")
def test_a_processor_that_needs_another_package_says_which(tmp_path):
    PROCESSORS["qwen2_vl", "qwen2.5"][0]().save_pretrained(tmp_path)
    config = tmp_path / "processor_config.json"
    config.write_text(config.read_text().replace('"Pictures"', '"Qwen2_5_VLProcessor"'))
    videos = {"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 4}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(videos))
    with pytest.raises(
        CheckpointError, match=r"requires the Torchvision .*; install it"
    ) as refused:
        load_processor(tmp_path)
    assert "\n" not in str(refused.value)
