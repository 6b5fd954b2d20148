"""The endpoints answer as OpenAI's do, with the model's own tokens, and refuse in its format."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from tests.support.checkpoints import tiny_processor
from tests.support.served import (
    ask_and_leave,
    chunks,
    client,
    data_url,
    http_scope,
    message,
    picture,
    served_model,
)
from twigkit.errors import CapabilityError
from twigkit.inflight.batch import RunningBatch
from twigkit.io.processors import open_picture, prepare
from twigkit.server.app import create_app
from twigkit.server.settings import ServerSpec
from twigkit.strategies.ttp import TtpPruner

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "what is in the picture ?"


@pytest.fixture(scope="module")
def model():
    return served_model()


@pytest.fixture(scope="module")
def server(model):
    with client(model) as server:
        yield server


def expected(model, pictures, *, tokens=12, **options):
    """What the model itself says to a question about pictures."""
    processor = tiny_processor()
    inputs = prepare(processor, QUESTION, [open_picture(each) for each in pictures])
    output = model.generate(**inputs, max_new_tokens=tokens, **options)
    new = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True), len(new)


def chat(*pictures, **fields):
    return {"messages": [message(QUESTION, *pictures)], "max_tokens": 12, **fields}


def said(response):
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def test_a_chat_gets_what_the_model_says(model, server):
    shown = picture(1), picture(2)
    text, tokens = expected(model, shown)
    response = server.post(CHAT, json=chat(*shown, model="tiny"))
    assert said(response) == [text]
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["usage"]["completion_tokens"] == tokens
    assert body["usage"]["prompt_tokens"] > 32  # two pictures of 16 tokens
    assert body["choices"][0]["finish_reason"] == ("length" if tokens == 12 else "stop")


def test_each_request_is_pruned_in_its_own_way(model, server):
    shown = [picture(3)]
    for options in ({"budget": 0.4}, {"budget": 3, "wipe_layer": 5}, {"drafter": "plain"}):
        text, _ = expected(model, shown, **options)
        assert said(server.post(CHAT, json=chat(*shown, twigkit=options))) == [text]


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_says_the_same_in_pieces(model, server, usage):
    text, tokens = expected(model, [picture(1)])
    fields = {"stream": True, "stream_options": {"include_usage": usage}}
    found = chunks(server.post(CHAT, json=chat(picture(1), **fields)))
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [c["choices"][0]["delta"].get("content", "") for c in found if c["choices"]]
    assert "".join(pieces) == text
    assert len(pieces) > 2
    reasons = [c["choices"][0]["finish_reason"] for c in found if c["choices"]]
    assert reasons[-1] in ("stop", "length")
    assert set(reasons[:-1]) == {None}
    assert {c["object"] for c in found} == {"chat.completion.chunk"}
    assert len({c["id"] for c in found}) == 1
    if usage:
        assert found[-1]["choices"] == []
        assert found[-1]["usage"]["completion_tokens"] == tokens
        assert all(c["usage"] is None for c in found[:-1])
    else:
        assert all("usage" not in c for c in found)


def test_stop_strings_end_an_answer_and_are_no_part_of_it(model, server):
    text, _ = expected(model, [picture(1)])
    stop = " ".join(text.split()[2:4])
    for stream in (False, True):
        response = server.post(CHAT, json=chat(picture(1), stop=[stop, "never"], stream=stream))
        found = chunks(response) if stream else [response.json()]
        own = [c["choices"][0] for c in found]
        got = "".join((c.get("message") or c["delta"]).get("content", "") for c in own)
        assert got == text[: text.index(stop)]
        assert own[-1]["finish_reason"] == "stop"


def test_seeds_decide_what_is_drawn(server):
    fields = {"temperature": 2.0, "seed": 11}
    several = said(server.post(CHAT, json=chat(picture(1), n=3, **fields)))
    assert len(set(several)) == 3
    for answer in range(3):
        single = chat(picture(1), **{**fields, "seed": 11 + answer})
        assert said(server.post(CHAT, json=single)) == [several[answer]]
    found = chunks(server.post(CHAT, json=chat(picture(1), n=3, stream=True, **fields)))
    streamed = ["", "", ""]
    for choice in (c["choices"][0] for c in found):
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == several


def test_stop_strings_of_the_base_end_answers(model, server, monkeypatch):
    [text] = said(server.post(CHAT, json=chat(picture(1))))
    stop = text.split()[3]
    monkeypatch.setattr(model.base.generation_config, "stop_strings", [stop])
    assert said(server.post(CHAT, json=chat(picture(1)))) == [text.partition(stop)[0] + stop]


def test_after_the_last_seed_comes_the_first(server):
    fields = {"temperature": 2.0, "max_tokens": 6}
    several = said(server.post(CHAT, json=chat(picture(1), n=2, seed=2**63 - 1, **fields)))
    first = said(server.post(CHAT, json=chat(picture(1), seed=-(2**63), **fields)))
    assert several[1:] == first


def test_stop_strings_end_each_of_several_answers(server):
    fields = {"n": 2, "temperature": 1.0, "seed": 3}
    texts = said(server.post(CHAT, json=chat(picture(1), **fields)))
    stop = texts[1].split()[3]
    cut = said(server.post(CHAT, json=chat(picture(1), stop=stop, **fields)))
    assert cut == [text.partition(stop)[0] for text in texts]


def test_log_probabilities_are_those_of_the_answer(server):
    body = chat(picture(1), logprobs=True, top_logprobs=3, temperature=0)
    response = server.post(CHAT, json=body).json()
    told = response["choices"][0]["logprobs"]["content"]
    assert len(told) == response["usage"]["completion_tokens"]
    for entry in told:  # greedy: the token is the most likely one
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert entry["logprob"] == values[0] <= 0
        assert entry["token"] == entry["top_logprobs"][0]["token"]
        assert bytes(entry["bytes"]).decode() == entry["token"]
    streamed = chunks(server.post(CHAT, json={**body, "stream": True}))
    parts = [c["choices"][0]["logprobs"] for c in streamed if c["choices"]]
    again = [entry for part in parts if part for entry in part["content"]]
    assert [e["token"] for e in again] == [e["token"] for e in told]


def test_completions_take_prompts_as_they_are(model, server):
    prompts = ["what is in the", "how many red circle"]
    response = server.post(TEXT, json={"prompt": prompts, "max_tokens": 6, "logprobs": 1})
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    for prompt, choice in zip(prompts, body["choices"], strict=True):
        single = server.post(TEXT, json={"prompt": prompt, "max_tokens": 6}).json()
        assert single["choices"][0]["text"] == choice["text"]
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"])
    found = chunks(server.post(TEXT, json={"prompt": prompts, "max_tokens": 6, "stream": True}))
    for number, choice in enumerate(body["choices"]):
        own = [c["choices"][0]["text"] for c in found if c["choices"][0]["index"] == number]
        assert "".join(own) == choice["text"]


def test_the_frames_of_a_video_are_shown_as_pictures(model, server):
    frames = [picture(5), picture(6)]
    text, _ = expected(model, frames)
    url = "data:video/png;base64," + ",".join(data_url(f).partition(",")[2] for f in frames)
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 12}
    assert said(server.post(CHAT, json=body)) == [text]


def test_a_traced_answer_says_what_was_kept_and_drafted(server):
    body = chat(picture(1), twigkit={"budget": 0.4, "trace": True})
    facts = server.post(CHAT, json=body).json()["twigkit"]["prompts"][0]
    assert facts["visual_tokens"] == 16
    assert facts["grid"] == [4, 4]
    assert facts["crop"]
    assert 0 < len(facts["kept"]) < 16
    assert facts["accepted_length"] >= 1
    assert facts["tokens_per_second"] > 0
    found = chunks(server.post(CHAT, json={**body, "stream": True}))
    begun = next(c["twigkit"]["begun"] for c in found if "begun" in c.get("twigkit", {}))
    assert begun["kept"] == facts["kept"]
    tokens = [t for c in found for t in c.get("twigkit", {}).get("tokens", [])]
    whole = "".join(c["choices"][0]["delta"].get("content", "") for c in found if c["choices"])
    assert "".join(token["text"] for token in tokens) == whole
    assert {token["accepted"] for token in tokens} <= {True, False}


def test_models_health_and_page(server):
    (own,) = server.get("/v1/models").json()["data"]
    assert own["id"] == "tiny"
    assert own["object"] == "model"
    assert server.get("/v1/models/tiny").json() == own
    assert server.get("/v1/models/a/b").json()["error"]["param"] == "model"
    assert server.get("/v1/models/").json()["data"] == [own]
    assert server.get("/health").status_code == server.head("/health").status_code == 200
    page = server.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert name in page.text
        assert server.get(f"/{name}").status_code == 200


WRONG = {
    "no messages": ({"messages": []}, "messages"),
    "an unknown field": ({"temprature": 1}, "temprature"),
    "a wrong type": ({"max_tokens": "many"}, "max_tokens"),
    "a field out of bounds": ({"top_p": 2}, "top_p"),
    "tools": ({"tools": [{"type": "function"}]}, "does not do tools"),
    "a format": ({"response_format": {"type": "json_object"}}, "response_format"),
    "a penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "too many tokens": ({"max_tokens": 5000}, "max_tokens is 5000"),
    "an unknown drafter": ({"twigkit": {"drafter": "sdd"}}, "did you mean"),
    "drafter settings": ({"twigkit": {"drafter": {"kind": "ngram", "table": "x"}}}, "drafter"),
    "an unknown pruner": ({"twigkit": {"pruner": "none at all", "budget": 4}}, "pruner"),
    "a budget of nothing": ({"twigkit": {"budget": 0}}, "budget"),
    "greedy twins": ({"n": 2, "temperature": 0}, "num_return_sequences"),
    "more answers than rows": ({"n": 5, "temperature": 1}, "5 answers"),
    "a bias for words": ({"logit_bias": {"word": 1}}, "logit_bias"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(server, name):
    fields, told = WRONG[name]
    response = server.post(CHAT, json={**chat(), **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert told in error["message"], error
    assert error["type"] == "invalid_request_error"


MEDIA = {
    "no base64": "data:image/png;base64,!!!",
    "no picture": data_url(b"some words"),
    "half a picture": data_url(picture(1)[:100]),
    "a video": "data:video/mp4;base64,AAAA",
    "no data": "data:,hello",
    "a host": "https://elsewhere.example/a.png",
    "http": "http://127.0.0.1/a.png",
    "a file": "file:///etc/passwd",
    "too many pixels": data_url(picture(1, (80, 80))),
    "too many bytes": data_url(picture(1, (70, 70)) * 2),
}


@pytest.fixture(scope="module")
def strict_server(model):
    limits = {"most_pixels": 5000, "most_image_bytes": 20_000, "max_images": 2}
    with client(model, **limits, api_key="secret", most_body_bytes=80_000) as server:
        server.headers["Authorization"] = "Bearer secret"
        yield server


@pytest.mark.parametrize("name", MEDIA)
def test_media_that_cannot_be_used_is_refused(strict_server, name):
    part = {"type": "image_url", "image_url": {"url": MEDIA[name]}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    response = strict_server.post(CHAT, json=body)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert "<bytes>" not in message
    assert len(message) < 400


def test_limits_of_a_request(strict_server):
    many = strict_server.post(CHAT, json=chat(*[picture(n) for n in range(3)]))
    assert (many.status_code, "3 pictures" in many.text) == (400, True)
    large = strict_server.post(CHAT, json=chat(prompt="x" * 90_000))
    assert large.status_code == 413
    no_json = strict_server.post(CHAT, content="{}", headers={"Content-Type": "text/plain"})
    assert no_json.status_code == 415
    broken = strict_server.post(CHAT, content="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    other = strict_server.post(CHAT, json=chat(model="another"))
    assert (other.status_code, other.json()["error"]["param"]) == (404, "model")
    unknown = strict_server.post("/v1/responses", json={}).json()["error"]
    assert unknown["type"] == "not_found_error"
    assert "no /v1/responses; the API has /v1/chat/completions" in unknown["message"]
    tools = strict_server.post(CHAT, json=chat(tools=[1])).json()["error"]
    assert tools["param"] == "tools"
    packed = strict_server.post(CHAT, json=chat(), headers={"Content-Encoding": "gzip"})
    assert (packed.status_code, "compressed (gzip)" in packed.text) == (415, True)


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic secret", "secret", "Bearer "])
def test_a_key_is_asked_for(strict_server, given):
    headers = {"Authorization": given}
    for response in (
        strict_server.get("/v1/models", headers=headers),
        strict_server.post(CHAT, json=chat(), headers=headers),
    ):
        assert response.status_code == 401
        assert "secret" not in response.text
    assert strict_server.get("/v1/models").status_code == 200
    assert strict_server.get("/health", headers=headers).status_code == 200


def test_what_happened_is_counted(model):
    with client(model) as server:
        server.post(CHAT, json=chat(picture(1), twigkit={"budget": 0.4}))
        server.post(CHAT, json=chat(nonsense=1))
        engine = server.app.state.engine
        until(lambda: engine.running == 0)  # a row leaves just after its last token was sent
        text = server.get("/metrics").text
    counted = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }
    label = '{model_name="tiny"}'
    assert counted[f"twigkit:visual_tokens_total{label}"] == 16
    assert 0 < counted[f"twigkit:kept_visual_tokens_total{label}"] < 16
    assert counted[f"twigkit:generation_tokens_total{label}"] > 0
    assert counted[f"twigkit:num_requests_running{label}"] == 0
    assert counted[f"twigkit:time_to_first_token_seconds_count{label}"] == 1
    assert counted[f"twigkit:accepted_length_count{label}"] == 1
    assert counted[f"twigkit:spec_decode_num_draft_tokens_total{label}"] > 0
    assert counted['twigkit:request_failure_total{model_name="tiny",status="400"}'] == 1


def until(condition, seconds=20.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_key_may_have_any_characters(model):
    with client(model, api_key="schlüssel") as server:
        for key, status in (("schlüssel", 200), ("schlussel", 401)):
            headers = {b"Authorization": f"Bearer {key}".encode()}
            assert server.get("/v1/models", headers=headers).status_code == status


LONG = {"max_tokens": 240, "ignore_eos": True, "twigkit": {"drafter": "plain"}}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(model, stream):
    with client(model, max_num_seqs=1, max_queue=1) as server:
        engine = server.app.state.engine
        ask_and_leave(server.app, {**chat(), **LONG, "stream": stream}, 4 if stream else 0)
        until(lambda: engine.running == 0)
        assert said(server.post(CHAT, json=chat()))
        assert 'finished_reason="abort",model_name="tiny"} 1.0' in server.get("/metrics").text
    assert engine.running == engine.waiting == 0


@pytest.mark.parametrize("arrived", [True, False])
def test_what_runs_when_the_server_has_to_stop_is_told_so(model, arrived):
    got = []

    async def receive():
        if not arrived or receive.asked:
            await asyncio.sleep(60)
        receive.asked = True
        return {"type": "http.request", "body": json.dumps({**chat(), **LONG}).encode()}

    async def send(part):
        got.append(part)

    async def run(app):
        asked = asyncio.create_task(app(http_scope(CHAT), receive, send))
        await asyncio.sleep(0.3)
        asked.cancel()
        await asked

    receive.asked = False
    with client(model) as server:
        asyncio.run(run(server.app))
        until(lambda: server.app.state.engine.running == 0)
    assert got[0]["status"] == 503
    assert "ask again" in json.loads(got[1]["body"])["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_defect_ends_one_request_and_tells_nothing(model, monkeypatch, caplog, stream):
    with client(model) as server:
        working = RunningBatch.step
        monkeypatch.setattr(RunningBatch, "step", lambda batch: {}["a secret"])
        response = server.post(CHAT, json=chat(stream=stream))
        error = (chunks(response)[-1] if stream else response.json())["error"]
        assert response.status_code == (200 if stream else 500)
        assert error["type"] == "internal_error"
        assert "a secret" not in response.text
        assert "a secret" in caplog.text
        monkeypatch.setattr(RunningBatch, "step", working)
        assert said(server.post(CHAT, json=chat()))


@pytest.mark.parametrize("stream", [True, False])
def test_a_plugin_that_fails_is_named_in_the_log(model, monkeypatch, caplog, stream):
    monkeypatch.setattr(TtpPruner, "select", lambda *_: {}["a secret"])
    with client(model) as server:
        asked = chat(picture(1), stream=stream, twigkit={"budget": 0.5})
        response = server.post(CHAT, json=asked)
    assert response.status_code == 500
    assert "a secret" not in response.text
    assert "the pruner 'ttp'" in caplog.text


def test_a_base_of_which_no_request_could_be_answered_is_told_before_any(model, monkeypatch):
    monkeypatch.setattr(model.base.generation_config, "num_beams", 4)
    with pytest.raises(CapabilityError, match=r"num_beams=4 comes from .* generation_config\.json"):
        client(model)


class SlowFetcher:
    """Fetches nothing before it is told to."""

    def __init__(self):
        self.go, self.urls = threading.Event(), []

    def get(self, url):
        self.urls.append(url)
        assert self.go.wait(30)
        return picture(1)


def test_a_slow_host_of_pictures_holds_up_nobody_else(model):
    spec, slow = ServerSpec(model_name="tiny", max_num_seqs=2, max_queue=98), SlowFetcher()
    part = {"type": "image_url", "image_url": {"url": "https://slow.example/a.png"}}
    words = {"type": "text", "text": QUESTION}
    body = {"messages": [{"role": "user", "content": [part, words]}], "max_tokens": 12}
    with (
        TestClient(create_app(model, tiny_processor(), spec, fetcher=slow)) as server,
        ThreadPoolExecutor(90) as clients,
    ):
        asked = [clients.submit(server.post, CHAT, json=body) for _ in range(90)]
        try:
            until(lambda: len(slow.urls) == 90)
            assert said(server.post(CHAT, json=chat()))
        finally:
            slow.go.set()
        text = expected(model, [picture(1)])[0]
        assert [said(each.result()) for each in asked] == [[text]] * 90


def test_a_full_queue_is_said_so(model):
    with client(model, max_num_seqs=1, max_queue=1) as server:
        engine = server.app.state.engine
        held = [engine.reserve(1), engine.reserve(1)]
        response = server.post(CHAT, json=chat())
        assert response.status_code == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert response.json()["error"]["type"] == "rate_limit_error"
        held[0].cancel()
        assert said(server.post(CHAT, json=chat()))
        held[1].cancel()
