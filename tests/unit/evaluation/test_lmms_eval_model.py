"""What lmms-eval hands over, and what becomes of it."""

import pytest

from twigkit.errors import CapabilityError, InputError

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
model = pytest.importorskip("twigkit.evaluation.lmms_eval_model")
pytestmark = pytest.mark.integration


def test_messages_become_turns_and_media():
    words = {"type": "text", "text": "?"}
    messages = [{"role": "user", "content": [{"type": "image", "url": "p"}, words]}]
    turns, pictures, videos = model._conversation(messages)
    assert turns == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    ]
    assert (pictures, videos) == (["p"], [])
    sound = [{"role": "user", "content": [{"type": "audio", "url": "a"}]}]
    with pytest.raises(CapabilityError, match="shows no audio"):
        model._conversation(sound)


def test_arguments_are_greedy_unless_they_sample():
    given, stops = model._generation({"until": ["\n"], "temperature": 0, "top_p": None})
    assert (given, stops) == ({"max_new_tokens": 256, "do_sample": False}, ["\n"])
    given, stops = model._generation({"temperature": 0.7, "max_new_tokens": 8, "until": "x"})
    assert given == {"max_new_tokens": 8, "temperature": 0.7, "do_sample": True}
    assert stops == ["x"]
    assert model._generation({"num_beams": 4})[0]["num_beams"] == 4, "for twigkit to refuse"


@pytest.mark.parametrize(
    ("asked", "expected", "ends"),
    [  # as tasks of lmms-eval 0.7.3 ask
        ({"image_aspect_ratio": "original", "until": ["ASSISTANT:"]}, {}, ["ASSISTANT:"]),
        ({"do_sample": True, "temperature": 0, "top_p": 1.0, "top_k": 1}, {}, []),
        ({"do_sample": False, "temperature": 0.2}, {"temperature": 0.2, "do_sample": True}, []),
        ({"stop_sequences": ["\n"], "until": ["", "Q:"]}, {}, ["Q:", "\n"]),
        ({"until": None, "do_sample": True}, {"do_sample": True}, []),
    ],
)
def test_arguments_mean_what_they_mean_to_models_of_lmms_eval(asked, expected, ends):
    given, stops = model._generation(asked)
    assert given == {"max_new_tokens": 256, "do_sample": False} | expected
    assert stops == ends


def test_unknown_options_and_other_kinds_of_request_are_refused():
    with pytest.raises(InputError, match="takes no prunr; known in --model_args: pretrained"):
        model.TwigkitModel("base", prunr="ttp")
    bare = object.__new__(model.TwigkitModel)
    for ask in (bare.loglikelihood, bare.generate_until_multi_round):
        with pytest.raises(CapabilityError, match="choose a task of the type generate_until"):
            ask([])
    assert model.manifest().model_id == "twigkit"
