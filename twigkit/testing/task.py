"""Conformance of tasks: are questions whole, and are scores functions of sums over units?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twigkit.interfaces.task import Example, Response, Task, Totals
from twigkit.io.processors import open_picture
from twigkit.plugins.contracts import check_class
from twigkit.testing.capabilities import check_capabilities
from twigkit.testing.disk_watch import leaving_files_alone


class TaskConformance:
    """Subclass it, override the fixtures ``task`` and ``known``, and run pytest.

    Attributes:
        extra: Capabilities of the author's own, each with what it promises.
    """

    extra: dict[str, str] = {}  # noqa: RUF012 - a table that subclasses replace

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> Task:
        """The task under test, on a few questions in the format of its files; override this."""
        pytest.fail("override the fixture `task` to return a task on a few questions")

    @pytest.fixture(scope="class")
    @classmethod
    def known(cls) -> tuple[list[str], float]:
        """An answer to every question, not all right, and the score by hand; override this."""
        pytest.fail("override the fixture `known` to return answers and their score")

    def test_has_what_its_contract_lists(self, task: Task) -> None:
        """The class has all that registration asks for, or the error says what it lacks."""
        check_class("task", type(task).__name__, type(task))

    def test_declares_known_capabilities(self, task: Task) -> None:
        """Every capability is a known one."""
        check_capabilities("task", type(task).__name__, task.capabilities, extra=self.extra)

    def test_asks_whole_questions(self, task: Task) -> None:
        """Keys are unique, prompts say something, and every picture and video is there."""
        examples = task.examples()
        if not examples:
            pytest.fail("examples() gave no question")
        keys = [example.key for example in examples]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            pytest.fail(f"the keys {twice} stand for several questions; give each its own")
        for example in examples:
            if not example.prompt.strip():
                pytest.fail(f"the prompt of {example.key!r} is empty")
            if example.pictures and example.video is not None:
                pytest.fail(f"{example.key!r} has pictures and a video; give one or the other")
            for picture in example.pictures:
                _open(picture)
            if example.video is not None and not Path(example.video).exists():
                pytest.fail(f"there is no video {example.video} ({example.key!r})")

    def test_asks_the_same_twice(self, task: Task) -> None:
        """The questions come in the same order every time, as resumed runs need."""
        first, again = task.examples(), task.examples()
        if _asked(first) != _asked(again):
            pytest.fail("examples() gave other questions, or another order, the second time")

    def test_leaves_files_alone(self, task: Task, known: tuple[list[str], float]) -> None:
        """Nothing is written, moved or removed while it works, and no program is started."""
        with leaving_files_alone(type(task).__name__):
            responses = _responses(task, known[0])
            task.value(_totals(task, responses))
            task.submission(responses)

    def test_scores_answers_as_known(self, task: Task, known: tuple[list[str], float]) -> None:
        """The score of known answers is the one that was worked out by hand."""
        texts, wanted = known
        value = float(task.value(_totals(task, _responses(task, texts))))
        if value != pytest.approx(wanted, abs=1e-6):
            pytest.fail(f"the answers {texts} score {value:g}; expected {wanted:g}")

    def test_units_do_not_depend_on_answers(
        self, task: Task, known: tuple[list[str], float]
    ) -> None:
        """Other answers change the counts alone, so that methods are resampled in pairs."""
        outcomes = task.outcomes(_responses(task, known[0]), None)
        others = task.outcomes(_responses(task, ["no idea"] * len(known[0])), None)
        if [(o.group, len(o.counts)) for o in outcomes] != [
            (o.group, len(o.counts)) for o in others
        ]:
            pytest.fail("other answers gave other units; let groups and units follow the questions")
        if not np.isfinite([o.counts for o in outcomes]).all():
            pytest.fail("a count is not finite")

    def test_the_score_of_many_resamples_is_that_of_each(
        self, task: Task, known: tuple[list[str], float]
    ) -> None:
        """``value`` takes sums with dimensions in front."""
        totals = _totals(task, _responses(task, known[0]))
        stacked = {group: np.stack([sums, 2 * sums, 3 * sums]) for group, sums in totals.items()}
        many = task.value(stacked)
        each = [float(task.value({g: sums[i] for g, sums in stacked.items()})) for i in range(3)]
        if np.shape(many) != (3,) or not np.allclose(many, each):
            pytest.fail(
                f"value() of three resamples is {many!r} and of each alone {each}; index counts as "
                "sums[..., 0]"
            )

    def test_scores_the_first_questions_alone(
        self, task: Task, known: tuple[list[str], float]
    ) -> None:
        """With ``--limit`` the first question has to be enough."""
        value = task.value(_totals(task, _responses(task, known[0])[:1]))
        if not np.isfinite(value):
            pytest.fail(f"the first question alone scores {value}; expected a number")

    def test_its_further_figures_are_numbers(
        self, task: Task, known: tuple[list[str], float]
    ) -> None:
        """``parts`` gives finite numbers by name."""
        parts = task.parts(_totals(task, _responses(task, known[0])))
        wrong = {name: value for name, value in parts.items() if not np.isfinite(value)}
        if wrong:
            pytest.fail(f"parts() gives {wrong}; expected finite numbers")

    def test_without_a_judge_it_says_what_its_score_is(self, task: Task) -> None:
        """A task that needs a judge says that a score without one is unofficial."""
        if "judge" in task.capabilities and not task.unofficial(None):
            pytest.fail("unofficial(None) is empty; say how the score came about without a judge")

    def test_its_submission_is_files(self, task: Task, known: tuple[list[str], float]) -> None:
        """Files have simple names and hold text or bytes; a declared submission is there."""
        files = task.submission(_responses(task, known[0]))
        for name, content in files.items():
            if Path(name).name != name or not isinstance(content, str | bytes):
                pytest.fail(f"submission() gives {name!r} as {type(content).__name__}")
        if "submission" in task.capabilities and not files:
            pytest.fail("it declares 'submission' and gives no file")


def _asked(examples: Sequence[Example]) -> list[tuple[str, str, Any]]:
    return [(example.key, example.prompt, example.reference) for example in examples]


def _responses(task: Task, texts: Sequence[str]) -> list[Response]:
    """Answer the questions with given texts."""
    examples = task.examples()
    if len(examples) != len(texts):
        pytest.fail(f"`known` has {len(texts)} answers to {len(examples)} questions")
    return [Response(example, text) for example, text in zip(examples, texts, strict=True)]


def _totals(task: Task, responses: Sequence[Response]) -> Totals:
    """Sum the counts by group."""
    outcomes = task.outcomes(responses, None)
    if not outcomes:
        pytest.skip("nothing is scored here")
    groups = dict.fromkeys(outcome.group for outcome in outcomes)
    return {
        group: np.sum([o.counts for o in outcomes if o.group == group], axis=0, dtype=np.float64)
        for group in groups
    }


def _open(picture: Any) -> None:
    """Read a picture, or let the reason why it cannot be read be the failure."""
    if isinstance(picture, Image.Image):
        return
    if callable(picture):
        picture()
    else:
        open_picture(picture)
