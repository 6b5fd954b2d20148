"""A run goes on with its own snapshots only."""

from __future__ import annotations

import pytest

from twigkit import TrainingError
from twigkit.training.checkpointing.resume_check import check_same, flatten

RUN = {
    "spec": {"seed": 1, "optimiser": {"rate": 0.1, "betas": [0.9, 0.98]}, "out": "a"},
    "base": {"config": {}, "weights": {}},
    "data": {"samples": 10},
    "frozen": "a checksum",
}


def changed(**parts):
    return {**RUN, **parts}


def test_what_no_weight_depends_on_may_change():
    saved = changed(spec={**RUN["spec"], "data": {"workers": 2, "most_broken": 0}})
    data = {"workers": 4, "most_broken": 3}
    spec = {**RUN["spec"], "out": "b", "save_every": 7, "keep": 9, "data": data}
    check_same(saved, changed(spec=spec), "here")


def test_what_differs_is_named_with_both_values():
    spec = {**RUN["spec"], "seed": 2, "optimiser": {"rate": 0.2, "betas": [0.9, 0.98]}}
    with pytest.raises(TrainingError) as caught:
        check_same(RUN, changed(spec=spec, data={"samples": 11}), "folder")
    said = str(caught.value)
    assert "folder holds snapshots of another run" in said
    assert "optimiser.rate was 0.1 and is 0.2; seed was 1 and is 2" in said
    assert "the data's samples was 10 and is 11" in said


def test_other_frozen_weights_are_noticed_where_the_snapshot_tells_of_them():
    with pytest.raises(TrainingError, match="weights that are not trained have changed"):
        check_same(changed(frozen="another"), RUN, "folder")
    older = {name: part for name, part in RUN.items() if name != "frozen"}
    check_same(older, RUN, "folder")


def test_many_differences_are_cut_off():
    spec = {f"field{number}": number for number in range(9)}
    with pytest.raises(TrainingError, match="and 3 more"):
        check_same(changed(spec=spec), changed(spec=dict.fromkeys(spec, -1)), "folder")


def test_nested_mappings_get_dotted_names():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": 1, "a.c": {}, "d": [1, 2]}
