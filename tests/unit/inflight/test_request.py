"""What a request asks unless it says otherwise."""

from __future__ import annotations

import math

from twigkit.inflight.request import InflightRequest
from twigkit.specs.run import DrafterSpec


def test_a_request_asks_for_one_unpruned_answer():
    asked = InflightRequest({}, DrafterSpec(kind="plain"))
    assert (asked.answers, asked.budget, asked.logprobs, asked.trace) == (1, None, None, False)
    assert asked.deadline == math.inf
    assert asked.pruner.kind == "ttp"
