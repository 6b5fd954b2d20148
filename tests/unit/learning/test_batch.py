"""A batch knows what its losses are divided by, and moves as one."""

import torch

from twigkit.learning.batch import IGNORED, Batch, Turn

LABELS = torch.tensor([[IGNORED, 4, 5], [IGNORED, IGNORED, 6]])


def batch(**changes):
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.long), "pixel_values": torch.ones(1, 3)}
    held = {"inputs": inputs, "labels": LABELS, "turns": [[Turn(0, 1, 3)], [Turn(1, 2, 3)]]}
    return Batch(**{**held, "ids": ["a", "b"], **changes})


def test_it_counts_answer_tokens_rows_and_rows_with_pictures():
    assert batch(visual=[True, False]).counts() == {"tokens": 3, "samples": 2, "visual": 1}
    assert batch().counts()["visual"] == 2
    text = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
    assert batch(inputs=text).counts()["visual"] == 0


def test_it_moves_tensors_and_hands_on_the_rest():
    held = batch(inputs={"input_ids": torch.zeros(2, 3), "second_per_grid_ts": [1.0]})
    moved = held.to("meta")
    assert moved.labels.device.type == moved.inputs["input_ids"].device.type == "meta"
    assert moved.inputs["second_per_grid_ts"] == [1.0]
    assert moved.turns == held.turns
    assert held.labels.device.type == "cpu"
