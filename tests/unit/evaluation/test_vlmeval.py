"""What VLMEvalKit hands over, and which of its silences become errors."""

import json
import sys
from importlib.resources import files
from importlib.util import find_spec

import pytest

from twigkit.errors import CapabilityError, InputError
from twigkit.evaluation import vlmeval

ASKED = ["--data", "POPE", "--mode", "infer"]
"""Options of VLMEvalKit's."""


def test_a_message_becomes_turns_and_pictures():
    message = [
        {"type": "text", "value": "short", "role": "system"},
        {"type": "image", "value": "a.png"},
        {"type": "text", "value": "?"},
        {"type": "image", "value": "b.png"},
    ]
    turns, pictures = vlmeval.conversation(message)
    picture = {"type": "image"}
    assert turns == [
        {"role": "system", "content": [{"type": "text", "text": "short"}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "?"}, picture]},
    ]
    assert pictures == ["a.png", "b.png"]
    with pytest.raises(CapabilityError, match="no video"):
        vlmeval.conversation([{"type": "video", "value": "a.mp4"}])


def test_other_options_are_left_to_vlmevalkit():
    own, rest = vlmeval.parser().parse_known_args(["--base", "b", "--budget", "1/9", *ASKED])
    assert (own.base, own.budget, own.model, own.max_new_tokens) == ("b", "1/9", "twigkit", 1024)
    assert rest == ASKED


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--pruner", "tpt", "unknown pruner 'tpt'"),
        ("--drafter", "sdd", "unknown drafter 'sdd'"),
        ("--budget", "3/2", "budget: got '3/2'"),
        ("--budget", "0", "budget: got 0"),
        ("--pruner", "{kind: fastv, layr: 3}", "layr"),
    ],
)
def test_refused_settings_end_the_run_before_vlmevalkit_starts(option, value, said, capsys):
    assert vlmeval.main(["--base", "b", option, value, *ASKED]) == 2
    message = capsys.readouterr().err
    assert message.startswith("twigkit: error: ")
    assert said in message
    assert "vlmeval" not in sys.modules


@pytest.mark.skipif(find_spec("vlmeval") is not None, reason="VLMEvalKit is installed")
def test_without_vlmevalkit_the_message_says_how_to_install_it(capsys):
    base = files("twigkit.demo") / "weights" / "base"
    assert vlmeval.main(["--base", str(base), *ASKED]) == 2
    assert "pip install ms-vlmeval" in capsys.readouterr().err


def test_answers_by_other_settings_are_not_taken_for_these(tmp_path):
    folder = tmp_path / "results" / "a[1]"
    vlmeval.claim(folder, "a[1]", {"budget": "64"})
    vlmeval.claim(folder, "a[1]", {"budget": "128"})  # no answers yet
    for name in ("a[1]_POPE.xlsx", "01_POPE.pkl"):
        (folder / name).touch()
        vlmeval.claim(folder, "a[1]", {"budget": "128"})
        with pytest.raises(InputError, match="holds answers by other settings"):
            vlmeval.claim(folder, "a[1]", {"budget": "64"})
        (folder / name).unlink()
    (folder / vlmeval.SETTINGS).unlink()
    (folder / "a[1]_POPE.xlsx").touch()
    with pytest.raises(InputError, match="holds answers by other settings"):
        vlmeval.claim(folder, "a[1]", {"budget": "128"})


def test_a_config_names_this_model_without_settings(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": {"twigkit": {}}, "data": {}}))
    vlmeval.check_config(str(file), "twigkit")
    for models in ({"GPT4V": {}}, {"twigkit": {"budget": 64}}, {"twigkit": {}, "GPT4V": {}}):
        file.write_text(json.dumps({"model": models}))
        with pytest.raises(InputError, match="has the models"):
            vlmeval.check_config(str(file), "twigkit")
    for text in ("[]", "{", "{}"):
        file.write_text(text)
        with pytest.raises(InputError, match="cannot be read"):
            vlmeval.check_config(str(file), "twigkit")
    with pytest.raises(InputError, match="cannot be read"):
        vlmeval.check_config(str(tmp_path / "none.json"), "twigkit")


def test_options_for_other_models_are_refused():
    defaults = dict.fromkeys(vlmeval.OF_ENDPOINTS)
    vlmeval.check_options({**defaults, "limit": 3}, {**defaults, "limit": None})
    with pytest.raises(InputError, match=r"--max-tokens, --temperature is for models"):
        vlmeval.check_options({**defaults, "temperature": 0.7, "max_tokens": 9}, defaults)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"status": "done", "error_message": "no such thing"}, "POPE: no such thing"),
        ({"status": "done", "error_message": ""}, "POPE: no message"),
        ({"status": "infer"}, "POPE: not evaluated"),
        (None, "POPE: not evaluated"),
        ({"status": "done", "skip_reason": "invalid_dataset"}, "POPE: VLMEvalKit knows no such"),
    ],
)
def test_what_vlmevalkit_only_logs_is_an_error(of, said):
    done = {"status": "done", "metrics": {"Overall": 1.0}}
    found = {"MME": done} if of is None else {"MME": done, "POPE": of}
    vlmeval.check_status({"datasets": {"MME": done}}, ["MME"])
    vlmeval.check_status(
        {"datasets": {"MME": {"status": "done", "skip_reason": "mode_infer"}}}, ["MME"]
    )
    with pytest.raises(InputError, match=f"did not evaluate {said}"):
        vlmeval.check_status({"datasets": found}, ["MME", "POPE"])
