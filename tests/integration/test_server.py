"""The server as a process, asked by OpenAI's own client."""

from __future__ import annotations

import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.soak.runner import run as soak
from tests.support.served_questions import questions
from tests.support.server_process import ServerProcess

openai = pytest.importorskip("openai", reason="`make integration` installs it")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    return questions(12, most=40)


@pytest.fixture(scope="module")
def server():
    with ServerProcess("--max-num-seqs", "6") as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(question, server, **fields):
    body = {**question.body, "model": server.name, **fields}
    extra = {name: body.pop(name) for name in ("twigkit", "repetition_penalty") if name in body}
    return {**body, "extra_body": extra}


def test_the_client_lists_the_model(client, server):
    assert [model.id for model in client.models.list()] == [server.name]


def test_many_at_once_get_what_each_gets_alone(client, server, pool):
    def ask(question):
        answer = client.chat.completions.create(**asked(question, server))
        return answer.choices[0].message.content, answer.usage.completion_tokens

    with ThreadPoolExecutor(len(pool)) as threads:
        said = list(threads.map(ask, pool))
    assert said == [(question.answer, question.tokens) for question in pool]


def test_streams_with_usage(client, server, pool):
    def ask(question):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with client.chat.completions.create(**asked(question, server, **options)) as stream:
            chunks = list(stream)
        pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        return "".join(pieces), chunks[-1].usage.completion_tokens

    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(ask, pool[:6]))
    assert said == [(question.answer, question.tokens) for question in pool[:6]]


def test_several_answers_and_log_probabilities(client, server, pool):
    fields = {"n": 3, "temperature": 1.5, "seed": 3, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(**asked(pool[3], server, **fields))
    assert answer.choices[0].message.content == pool[3].answer
    answer = client.chat.completions.create(**asked(pool[2], server, **fields))
    assert len({choice.message.content for choice in answer.choices}) >= 2
    for choice in answer.choices:
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 2
            assert token.logprob <= token.top_logprobs[0].logprob


def test_stop_strings(client, server, pool):
    stop = " ".join(pool[2].answer.split()[3:5])
    answer = client.chat.completions.create(**asked(pool[2], server, stop=stop))
    assert answer.choices[0].message.content == pool[2].answer.partition(stop)[0]
    assert answer.choices[0].finish_reason == "stop"


def test_completions(client, server):
    answer = client.completions.create(model=server.name, prompt=["a red", "a blue"], max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens >= 2


def test_errors_are_the_clients_own(client, server, pool):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}
    damaged = [{"role": "user", "content": [picture]}]
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(**asked(pool[0], server, model="another"))
    with pytest.raises(openai.BadRequestError, match="does not do tools"):
        client.chat.completions.create(**asked(pool[0], server, tools=[{"type": "function"}]))
    with pytest.raises(openai.BadRequestError, match="base64"):
        client.chat.completions.create(model=server.name, messages=damaged)


def test_the_example_of_the_documentation(server, pool, capsys):
    page = (ROOT / "docs/server.md").read_text()
    (code,) = re.findall(r"^```python hub\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    picture = pool[0].body["messages"][0]["content"][0]["image_url"]["url"]
    code = code.replace("http://127.0.0.1:8000", server.url)
    code = code.replace("data:image/png;base64,...", picture)
    exec(compile(code, "docs/server.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_what_runs_is_finished_before_the_server_stops(pool):
    with ServerProcess() as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        longest = max(pool, key=lambda question: len(question.answer))
        question = asked(longest, server, stream=True)
        own = question["extra_body"].get("twigkit", {})
        question["extra_body"]["twigkit"] = {**own, "drafter": "plain"}  # a piece for every token
        pieces, stopped = [], threading.Event()
        with client.chat.completions.create(**question) as stream:
            for chunk in stream:
                pieces.append(chunk)
                if len(pieces) == 3:
                    server.process.send_signal(signal.SIGTERM)
                    stopped.set()
        assert stopped.is_set()
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == longest.answer
        client.close()
        assert server.process.wait(120) in (0, -signal.SIGTERM)
        with pytest.raises(openai.APIConnectionError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).models.list()
        assert server.errors == []


def test_who_leaves_or_idles_holds_nothing_up():
    """Idle clients keep their connections, one goes away in the midst of its request."""
    with ServerProcess("--shutdown-timeout", "60") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert client.models.list().data
        host, _, port = server.url.rpartition("/")[2].partition(":")
        silent = socket.create_connection((host, int(port)))
        leaving = socket.create_connection((host, int(port)))
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        leaving.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        leaving.close()
        assert client.models.list().data
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in (0, -signal.SIGTERM)
        assert server.errors == []
        silent.close()
        client.close()


def test_a_key_is_asked_for(tmp_path):
    (tmp_path / "key").write_text("a secret\n")
    with ServerProcess("--api-key-file", str(tmp_path / "key")) as server:
        url = f"{server.url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=url, api_key="a secret").models.list().data


def test_a_short_soak():
    outcome = soak(["--requests", "120", "--clients", "16", "--questions", "8"])
    assert outcome.problems() == []
    assert outcome.statuses[200] >= 80
    assert outcome.cancelled >= 5
