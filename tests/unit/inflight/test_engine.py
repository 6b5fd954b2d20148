"""An answer in a running batch is the answer that the model gives alone, whoever its neighbours."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch

from tests.support.asked import Listening
from tests.support.capturing import recorded
from tests.support.tiny import llava_inputs, tiny_llava
from tests.unit.backbone.test_growing_rotary import NEW, inputs_of, model_of
from twigkit import TwigModel, TwigSpec
from twigkit.errors import TwigkitError
from twigkit.inflight import batch
from twigkit.inflight import engine as engine_module
from twigkit.inflight.batch import RunningBatch
from twigkit.inflight.engine import ClosedError, Engine, OverdueError, QueueFullError
from twigkit.inflight.request import Begun, Ended, Failed, Gained, InflightRequest
from twigkit.specs.run import GenerationSpec
from twigkit.strategies import auto

HEADS = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa"}}
DRAFTERS = {
    "plain": "plain",
    "ssd": {"kind": "ssd", "length": 3, "threshold": 0.0},
    "tree-ssd": {"kind": "tree-ssd", "children": 3, "expanded": 2, "levels": 3, "nodes": 7},
    "medusa-tree": "medusa-tree",
    "ngram": "ngram",
    "auto": {"kind": "auto", "drafters": [{"kind": "ssd", "length": 2}, {"kind": "ngram"}]},
}
SETTINGS = [
    {"max_new_tokens": 24},
    {"max_new_tokens": 9, "do_sample": True, "seed": [5], "temperature": 2.0, "top_k": 20},
    {"max_new_tokens": 17, "repetition_penalty": 1.4},
    {"max_new_tokens": 30, "do_sample": True, "seed": [8], "top_p": 0.9, "top_k": 0},
    {"max_new_tokens": 1},
    {"max_new_tokens": 12, "no_repeat_ngram_size": 2},
]
PRUNING = [
    {},
    {"budget": 0.4},
    {"budget": 6, "pruner": {"kind": "fastv"}},
    {"budget": 0.3, "wipe_layer": 6},
    {"budget": 0.5, "pruner": {"kind": "ttp"}, "wipe_layer": 4},
]
PROMPTS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3), (9, 0, 4), (20, 1, 30)]


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava(seed=4))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=4, heads=HEADS)).eval()
    return model


@pytest.fixture
def engine(model):
    with Engine(model, rows=4, queue=100) as engine:
        yield engine


def drafter(name="ssd"):
    return GenerationSpec(drafter=DRAFTERS[name]).drafter


def question(number, name="ssd"):
    """One of many requests that differ in everything that a request may choose."""
    pruning = dict(PRUNING[number % len(PRUNING)])
    if "pruner" in pruning:
        pruning["pruner"] = GenerationSpec(pruner=pruning["pruner"]).pruner
    ends = {"eos_token_id": [7, 40] if number % 2 else None}
    settings = {**SETTINGS[number % len(SETTINGS)], **ends}
    inputs = llava_inputs([PROMPTS[(number // 2) % len(PROMPTS)]], seed=number)
    return InflightRequest(inputs, drafter(name), settings=settings, **pruning)


def alone(model, asked):
    """What ``generate`` says to a request."""
    pruning = {"budget": asked.budget, "pruner": asked.pruner, "wipe_layer": asked.wipe_layer}
    output = model.generate(**asked.inputs, **asked.settings, **pruning, drafter=asked.drafter)
    return output[0, asked.inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("name", DRAFTERS)
def test_an_answer_does_not_depend_on_its_neighbours(model, engine, name):
    asked = [question(number, name) for number in range(11)]
    expected = [alone(model, each) for each in asked]
    assert len({len(answer) for answer in expected}) > 4
    sizes = []
    first = Listening.to(engine, asked[0])
    first.on_gain = lambda event: sizes.append(engine.running)
    heard = [first, *(Listening.to(engine, each) for each in asked[1:])]
    assert [each.answer() for each in heard] == expected
    assert max(sizes) >= 3, "neighbours joined while the first one ran"


@pytest.mark.parametrize("name", DRAFTERS)
def test_answers_stay_what_they_are_where_steps_are_captured(model, monkeypatch, name):
    monkeypatch.setattr(auto.Bandit, "begin_answer", lambda self: True)  # whatever the clock says
    asked = [question(number, name) for number in (0, 2, 4, 0, 6, 0)]
    expected = [alone(model, each) for each in asked]
    with recorded(model) as runners, Engine(model, rows=4, queue=100) as engine:
        first = [Listening.to(engine, each) for each in asked]
        assert [each.answer() for each in first] == expected
        until(lambda: len(model.batches) == 1)
        again = [Listening.to(engine, each) for each in asked]
        assert [each.answer() for each in again] == expected
        until(lambda: len(model.batches) == 1)
        assert len(runners) == 2, "requests share what was captured, of steps and of prefill"
        with torch.inference_mode():
            assert model.batches.prefill(model.stack, model.twig).replays
        steps = max(runners, key=lambda runner: runner.replays)
        assert steps.replays > steps.captured > 0


@pytest.mark.parametrize("steps", [True, False])
def test_an_answer_that_would_not_draft_leaves_the_running_batch_its_drafter(
    model, monkeypatch, steps
):
    """Keys and values of its rows are there for the heads that the drafter had at first."""
    monkeypatch.setattr(batch, "_JOINS", 1)
    drafts = itertools.cycle([True, False, False])
    monkeypatch.setattr(auto.Bandit, "begin_answer", lambda self: next(drafts))
    asked = [question(number, "auto") for number in (0, 2, 4, 0, 6, 0)]
    expected = [alone(model, each) for each in asked]
    with contextlib.ExitStack() as stack:
        if steps:
            stack.enter_context(recorded(model))
        engine = stack.enter_context(Engine(model, rows=2, queue=100))
        for _ in range(2):
            heard = [Listening.to(engine, each) for each in asked]
            assert [each.answer() for each in heard] == expected


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rows_of_other_lengths_have_their_own_rotary_tables(rope):
    model, asked = model_of(rope), []
    for prompt in ("past", "before", "past", "before"):
        spec = GenerationSpec(drafter={"kind": "tree-ssd", "threshold": 0.0}).drafter
        settings = {"max_new_tokens": NEW, "eos_token_id": None}
        asked.append(InflightRequest(inputs_of(prompt), spec, settings))
    with Engine(model, rows=3, queue=4) as engine:
        heard = [Listening.to(engine, each) for each in asked]
        assert [each.answer() for each in heard] == [alone(model, each) for each in asked]


def test_answers_to_one_prompt_are_drawn_apart(model, engine):
    asked = question(1)
    several = replace(asked, answers=3, settings={**SETTINGS[3], "seed": [4, 5, 6]})
    heard = Listening.to(engine, several)
    for number, seed in enumerate((4, 5, 6)):
        single = replace(asked, settings={**SETTINGS[3], "seed": [seed]})
        assert heard.answer(number) == alone(model, single)
    assert len({tuple(heard.answer(number)) for number in range(3)}) == 3


def test_requests_with_other_drafters_run_in_turn(model, engine):
    asked = [question(number, name) for number, name in enumerate(["ssd", "plain", "ngram"])]
    heard = [Listening.to(engine, each) for each in asked]
    assert [each.answer() for each in heard] == [alone(model, each) for each in asked]


def test_why_an_answer_ended(model, engine):
    long = InflightRequest(llava_inputs([(3, 1, 5)]), drafter(), {"max_new_tokens": 5})
    assert Listening.to(engine, long).reason() == "length"
    tokens = alone(model, long)
    ends = replace(long, settings={"max_new_tokens": 5, "eos_token_id": tokens[2]})
    heard = Listening.to(engine, ends)
    assert heard.answer() == tokens[: tokens.index(tokens[2]) + 1]
    assert heard.reason() == "stop"


def test_what_is_reported_of_a_request(engine):
    asked = replace(question(1), trace=True, logprobs=2, settings={"max_new_tokens": 9})
    heard = Listening.to(engine, asked)
    begun = heard.begun
    assert begun.visual_tokens == begun.kept.total == 16
    assert 0 < len(begun.kept.kept) < 16
    assert begun.visual_per_layer == pytest.approx(0.4 * 16, abs=0.3)
    gained = [event for event in heard.events if isinstance(event, Gained)]
    assert gained[0].accepted == gained[0].drafted == 0
    for event in gained[1:]:
        assert event.accepted in (len(event.tokens) - 1, len(event.tokens))
        assert event.accepted <= event.drafted
    for event in gained:
        for token, told in zip(event.tokens, event.logprobs, strict=True):
            assert told.top[0] == (token, told.logprob)
            assert len(told.top) == 2


# -- leaving ---------------------------------------------------------------------------------------


def endless(number=0):
    return InflightRequest(
        llava_inputs([PROMPTS[0]], seed=number),
        drafter("plain"),
        settings={"max_new_tokens": 200, "eos_token_id": None},
    )


def test_a_cancelled_request_leaves_before_the_next_step(model, engine):
    neighbour = question(2)
    heard = Listening.to(engine, neighbour)
    gone = Listening.to(engine, endless())
    gone.on_gain = lambda event: gone.ticket.cancel() if len(gone.events) == 6 else None
    assert heard.answer() == alone(model, neighbour)
    until(lambda: engine.running == 0)
    assert len(gone.events) == 6  # nothing was reported after that
    assert Listening.to(engine, neighbour).answer() == alone(model, neighbour)


def test_a_request_that_waits_can_be_cancelled(model):
    with Engine(model, rows=1, queue=1) as engine:
        first, second = Listening.to(engine, endless()), Listening.to(engine, endless(1))
        with pytest.raises(QueueFullError) as caught:
            engine.reserve(1)
        assert 1 <= caught.value.seconds <= 60
        second.ticket.cancel()
        third = Listening.to(engine, question(0, "plain"))
        first.ticket.cancel()
        assert third.answer() == alone(model, question(0, "plain"))
        assert not second.events


def test_a_bad_request_hurts_no_other(model, engine):
    good = question(3)
    heard = [Listening.to(engine, good)]
    broken = replace(good, inputs={**good.inputs, "pixel_values": None})
    strict = replace(good, budget=1, strict=True, wipe_layer=None)
    unknown = replace(good, settings={"max_new_tokens": 4, "temprature": 1})
    failing = [Listening.to(engine, each) for each in (broken, strict, unknown)]
    heard.append(Listening.to(engine, good))
    for each in failing:
        with pytest.raises(TwigkitError):
            each.wait()
    assert [each.answer() for each in heard] == [alone(model, good)] * 2
    assert engine.running == engine.waiting == 0


def test_a_step_that_fails_ends_its_requests_and_no_more(model, engine, monkeypatch):
    """Such as where memory runs out."""
    working = RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Listening.to(engine, question(0)).wait()
    monkeypatch.setattr(RunningBatch, "step", working)
    assert Listening.to(engine, question(0)).answer() == alone(model, question(0))


def test_where_the_device_is_lost_nobody_waits_for_an_answer(model, monkeypatch):
    """After an illegal access every call of CUDA fails until the process ends."""

    def step(batch):
        assert submitted.wait(60)
        if len(engine._batches) == 2:  # of two drafters
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    submitted, broken = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    monkeypatch.setattr(RunningBatch, "step", step)
    monkeypatch.setattr(engine_module, "computes", lambda device: False)
    with Engine(model, rows=2, queue=2) as engine:
        asked = [question(0, "plain"), question(1), endless(), question(2)]
        heard = [Listening.to(engine, each) for each in asked]
        submitted.set()
        for each in heard:
            with pytest.raises((RuntimeError, ClosedError)):
                each.wait()
        until(lambda: not engine._thread.is_alive())
        assert not broken, "the thread ends by itself"
        assert [sum(isinstance(e, Failed) for e in each.events) for each in heard] == [1] * 4
        assert all(isinstance(each.events[-1], Failed) for each in heard)
        assert not any(isinstance(e, Begun) for each in heard[2:] for e in each.events)
        with pytest.raises(ClosedError, match="cpu computes no more; start the process anew"):
            engine.reserve(1)
    assert engine.running == engine.waiting == len(engine._reserved) == 0


def test_a_deadline_ends_an_answer_and_a_wait(model, monkeypatch):
    step = RunningBatch.step

    def slow_step(batch):
        time.sleep(0.02)
        return step(batch)

    monkeypatch.setattr(RunningBatch, "step", slow_step)
    with Engine(model, rows=1, queue=1) as engine:
        running = Listening.to(engine, replace(endless(), deadline=time.monotonic() + 1.5))
        waiting = Listening.to(engine, replace(endless(1), deadline=time.monotonic() + 0.01))
        with pytest.raises(OverdueError):
            waiting.wait()
        assert running.reason() == "time"
        assert 0 < len(running.answer()) < 200


def test_what_was_asked_is_finished_before_the_engine_closes(model):
    engine = Engine(model, rows=1, queue=4)
    asked = [question(number) for number in (0, 2)]
    heard = [Listening.to(engine, each) for each in asked]
    engine.close()
    assert not engine.alive
    assert [each.answer() for each in heard] == [alone(model, each) for each in asked]
    with pytest.raises(ClosedError, match="closed"):
        engine.reserve(1)


def test_an_exception_gives_up_what_was_asked(model):
    heard = []
    with contextlib.suppress(ZeroDivisionError), Engine(model, rows=1, queue=1) as engine:
        heard += [Listening.to(engine, endless()), Listening.to(engine, endless(1))]
        until(lambda: any(isinstance(event, Gained) for event in heard[0].events))
        raise ZeroDivisionError
    assert not engine.alive
    assert not any(isinstance(event, Ended) for each in heard for event in each.events)


def test_nothing_is_taken_while_the_engine_closes(model, monkeypatch):
    done, leave = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def slow_to_leave(device):
        yield
        done.set()
        leave.wait(60)

    monkeypatch.setattr(engine_module, "kernels_for", slow_to_leave)
    engine = Engine(model, rows=1, queue=1)
    ticket = engine.reserve(1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert done.wait(60)
    with pytest.raises(ClosedError, match="closed"):
        ticket.submit(question(0), print)
    leave.set()
    closing.join()


def until(condition, seconds=60.0):
    """Wait for something that the engine's thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
