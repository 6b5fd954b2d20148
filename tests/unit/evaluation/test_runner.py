"""Questions in batches, answered by several ways."""

from types import SimpleNamespace

import pytest

from tests.support.benchmark_files import make_task
from twigkit import TwigModel
from twigkit.errors import InputError
from twigkit.evaluation import runner
from twigkit.evaluation.answers import AnswerLog
from twigkit.evaluation.runner import answer_all, batches_of, responses_of, ways_of
from twigkit.evaluation.spec import EvaluationSpec
from twigkit.interfaces import Example
from twigkit.io.processors import load_processor


def test_the_first_way_is_the_unpruned_base():
    spec = EvaluationSpec(
        tasks=("demo",), budgets=(0.5, 3), pruners=("random", "ttp"), drafters=("ssd",)
    )
    assert [way.name for way in ways_of(spec)] == [
        "unpruned, plain", "unpruned, ssd", "random 0.5, ssd", "ttp 0.5, ssd", "random 3, ssd",
        "ttp 3, ssd",
    ]  # fmt: skip
    both = spec.replace(drafters=("plain", "ssd"), budgets=(0.5,), pruners=("ttp",))
    names = [way.name for way in ways_of(both)]
    assert names == ["unpruned, plain", "unpruned, ssd", "ttp 0.5, plain", "ttp 0.5, ssd"]


@pytest.mark.parametrize(
    ("twice", "name"),
    [
        ({"budgets": (1 / 9, 0.11111)}, "ttp 0.1111, plain"),
        ({"pruners": ("ttp", "ttp"), "budgets": (2,)}, "ttp 2, plain"),
        ({"drafters": ("ssd", "ssd")}, "unpruned, ssd"),
    ],
)
def test_two_ways_of_one_name_would_share_their_answers(twice, name):
    with pytest.raises(InputError, match=f"'{name}' is there twice"):
        ways_of(EvaluationSpec(tasks=("demo",), **twice))


def test_batches_hold_questions_of_like_length_and_as_many_pictures():
    picture = "p.png"
    examples = [
        Example("a", "x" * 5, pictures=(picture,)),
        Example("b", "x" * 50, pictures=(picture,)),
        Example("c", "x", pictures=(picture, picture)),
        Example("d", "x" * 6, pictures=(picture,)),
        Example("e", "x" * 70, video="v"),
    ]
    found = [[e.key for e in batch] for batch in batches_of(examples, 2)]
    assert found == [["c"], ["b", "d"], ["a"], ["e"]]
    with pytest.raises(InputError, match="two questions have the key 'a'"):
        batches_of([*examples, Example("a", "y")], 2)


@pytest.fixture(scope="module")
def setup(folders, tmp_path_factory):
    task, _, _ = make_task("demo", tmp_path_factory.mktemp("demo"), questions=5, kinds=["color"])
    spec = EvaluationSpec(tasks=("demo",), budgets=(0.5,), pruners=("random",))
    return SimpleNamespace(
        task=task,
        examples=task.examples(),
        model=TwigModel.from_pretrained(folders.base, twig=folders.twig),
        processor=load_processor(folders.base),
        ways=ways_of(spec),
    )


def run(setup, log, ways=None):
    told = []
    batches = batches_of(setup.examples, 2)
    answer_all(
        setup.model, setup.processor, setup.task, batches, ways or setup.ways, log,
        frames=2, progress=told.append,
    )  # fmt: skip
    return batches, told


def test_every_question_is_answered_by_every_way(setup, tmp_path):
    log = AnswerLog(tmp_path / "a.jsonl")
    batches, told = run(setup, log)
    assert sum(told) == 2 * len(setup.examples)
    for way in setup.ways:
        own = log.of(way.name, len(batches))
        assert [r.example for r in responses_of(setup.examples, own)] == list(setup.examples)
        assert all(a.seconds > 0 and a.tokens >= len(a.keys) for a in own)
    unpruned, pruned = (log.of(way.name, len(batches)) for way in setup.ways)
    assert pruned[0].visual_per_layer < unpruned[0].visual_per_layer


def test_what_is_there_is_not_answered_again(setup, tmp_path, monkeypatch):
    whole = AnswerLog(tmp_path / "a.jsonl")
    run(setup, whole)
    lines = whole.path.read_bytes().splitlines(keepends=True)
    asked = []
    generate = runner._generate
    monkeypatch.setattr(
        runner, "_generate", lambda *given: asked.append(given[3]) or generate(*given)
    )
    cut = tmp_path / "b.jsonl"
    cut.write_bytes(b"".join(lines[:-1]) + lines[-1][:10])
    log = AnswerLog(cut)
    _, told = run(setup, log)
    assert len(asked) == 2, "a warm-up and the batch that was cut off"
    assert sum(told) == 2 * len(setup.examples)
    texts = {key: a.texts for key, a in whole.done.items()}
    assert {key: a.texts for key, a in log.done.items()} == texts, "as if nothing had happened"


def test_answers_to_other_questions_are_noticed(setup, tmp_path):
    log = AnswerLog(tmp_path / "a.jsonl")
    run(setup, log, setup.ways[:1])
    fewer = SimpleNamespace(**{**vars(setup), "examples": setup.examples[:3]})
    with pytest.raises(InputError, match="holds answers to other questions"):
        run(fewer, log)
