"""Every registered task goes through the kit, on files in its format; with a fault it goes red."""

import pytest

from tests.support.benchmark_files import BENCHMARKS, make_task
from twigkit.interfaces import Example, Outcome, Task
from twigkit.plugins.discovery import default_registry
from twigkit.testing import TaskConformance

ENTRIES = [e.name for e in default_registry().entries("task") if e.distribution == "twigkit"]


def test_every_task_has_files():
    assert sorted(BENCHMARKS) == ENTRIES


class TestBuiltInTasks(TaskConformance):
    @pytest.fixture(scope="class", params=ENTRIES)
    @classmethod
    def made(cls, request, tmp_path_factory):
        return make_task(request.param, tmp_path_factory.mktemp(request.param))

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, made):
        return made[0]

    @pytest.fixture(scope="class")
    @classmethod
    def known(cls, made):
        return made[1:]


class Sound(Task):
    """Two questions; an answer is right if it is its reference."""

    def examples(self):
        return [Example("a", "one?", "1"), Example("b", "two?", "2")]

    def outcomes(self, responses, judge):
        return [Outcome("all", (float(r.text == r.example.reference), 1.0)) for r in responses]


class SameKeys(Sound):
    def examples(self):
        return [Example("a", "one?", "1"), Example("a", "two?", "2")]


class NoPicture(Sound):
    def examples(self):
        return [Example("a", "one?", "1", ("nowhere.png",)), Example("b", "two?", "2")]


class OtherOrder(Sound):
    asked = 0

    def examples(self):
        self.asked += 1
        return super().examples()[:: -1 if self.asked % 2 else 1]


class WrongRule(Sound):
    def outcomes(self, responses, judge):
        return [Outcome("all", (1.0, 1.0)) for _ in responses]


class UnitsByAnswer(Sound):
    def outcomes(self, responses, judge):
        return [Outcome(r.text, (1.0, 1.0)) for r in responses]


class OneSum(Sound):
    def value(self, totals):
        (sums,) = totals.values()
        return 100 * sums[0] / sums[1]


class SilentJudge(Sound):
    capabilities = frozenset({"judge"})

    def unofficial(self, judge):
        return ""


class NoFiles(Sound):
    capabilities = frozenset({"submission"})


class Infinite(Sound):
    def parts(self, totals):
        return {"all": float("nan")}


FAULTS = [
    (SameKeys, "test_asks_whole_questions", r"the keys \['a'\] stand for several questions"),
    (NoPicture, "test_asks_whole_questions", "there is no file 'nowhere.png'"),
    (OtherOrder, "test_asks_the_same_twice", "another order, the second time"),
    (WrongRule, "test_scores_answers_as_known", "score 100; expected 50"),
    (UnitsByAnswer, "test_units_do_not_depend_on_answers", "other answers gave other units"),
    (
        OneSum,
        "test_the_score_of_many_resamples_is_that_of_each",
        r"as sums\[\.\.\., 0",
    ),
    (SilentJudge, "test_without_a_judge_it_says_what_its_score_is", r"\(None\) is empty"),
    (NoFiles, "test_its_submission_is_files", "declares 'submission' and gives no file"),
    (Infinite, "test_its_further_figures_are_numbers", "expected finite numbers"),
]


@pytest.mark.parametrize(("cls", "check", "told"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_fault_is_found(cls, check, told):
    known = (["1", "wrong"], 50.0)
    method = getattr(TaskConformance(), check)
    wants = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    def run(task):
        method(*({"task": task, "known": known}[name] for name in wants))

    run(Sound(None))
    with pytest.raises((pytest.fail.Exception, Exception), match=told):
        run(cls(None))
