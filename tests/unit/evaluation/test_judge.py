"""A judge behind an endpoint, asked over real HTTP."""

import pytest

from tests.support.endpoint import endpoint
from twigkit.errors import InputError
from twigkit.evaluation.judge import EndpointJudge


def test_a_judge_is_asked_as_openai_is(tmp_path):
    with endpoint(lambda body: "yes " + body["messages"][0]["content"]) as (url, requests):
        judge = EndpointJudge(url, "grader", key="secret", memory=tmp_path / "judge.json")
        assert judge.ask("is it?") == "yes is it?"
        assert judge.ask("is it?") == "yes is it?"
        again = EndpointJudge(url, "grader", memory=tmp_path / "judge.json")
        assert again.ask("is it?") == "yes is it?"
        other = EndpointJudge(url, "other", memory=tmp_path / "judge.json")
        other.ask("is it?")
    assert [r["body"]["model"] for r in requests] == ["grader", "other"], "known verdicts are kept"
    first = requests[0]
    assert first["path"] == "/v1/chat/completions"
    assert first["headers"]["Authorization"] == "Bearer secret"
    assert first["body"]["temperature"] == 0


def test_what_the_endpoint_refuses_reaches_the_user():
    def refuse(body):
        raise PermissionError("no such model")

    with endpoint(refuse) as (url, _), pytest.raises(InputError, match=r"answers 403: no such mod"):
        EndpointJudge(url, "x").ask("is it?")


def test_an_answer_of_another_form_and_no_endpoint_at_all():
    with endpoint(lambda body: None) as (url, _):
        pass
    with pytest.raises(InputError, match="cannot be asked"):
        EndpointJudge(url, "x").ask("is it?")
    with pytest.raises(InputError, match="is no address"):
        EndpointJudge("file:///etc", "x").ask("is it?")


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_answer_is_not_kept(tmp_path, nothing):
    said = [nothing, "0.7"]
    with endpoint(lambda body: said.pop(0)) as (url, _):
        with pytest.raises(InputError, match="an empty answer"):
            EndpointJudge(url, "x", memory=tmp_path / "judge.json").ask("is it?")
        assert EndpointJudge(url, "x", memory=tmp_path / "judge.json").ask("is it?") == "0.7"
