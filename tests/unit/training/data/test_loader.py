"""Batches are the same for any number of processes, workers and interruptions."""

import json
import os
import signal
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.processors import llava, picture, text_only
from twigkit.errors import TrainingError
from twigkit.training.data.bad_samples import BadSamples
from twigkit.training.data.chat_template import Renderer
from twigkit.training.data.collate import ATTEMPTS
from twigkit.training.data.encoding import Encoder
from twigkit.training.data.loader import Loader, open_data
from twigkit.training.data.sources import Reader
from twigkit.training.data.workers import worker_deaths
from twigkit.training.spec import TrainingSpec

ENCODER = Encoder(Renderer(text_only(), longest=200))


class Talks(list):
    """Short conversations; the number is in the answer, and lengths differ."""

    def __init__(self, count, broken=(), deadly=None):
        super().__init__(range(count))
        self.broken, self.deadly, self.home = broken, deadly, os.getpid()

    def __getitem__(self, index):
        if index == self.deadly and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = "" if index in self.broken else f"{index} " + "x" * (index % 7)
        return {"id": f"t{index}", "question": "q", "answer": answer}

    def lengths(self):
        return [index % 7 for index in range(len(self))]


def loader(source=None, *, limit=1000, **options):
    source = Talks(50) if source is None else source
    settings = {"batch": 8, "micro_batch": 2, "seed": 3, **options}
    bad_samples = BadSamples(limit, len(source))
    return Loader(Reader(source), ENCODER, np.arange(len(source)), bad_samples, **settings)


def same(one, two):
    return (
        one.ids == two.ids
        and one.turns == two.turns
        and torch.equal(one.labels, two.labels)
        and all(torch.equal(one.inputs[k], two.inputs[k]) for k in one.inputs)
    )


def all_same(ones, twos):
    return len(ones) == len(twos) and all(map(same, ones, twos))


@pytest.mark.parametrize("broken", [(), (1, 5, 17, 30)])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_what_one_sees(processes, broken):
    source = Talks(50, broken)
    alone = list(islice(loader(source).steps(), 9))  # into the second epoch
    numbered = {}
    for process in range(processes):
        mine = loader(source, process=process, processes=processes)
        for step, batches in enumerate(islice(mine.steps(), 9)):
            assert len(batches) == 4 // processes
            for place, batch in enumerate(batches):
                numbered[mine.number(step, place)] = batch
    one = loader(source)
    for step, batches in enumerate(alone):
        for place, batch in enumerate(batches):
            assert same(batch, numbered[one.number(step, place)])
    assert len(numbered) == 9 * 4


def test_a_run_goes_on_anywhere_without_reading_what_was_before_it():
    whole = list(islice(loader().steps(), 20))
    asked = []

    class Watched(Talks):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    later = list(islice(loader(Watched(50)).steps(start=13), 7))
    for one, two in zip(whole[13:], later, strict=True):
        assert all_same(one, two)
    assert len(asked) == 7 * 8


def test_workers_change_nothing_and_torch_s_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = list(islice(loader().steps(), 4))
    helped = list(islice(loader(workers=2).steps(), 4))
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(alone, helped, strict=True):
        assert all_same(one, two)


def test_the_seed_and_the_epoch_change_the_order():
    def ids(made, first, count):
        return [b.ids for step in islice(made.steps(first), count) for b in step]

    per_epoch = loader().steps_per_epoch
    assert per_epoch == 7
    assert ids(loader(), 0, 7) != ids(loader(), 7, 7)
    assert ids(loader(), 0, 7) != ids(loader(seed=4), 0, 7)
    assert {i for batch in ids(loader(), 0, 7) for i in batch} == {f"t{i}" for i in range(50)}


def test_micro_batches_hold_similar_lengths_if_they_are_grouped():
    def waste(made):
        batches = [batch for step in islice(made.steps(), 7) for batch in step]
        return sum(int((b.inputs["attention_mask"] == 0).sum()) for b in batches)

    assert waste(loader(group=True)) < 0.5 * waste(loader(group=False))


def test_evaluation_takes_each_sample_once_whatever_the_processes():
    for processes in (1, 2, 3):
        found, counts = [], set()
        for process in range(processes):
            made = loader(Talks(23), batch=12, process=process, processes=processes)
            batches = list(made.once())
            counts.add(len(batches))
            found += [name for batch in batches for name in batch.ids]
            assert all_same(batches, list(made.once()))
        assert sorted(found) == sorted(f"t{i}" for i in range(23))
        assert len(counts) == 1


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(TrainingError, match=r"8 .* micro-batches of 2 to 3 processes.* 6 or 12"):
        loader(processes=3)


def test_a_broken_sample_is_replaced_named_and_counted_once():
    reported = []
    made = loader(Talks(50, broken=(4, 9)))
    made._bad_samples.report = reported.append
    batches = [batch for step in islice(made.steps(), 21) for batch in step]  # three epochs
    assert all(len(batch.ids) == 2 for batch in batches)
    assert {name for batch in batches for name in batch.ids}.isdisjoint({"t4", "t9"})
    assert set(made._bad_samples.broken) == {"t4 (number 4)", "t9 (number 9)"}
    assert sorted(broken.id for broken in reported) == sorted(made._bad_samples.broken)
    assert "turn 2, the assistant's, is empty" in reported[0].reason
    assert sum(len(batch.broken) for batch in batches) >= 6


@pytest.mark.parametrize("workers", [0, 1])
def test_more_broken_samples_than_tolerated_are_an_error_that_lists_the_first(workers):
    made = loader(Talks(50, broken=range(0, 50, 5)), limit=6, workers=workers)
    with pytest.raises(TrainingError) as caught:
        list(islice(made.steps(), 7))
    told = str(caught.value)
    assert "7 broken samples, more than the 6 of 50 that data.most_broken tolerates" in told
    assert told.count("turn 2, the assistant's, is empty") == 5
    assert "and 2 more" in told
    with pytest.raises(TrainingError, match="1 broken samples, more than the 0 of 50"):
        list(islice(loader(Talks(50, broken=(7,)), limit=0).steps(), 7))


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_are_all_broken_end_at_once(workers):
    made = loader(Talks(50, broken=range(50)), workers=workers)
    with pytest.raises(TrainingError, match=f"{ATTEMPTS} samples in a row are broken.*folder of"):
        next(made.steps())


def test_what_the_processor_refuses_is_replaced_too():
    class Wordy(Talks):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return record | ({"question": "q" * 300} if index == 3 else {})

    made = loader(Wordy(20))
    names = {n for step in islice(made.steps(), 3) for b in step for n in b.ids}
    assert "t3" not in names
    assert "beyond data.longest, 200" in made._bad_samples.broken["t3 (number 3)"]
    encoder = Encoder(Renderer(llava(), longest=45))
    pictured = [{"question": "q", "answer": "a", "image": picture(), "id": "p"}]
    many = [*pictured, *[{"question": "q", "answer": "a", "id": f"{i}"} for i in range(30)]]
    bad_samples = BadSamples(99, 31)
    one = Loader(Reader(many), encoder, np.arange(31), bad_samples, batch=4, micro_batch=4)
    assert len([b for step in islice(one.steps(), 8) for b in step]) == 8
    assert set(bad_samples.broken) == set()
    encoder.renderer.longest = 30
    batches = [b for step in islice(one.steps(), 8) for b in step]
    assert set(bad_samples.broken) == {"p (number 0)"}
    assert all("p" not in batch.ids and len(batch.ids) == 4 for batch in batches)


def test_a_worker_that_dies_is_a_clear_error_raised_where_the_batch_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # another test's loader may have left torch's
    before = signal.getsignal(signal.SIGCHLD)
    steps = loader(Talks(50, deadly=20), workers=2).steps()

    def work():
        while True:
            next(steps)
            time.sleep(0.1)  # where torch's own handler would raise
            assert signal.getsignal(signal.SIGCHLD) is before

    with pytest.raises(TrainingError, match=r"prepares data died.*data\.workers"):
        work()


def test_a_batch_whose_worker_is_gone_is_the_same_error(monkeypatch):
    made = loader()

    def lost(piece):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(type(made._data), "__getitem__", lambda self, piece: lost(piece))
    with pytest.raises(TrainingError, match=r"died: .*Connection reset.*data\.workers"):
        next(made.steps())


def test_other_errors_are_not_taken_for_a_dead_worker():
    with pytest.raises(RuntimeError, match="something else") as caught, worker_deaths():
        raise RuntimeError("something else")
    assert not isinstance(caught.value, TrainingError)


def spec(**changes):
    data = {"source": "made.up:source", "workers": 0, **changes.pop("data", {})}
    return TrainingSpec.parse(
        {"twig": {"base": "b"}, "data": data, "batch": 4, "micro_batch": 2, **changes}
    )


BASE = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None), name_or_path="b")


def opened(count=100, **changes):
    return open_data(spec(**changes), BASE, dataset=Talks(count), processor=text_only())


def test_held_out_samples_are_evaluated_on_and_never_trained_on():
    data = opened(data={"evaluation": 0.1})
    trained = {n for step in islice(data.train.steps(), 23) for b in step for n in b.ids}
    tested = {n for b in data.evaluation.once() for n in b.ids}
    assert (len(trained), len(tested)) == (90, 10)
    assert trained.isdisjoint(tested)
    other = opened(data={"evaluation": 0.1}, seed=9)
    assert {n for b in other.evaluation.once() for n in b.ids} == tested
    assert opened().evaluation is None


def test_a_file_can_be_evaluated_on(tmp_path):
    path = tmp_path / "held-out.json"
    path.write_text(json.dumps([{"id": "h", "question": "q", "answer": "a"}]))
    (tmp_path / "train.json").write_text(json.dumps(list(Talks(10))))
    made = spec(
        data={
            "source": "conversations",
            "path": str(tmp_path / "train.json"),
            "evaluation": str(path),
        }
    )
    data = open_data(made, BASE, processor=text_only())
    assert [b.ids for b in data.evaluation.once()] == [["h"]]
    assert data.train.samples == 10


def test_too_few_to_evaluate_on_are_told_before_the_run_and_not_after_it():
    given = {"dataset": Talks(10), "processor": text_only(), "processes": 2}
    with pytest.raises(TrainingError, match="1 samples to evaluate on for 2 processes"):
        open_data(spec(data={"evaluation": 1}), BASE, **given)


def test_samples_and_limit_follow_from_the_spec():
    data = opened(1000, data={"samples": 300, "evaluation": 100, "most_broken": 0.01})
    assert data.train.samples == 300
    assert (data.bad_samples.limit, data.bad_samples.total) == (4, 400)
    assert opened(100, data={"most_broken": 3}).bad_samples.limit == 3
    assert opened(999).bad_samples.limit == 0


def test_the_base_s_end_tokens_count():
    base = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 0]), name_or_path="b")
    data = open_data(spec(), base, dataset=Talks(4), processor=text_only())
    assert data.train._data.encoder.renderer.ends == {2, 0}


def test_half_of_a_surrogate_pair_is_one_broken_sample():
    records = [{"question": "q", "answer": f"a{i}"} for i in range(4)]
    records[2] = {"question": "q \ud800", "answer": "a"}
    made = loader(records, limit=1, batch=4, micro_batch=2)
    batches = [made.make(0, place) for place in range(2)]
    (broken,) = [b for batch in batches for b in batch.broken]
    assert (broken.id, broken.reason[:26]) == ("2", "it cannot be tokenised: Ty")


def digests(tmp_path, records, name="train.json", template=None, **changes):
    """What stands for the data of a run."""
    path = tmp_path / name
    dump = json.dumps(records) if name == "train.json" else "\n".join(map(json.dumps, records))
    path.write_text(dump)
    processor = text_only()
    processor.chat_template = template or processor.chat_template
    made = spec(data={"source": "conversations", "path": str(path), **changes})
    return open_data(made, BASE, processor=processor).digests


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_the_digests_change_with_what_a_run_learns_from(tmp_path, name):
    talks = Talks(6)
    records = [talks[i] for i in range(6)]
    once = digests(tmp_path, records, name)
    assert sorted(once) == ["digest of the chat template", "digest of the records"]
    assert digests(tmp_path, records, name) == once
    edited = [*records[:5], {**records[5], "answer": "another"}]
    for other in (edited, records[::-1]):
        found = digests(tmp_path, other, name)
        assert found["digest of the records"] != once["digest of the records"]
        assert found["digest of the chat template"] == once["digest of the chat template"]
    template = text_only().chat_template + "{# edited #}"
    found = digests(tmp_path, records, name, template)
    assert found["digest of the records"] == once["digest of the records"]
    assert found["digest of the chat template"] != once["digest of the chat template"]


def test_held_out_files_and_lists_have_digests_and_strange_sources_need_none(tmp_path):
    held = tmp_path / "held.json"
    held.write_text(json.dumps(list(Talks(2))))
    found = digests(tmp_path, list(Talks(6)), evaluation=str(held))
    assert "digest of the held-out records" in found
    one, two = ([{"image": picture(), "question": "q", "answer": a}] * 4 for a in "ab")
    assert Reader(one).digest() == Reader(list(one)).digest() != Reader(two).digest()

    class Strange:
        def __len__(self):
            return 4

    assert Reader(Strange()).digest() is None


def test_pictures_that_were_changed_change_their_digest(tmp_path):
    records = [{"image": f"{i}.png", "question": "q", "answer": "a"} for i in range(6)]
    for i in range(6):
        picture().save(tmp_path / f"{i}.png")
    once = Reader(records, tmp_path).picture_digest()
    assert Reader(records, tmp_path).picture_digest() == once
    with (tmp_path / "3.png").open("ab") as file:
        file.write(b"more")
    other = Reader(records, tmp_path).picture_digest()
    assert other != once
    (tmp_path / "3.png").unlink()
    assert Reader(records, tmp_path).picture_digest() not in (other, once)
    assert Reader([{"question": "q", "answer": "a"}], tmp_path).picture_digest() is None
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    processor = text_only()
    data = {"source": "conversations", "path": str(path)}
    made = open_data(spec(data=data), BASE, processor=processor).digests
    assert "digest of the pictures" in made


def test_a_batch_that_holds_every_sample_a_hundred_times_is_refused():
    records = [{"question": "q", "answer": f"a{i}"} for i in range(12)]
    loader(records, batch=1200, micro_batch=1)
    with pytest.raises(TrainingError, match=r"2,000,000 would hold each of the 12 samples about"):
        loader(records, batch=2_000_000, micro_batch=1)
