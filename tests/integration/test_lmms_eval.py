"""lmms-eval runs the model ``twigkit``, found through its entry point, on a tiny task."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

pytestmark = pytest.mark.integration
lmms_eval = pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

TASK = """
dataset_path: parquet
dataset_kwargs: {data_files: {test: %s}}
test_split: test
task: tiny
output_type: generate_until
doc_to_visual: !function tiny.visual
doc_to_text: !function tiny.text
doc_to_messages: !function tiny.messages
doc_to_target: answer
generation_kwargs: %s
process_results: !function tiny.process
metric_list:
  - {metric: exact, aggregation: mean, higher_is_better: true}
"""

CODE = """
def visual(doc):
    return [doc["image"].convert("RGB")]

def text(doc, kwargs=None):
    return doc["question"]

def messages(doc, kwargs=None):
    content = [{"type": "image", "url": visual(doc)[0]}, {"type": "text", "text": text(doc)}]
    return [{"role": "user", "content": content}]

def process(doc, results):
    return {"exact": float(results[0].split() == doc["answer"].split())}
"""


def run(folder, arguments, generation="{max_new_tokens: 12}", processes=1, batch=1):
    """Run lmms-eval on four questions of the built-in model's world."""
    from twigkit.demo.task import DemoTask, DemoTaskSpec

    rows = [
        {"question": e.prompt, "answer": e.reference["answer"], "image": e.pictures[0]()}
        for e in DemoTask(DemoTaskSpec(questions=4, kinds=("color", "background"))).examples()
    ]
    features = Features({"question": Value("string"), "answer": Value("string"), "image": Image()})
    tasks = folder / "tasks"
    tasks.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "tiny.parquet"))
    (tasks / "tiny.yaml").write_text(TASK % (folder / "tiny.parquet", generation))
    (tasks / "tiny.py").write_text(CODE)
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    launch = [sys.executable, *(several if processes > 1 else ())]
    return subprocess.run(
        [*launch, "-m", "lmms_eval", "--model", "twigkit", "--model_args", arguments,
         "--tasks", "tiny", "--include_path", str(tasks), "--batch_size", str(batch),
         "--output_path", str(folder / "out"), "--log_samples"],
        capture_output=True, text=True, timeout=900, env=environment, cwd=folder, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    from importlib.resources import files

    return Path(str(files("twigkit.demo"))) / "weights"


def test_the_model_is_found_and_scored(weights, tmp_path):
    arguments = f"pretrained={weights / 'base'},twig={weights / 'twig'},drafter=ssd,budget=1/3"
    done = run(tmp_path, arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "out").rglob("*results.json")
    (score,) = [
        value
        for name, value in json.loads(file.read_text())["results"]["tiny"].items()
        if name.startswith("exact,")
    ]
    assert score >= 0.75, "the built-in model knows its world"


def test_answers_at_a_time_are_those_one_by_one(weights, tmp_path):
    answers = []
    for batch in (1, 4):
        (tmp_path / str(batch)).mkdir()
        arguments = f"pretrained={weights / 'base'},twig={weights / 'twig'},drafter=ssd"
        done = run(tmp_path / str(batch), arguments, batch=batch)
        assert done.returncode == 0, done.stderr[-3000:]
        (file,) = (tmp_path / str(batch) / "out").rglob("*samples*.jsonl")
        lines = map(json.loads, file.read_text().splitlines())
        answers.append({line["doc_id"]: line["filtered_resps"] for line in lines})
    assert len(answers[0]) == 4
    assert answers[0] == answers[1]


def test_processes_share_the_questions(weights, tmp_path):
    done = run(tmp_path, f"pretrained={weights / 'base'},twig={weights / 'twig'}", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("twigkit:   0%") == 1, "one bar"
    (file,) = (tmp_path / "out").rglob("*samples*.jsonl")
    assert len(file.read_text().splitlines()) == 4


def test_a_refused_argument_reaches_the_user(weights, tmp_path):
    generation = "{max_new_tokens: 12, num_beams: 4}"
    done = run(tmp_path, f"pretrained={weights / 'base'}", generation)
    assert "num_beams" in done.stderr + done.stdout
    assert not list((tmp_path / "out").rglob("*results.json")), "no score of empty answers"


def test_an_unknown_option_reaches_the_user(weights, tmp_path):
    done = run(tmp_path, f"pretrained={weights / 'base'},prunr=ttp")
    assert "takes no prunr" in done.stderr + done.stdout
