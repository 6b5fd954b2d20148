"""Training on the device: one process alone, with DDP and with FSDP, as the documents launch it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }} "
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)

pytestmark = pytest.mark.gpu


@pytest.fixture
def file(tmp_path, folders):
    """A run of two steps on a tiny base, with pictures."""
    shutil.copy(folders.picture, tmp_path / "picture.png")
    talk = [
        {"from": "human", "value": "<image>\nwhat is there"},
        {"from": "gpt", "value": "a red"},
    ]
    records = [{"id": str(n), "image": "picture.png", "conversations": talk} for n in range(6)]
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    data = {"path": str(tmp_path / "records.json"), "template": str(tmp_path / "chat.jinja")}
    spec = {
        "twig": {
            "base": str(folders.base),
            "depth": 1,
            "heads": {"lm": "lm", "pruning": "pruning"},
        },
        "data": {**data, "workers": 0},
        "precision": "bf16",
        "batch": 4,
        "micro_batch": 2,
        "steps": 2,
        "out": str(tmp_path / "twig"),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.mark.parametrize("way", ["alone", "ddp", "fsdp"])
def test_a_run_with_one_process_writes_its_twig(file, way, device):
    launch = [sys.executable, "-m", "twigkit"]
    if way != "alone":
        config = ROOT / "docs" / "accelerate" / f"{way}.yaml"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        launch += ["--num_processes", "1"]
        launch += ["--cpu"] if device.type == "cpu" else []
        launch += ["-m", "twigkit"]
    done = subprocess.run(
        [*launch, "train", str(file)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (file.parent / "twig" / "twig.json").is_file()
    assert "a twig trained for 2 steps" in done.stdout


def test_a_dry_run_says_how_fast_the_device_is(file, device):
    words = [sys.executable, "-m", "twigkit", "train", str(file), "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    told = {line.split("  ")[0]: " ".join(line.split()) for line in done.stdout.splitlines()}
    assert told["samples"].endswith("a second") or "samples" in told
    assert "TFLOP per micro-batch" in told["arithmetic"]
    assert ("peak measured" in told) == (device.type == "cuda")
