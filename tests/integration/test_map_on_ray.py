"""Bulk answers on a local Ray with two workers: a killed worker's records are done again."""

from __future__ import annotations

import json
import os

import pytest

from twigkit import TwigModel
from twigkit.bulk.on_ray import Worker, answer_on_ray
from twigkit.bulk.records import Journal, Record
from twigkit.bulk.run import answer_records
from twigkit.cli.main import main
from twigkit.io.processors import load_processor
from twigkit.specs.run import GenerationSpec

pytestmark = pytest.mark.integration

SETTINGS = {"drafter": "ssd", "max_new_tokens": 4}


class DiesOnce(Worker):
    """Its process is gone in the middle of the work, once over all workers."""

    def __call__(self, batch):
        """Answer, unless it is the first that is asked about the fatal record."""
        mark = os.path.join(os.path.dirname(self.load["twig"]), "died")
        if any('"id": "5"' in line for line in batch["record"]):
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return super().__call__(batch)

    def __init__(self, load, settings, rows):
        """Keep where the mark is."""
        super().__init__(load, settings, rows)
        self.load = load


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="ray is missing; `make integration` installs it")
    paths = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield ray
    ray.shutdown()


def test_a_killed_workers_records_are_done_again_and_each_is_there_once(cluster, folders, tmp_path):
    records = [Record(str(n), f"what is {'there' * (n % 2)} ?") for n in range(12)]
    load = {"base": str(folders.base), "twig": str(folders.twig)}
    journal = Journal(tmp_path / "out.jsonl")
    mark = os.path.join(os.path.dirname(load["twig"]), "died")
    found = answer_on_ray(records, load, SETTINGS, workers=2, rows=2, batch=2, worker=DiesOnce)
    for answer in found:
        journal.add(answer)  # refuses one that is there already
    assert os.path.exists(mark), "no worker was killed"
    assert journal.done == {record.id for record in records}
    model = TwigModel.from_pretrained(**load)
    processor = load_processor(folders.base)
    here = answer_records(model, processor, records, GenerationSpec(**SETTINGS), rows=2)
    assert {a["id"]: a["answer"] for a in journal.answers()} == {a["id"]: a["answer"] for a in here}


def test_the_command_takes_a_twig_alone(cluster, folders, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"id": "{n}", "prompt": "what ?"}}\n' for n in range(3)))
    given = ["map", str(data), "--base", str(folders.twig), "--max-new-tokens", "4"]
    for name, more in (("ray", ["--ray", "1"]), ("here", [])):
        assert main([*given, "--out", str(tmp_path / name), *more]) == 0
    found = [
        sorted((tmp_path / name).read_text().splitlines(), key=lambda line: json.loads(line)["id"])
        for name in ("ray", "here")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 3
