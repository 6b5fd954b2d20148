"""Whatever the input is, it works or is refused on one line; ``make fuzz`` tries more of it."""

import pytest

from tests.fuzz.areas import AREAS
from tests.fuzz.runner import run_case
from tests.fuzz.world import World, WrongOutcomeError, case_folder, command

SEED = 7
CASES = {"command": 40, "spec": 120, "twig": 40, "picture": 150, "records": 60}
"""Cases of each area; a few seconds of processor time."""


@pytest.fixture(scope="module")
def world(folders):
    return World.of(folders)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Ask no Hub for what is named at random."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("area", AREAS)
def test_random_input_is_used_or_refused(area, world, tmp_path):
    outcomes = []
    for number in range(CASES[area]):
        try:
            outcomes.append(run_case(world, area, SEED, number, tmp_path))
        except Exception as error:
            error.add_note(f"repeat: python -m tests.fuzz.runner --case {area}:{SEED}:{number}")
            raise
    assert {"done", "refused"} == set(outcomes), "the cases are all alike"


def test_a_case_is_the_same_again(world, tmp_path):
    for area in AREAS:
        once, again = (run_case(world, area, SEED, 3, tmp_path) for _ in range(2))
        assert once == again


def test_a_file_that_changes_is_noticed(world, tmp_path):
    def spoil(name):
        with case_folder(world, tmp_path) as free:
            (free / name).write_text("spoilt")

    spoil("mine")
    with pytest.raises(WrongOutcomeError, match=r"files changed: .*notes\.txt"):
        spoil("../notes.txt")


def test_more_than_one_line_is_noticed(monkeypatch):
    with pytest.raises(KeyError, match="oops"):
        _run(monkeypatch, lambda words: {}["oops"])
    with pytest.raises(WrongOutcomeError, match="status 1"):
        _run(monkeypatch, lambda words: 1)
    with pytest.raises(WrongOutcomeError, match="status 2 with 0 lines"):
        _run(monkeypatch, lambda words: 2)


def _run(monkeypatch, main):
    monkeypatch.setattr("tests.fuzz.world.main", main)
    command([])
