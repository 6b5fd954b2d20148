"""VLMEvalKit runs a base and a twig on data of the built-in model's world."""

import base64
import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from twigkit.demo.task import DemoTask, DemoTaskSpec
from twigkit.errors import InputError
from twigkit.evaluation.vlmeval import claim

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "vlmeval"
GUIDE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
WEIGHTS = Path(str(files("twigkit.demo"))) / "weights"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PACKAGES.exists(), reason="VLMEvalKit is not in build/vlmeval"),
]

OTHERS = {
    "odd": {"class": "ImageYORNDataset", "dataset": "odd"},
    "talk": {"class": "MMDUDataset", "dataset": "talk"},
    "gone": {"class": "CustomMCQDataset", "dataset": "gone"},
}
"""Data with prompts that the base cannot take, of several turns, and without a file."""


def command():
    """The guide's command for data of one's own, on the built-in model."""
    (line,) = re.findall(r"^python -m twigkit.evaluation.vlmeval .*world\.json.*$", GUIDE, re.M)
    replaced = {
        "python": sys.executable,
        "llava-hf/llava-1.5-7b-hf": str(WEIGHTS / "base"),
        "path/to/twig": str(WEIGHTS / "twig"),
    }
    return [replaced.get(word, word) for word in shlex.split(line)]


@pytest.fixture
def config():
    """The guide's file for ``--config``."""
    (text,) = re.findall(r"```json\n(.*ImageYORNDataset.*)\n```", GUIDE)
    return json.loads(text)


@pytest.fixture
def run(tmp_path, config):
    """Run the command on eight questions, the last with a wrong answer for the reference."""
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for example in DemoTask(DemoTaskSpec(questions=8, kinds=("exists",))).examples():
        file = io.BytesIO()
        example.pictures[0]().save(file, "PNG")
        picture = base64.b64encode(file.getvalue()).decode()
        rows.append([len(rows), picture, example.prompt, example.reference["answer"].capitalize()])
    rows[-1][-1] = {"Yes": "No", "No": "Yes"}[rows[-1][-1]]
    odd = [[*rows[0][:2], "is there <image> ?", "Yes"]]
    for name, content in {"world": rows, "odd": odd, "talk": rows}.items():
        with (data / f"{name}.tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerows([["index", "image", "question", "answer"], *content])

    def run(*options, **variables):
        (tmp_path / "world.json").write_text(json.dumps(config))
        environment = {
            **os.environ, "PYTHONPATH": str(PACKAGES), "LMUData": str(data),
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables,
        }  # fmt: skip
        return subprocess.run(
            [*command(), *options], capture_output=True, text=True, timeout=600,
            env=environment, cwd=tmp_path, check=False,
        )  # fmt: skip

    return run


def test_the_model_is_scored(run, tmp_path):
    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "results" / "twigkit"
    score = json.loads((folder / "status.json").read_text())["datasets"]["world"]["metrics"]
    assert score == {"Overall": 87.5}, "one of eight references is wrong"
    assert re.search(r"^world +0\.00% \(0/8\) .* Overall +87\.5 ", done.stderr + done.stdout, re.M)
    with (folder / "twigkit_world_score.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"Overall": "87.5"}]
    with pytest.raises(InputError, match="holds answers by other settings"):
        claim(folder, "twigkit", {})


def test_what_is_refused_ends_the_run(run, tmp_path, config):
    config["data"] |= OTHERS
    done = run(SKIP_ERR="1")  # VLMEvalKit then takes some errors for answers
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "odd: 1 picture given, but the prompt has 2 image tokens" in last
    assert "talk: twigkit answers no tasks of several turns" in last
    assert re.search(r"gone: .*gone\.tsv", last)
    assert "world: " not in last
    status = json.loads((tmp_path / "results" / "twigkit" / "status.json").read_text())
    assert {name for name, each in status["datasets"].items() if "metrics" in each} == {"world"}


def test_answers_elsewhere_are_no_success(run, tmp_path):
    done = run("--mode", "infer", MMEVAL_ROOT=str(tmp_path / "other"))
    assert (tmp_path / "other" / "twigkit" / "twigkit_world.xlsx").exists()
    assert done.returncode == 2
    assert "unset it" in done.stderr.splitlines()[-1]
