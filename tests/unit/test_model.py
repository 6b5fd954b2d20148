"""``twigkit generate``: the user's own pictures, through processor and chat template."""

import json
import re

import pytest
from PIL import Image

from tests.support.checkpoints import tiny_processor, write_base
from twigkit import TwigModel
from twigkit.cli.main import main
from twigkit.io.processors import load_processor, open_picture, prepare
from twigkit.specs.run import GenerationSpec

ASK = ["--prompt", "what is in the picture ?", "--max-new-tokens", "6"]


def run(capsys, *words):
    assert main(["generate", *map(str, words)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.fixture
def words(folders):
    return [*folders.model, "--image", str(folders.picture), *ASK]


def expected(folders, pictures=1, **settings):
    """What the base's own generate says to the templated prompt."""
    model = TwigModel.from_pretrained(folders.base, twig=folders.twig)
    processor = tiny_processor()
    text = "USER: " + "<image> " * pictures + "what is in the picture ? ASSISTANT:"
    images = [Image.open(folders.picture).convert("RGB")] * pictures
    inputs = processor(text=text, images=images, return_tensors="pt")
    output = model.base.generate(**inputs, max_new_tokens=6, do_sample=False, **settings)
    return output[0, inputs["input_ids"].shape[1] :].tolist(), processor


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_answer_is_the_bases_own(folders, words, capsys, pictures):
    more = ["--image", folders.picture] * (pictures - 1)
    data = json.loads(run(capsys, *words, *more, "--json"))
    tokens, processor = expected(folders, pictures)
    assert data["tokens"] == tokens
    assert data["answer"] == processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert data["stats"]["visual_tokens"] == [16 * pictures]


def test_answer_and_one_line_of_statistics(words, capsys):
    answer, stats = run(capsys, *words, "--budget", "0.5").splitlines()
    assert answer
    assert re.fullmatch(
        r"\[6 tokens, [\d.]+ per second \| prefill \d+ ms \| decode \d+ ms \| accepted length "
        r"[\d.]+ \| visual tokens: 16, 8 after layer 2, 0 after layer 6, 8 per layer \| "
        r"KV [\d.]+ kB \+ [\d.]+ kB twig\]",
        stats,
    )


def test_streaming_says_the_same(words, capsys):
    whole = run(capsys, *words).splitlines()[0]
    assert run(capsys, *words, "--stream").splitlines()[0].strip() == whole


def test_no_picture_at_all(folders, capsys):
    data = json.loads(run(capsys, *folders.model, *ASK, "--json", "--budget", "8"))
    assert data["stats"]["visual_tokens"] == [0]
    assert len(data["tokens"]) == 6


def test_the_raw_prompt_is_the_users(folders, words, capsys):
    raw = "USER: <image> what is in the picture ? ASSISTANT:"
    templated = json.loads(run(capsys, *words, "--json"))["tokens"]
    assert (
        json.loads(run(capsys, *words, "--json", "--raw", "--prompt", raw))["tokens"] == templated
    )


def test_without_a_template_the_prompt_is_taken_as_it_is(folders, tmp_path, capsys):
    base = write_base(tmp_path / "base", chat=False)
    capsys.readouterr()  # what writing the folder says
    raw = "USER: <image> what is in the picture ? ASSISTANT:"
    said = run(capsys, "--base", base, "--image", folders.picture, *ASK, "--prompt", raw, "--json")
    assert json.loads(said)["tokens"] == expected(folders)[0]


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        Image.new(mode, (5, 4)).save(path)
        assert open_picture(path).mode == "RGB"


def test_the_processor_pads_on_the_left(folders):
    processor = load_processor(folders.base)
    assert processor.tokenizer.padding_side == "left"
    inputs = prepare(processor, "what ?", [Image.new("RGB", (9, 9))])
    assert int((inputs["input_ids"] == 99).sum()) == 16


SAMPLE = ["--sample", "--seed", "3", "--temperature", "1.5", "--top-k", "40", "--min-p", "0.001"]


def test_sampling_options_reach_the_model(folders, words, capsys):
    drawn = json.loads(run(capsys, *words, *SAMPLE, "--top-p", "0.99", "--json"))["tokens"]
    assert drawn == json.loads(run(capsys, *words, *SAMPLE, "--top-p", "0.99", "--json"))["tokens"]
    options = {"do_sample": True, "temperature": 1.5, "top_k": 40, "min_p": 0.001, "top_p": 0.99}
    model = TwigModel.from_pretrained(folders.base, twig=folders.twig)
    inputs = prepare(
        load_processor(folders.base), "what is in the picture ?", [open_picture(folders.picture)]
    )
    output = model.generate(**inputs, **options, seed=3, max_new_tokens=6)
    assert drawn == output[0, inputs["input_ids"].shape[1] :].tolist()
    assert drawn != expected(folders)[0]
    other = [*SAMPLE[:2], "4", *SAMPLE[3:]]
    assert drawn != json.loads(run(capsys, *words, *other, "--json"))["tokens"]


def test_a_repetition_penalty_needs_no_sampling(folders, words, capsys):
    said = json.loads(run(capsys, *words, "--repetition-penalty", "1.9", "--json"))["tokens"]
    assert said == expected(folders, repetition_penalty=1.9)[0]


def test_settings_come_from_a_file_and_options_count_more(words, capsys, tmp_path):
    file = tmp_path / "spec.yaml"
    spec = GenerationSpec(do_sample=True, seed=3, temperature=1.5, budget=0.5, max_new_tokens=4)
    file.write_text(spec.to_yaml())
    base = [word for word in words if word not in ("--max-new-tokens", "6")]
    data = json.loads(run(capsys, *base, "--generation", file, "--json"))
    assert len(data["tokens"]) == 4
    assert data["stats"]["kept_tokens"]["2"] == [8]
    same = ["--sample", "--seed", "3", "--temperature", "1.5", "--budget", "0.5"]
    assert data["tokens"] == json.loads(run(capsys, *words, *same, "--json"))["tokens"][:4]
    more = json.loads(run(capsys, *base, "--generation", file, "--budget", "12", "--json"))
    assert more["stats"]["kept_tokens"]["2"] == [16]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--temperature", "0.5"], "--temperature counts only where tokens are drawn; add --sampl"),
        (["--pruner", "ttp"], "--pruner counts only where tokens are pruned; add --budget"),
        (["--wipe-layer", "3"], "--wipe-layer counts only where tokens are pruned; add --budget"),
        (["--strict"], "--strict counts only where tokens are pruned; add --budget"),
        (["--seed", "1", "--no-sample"], "--seed counts only where tokens are drawn"),
        (["--sample", "--temperature", "0"], "GenerationSpec.temperature: got 0.0; "),
        (["--sample", "--top-p", "7"], "GenerationSpec.top_p: got 7.0; "),
        (["--generation", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_bad_value_is_one_line_before_anything_is_loaded(words, capsys, options, told):
    assert main(["generate", *map(str, words), "--base", "nowhere", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert told in said.err
