"""The picture of a step: what was drafted, what the target took, and where there is none."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.support.checkpoints import write_folders
from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel, TwigSpec
from twigkit.bench.accepted_paths import inspect_answer
from twigkit.cli.main import main
from twigkit.cli.show import describe_step

INPUTS = llava_inputs([(3, 1, 5)])
WIDTH = INPUTS["input_ids"].shape[1]


class Names:
    """A tokenizer that calls tokens by their number."""

    def decode(self, ids):
        return str(ids[0])


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava(layers=5))
    model.grow(TwigSpec(base="tiny", depth=3)).eval()
    return model


@pytest.mark.parametrize("drafter", ["ssd", "tree-ssd"])
def test_a_step_is_told_as_it_was(model, drafter):
    options = {"max_new_tokens": 13, "eos_token_id": 98}
    plain = model.generate(**INPUTS, **options, drafter="plain")[0, WIDTH:].tolist()
    steps = inspect_answer(model, INPUTS, drafter, **options)
    done = 0
    for number in (1, 2):
        step = describe_step(steps, number, Names())
        assert step.labels[0] == str(plain[done])
        told = [step.labels[node] for node in step.accepted] + [step.next_label]
        assert told == list(map(str, plain[done + 1 : done + 1 + len(told)]))
        assert len(step.accepted) >= 1
        done += len(told)
        assert step.tree.token.tolist() == list(map(int, step.labels))
        assert all(0.0 <= chance <= 1.0 for chance in step.probabilities)
    with pytest.raises(InputError, match=r"took \d+ steps"):
        describe_step(steps, 50, Names())


def test_the_command_writes_a_picture(tmp_path, capsys):
    folders = write_folders(tmp_path)
    file = tmp_path / "step.png"
    words = ["show", "tree", *folders.model, "--image", str(folders.picture), "--prompt", "what ?"]
    words += ["--max-new-tokens", "5", "--out", str(file)]
    assert main([*words, "--step", "2"]) == 0
    told = capsys.readouterr().out
    assert "step 2: 60 drafts" in told
    assert "steps; drafts accepted at depth 1, 2, ...: " in told
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
    assert main([*words, "--step", "0"]) == 2
    assert main([*words, "--out", str(tmp_path / "step.nonsense")]) == 2
    assert "name a .png or .jpg file" in capsys.readouterr().err
