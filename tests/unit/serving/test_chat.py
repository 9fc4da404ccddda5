"""Chats in OpenAI's form, whole and streamed, refused and cut short."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from serving_stub import CHAT, RawClient, StubBackend, ask, events, make_app, make_serving

from medimind.prompts.live import Said
from medimind.serving.failures import engine_unavailable
from medimind.serving.limits import Limits

URL = "/v1/chat/completions"


def post(app, **changes):
    return ask(app, "POST", URL, json={**CHAT, **changes})


def test_a_whole_answer_parts_thinking_and_answer():
    reply = post(make_app(make_serving())).json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Warm.", "reasoning_content": "Hm."},
            "finish_reason": "stop",
        }
    ]
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_a_stream_says_the_same_piece_by_piece():
    serving = make_serving()
    response = post(make_app(serving), stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        {"content": "Warm."},
        {},
    ]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert serving.admission.num_served == 0


def test_usage_comes_only_if_asked_for():
    assert all(
        chunk["choices"] for chunk in events(post(make_app(make_serving()), stream=True).text)[:-1]
    )


def test_what_is_asked_reaches_the_engine():
    backend = StubBackend()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    asked = {"model": "tuned", "messages": messages, "max_tokens": 7, "temperature": 0, "seed": 5}
    post(make_app(make_serving(backend)), **asked, stop="X", top_p=0.5)
    assert dataclasses.asdict(backend.asked[0]) == {
        "messages": (("system", "Be brief."), ("user", "a\nb")),
        "variant": "tuned",
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 5,
        "stop": ("X",),
    }


def test_models_are_listed():
    reply = ask(make_app(make_serving()), "GET", "/v1/models").json()
    assert [one["id"] for one in reply["data"]] == ["tuned", "base"]


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 300}, 400, "messages"),
        ({"messages": [{"role": "nurse", "content": "x"}]}, 400, "messages.0.role"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 2}, 400, "n"),
        ({"tools": []}, 400, "tools"),
        ({"seed": 1 << 70}, 400, "seed"),
        ({"stop": ["a"] * 5}, 400, None),
        ({"logprobs": True}, 400, "logprobs"),
    ],
)
def test_what_cannot_be_done_is_refused_and_named(changes, status, param):
    response = post(make_app(make_serving()), **changes)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"model": NaN}', b'"\\ud800"', b"\xff\xfe", b"null", b"1e999999"],
)
def test_malformed_bodies_are_refused(body):
    headers = {"Content-Type": "application/json"}
    response = ask(make_app(make_serving()), "POST", URL, content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert "error" in response.json()


def test_a_lone_surrogate_is_refused_and_not_repeated():
    body = b'{"model": "base", "messages": [{"role": "user", "content": "secret \\ud800"}]}'
    headers = {"Content-Type": "application/json"}
    response = ask(make_app(make_serving()), "POST", URL, content=body, headers=headers)
    assert response.status_code == 400
    assert "secret" not in response.text


def test_a_giant_body_is_refused():
    app = make_app(make_serving(limits=Limits(body_bytes=1000)))
    response = post(app, messages=[{"role": "user", "content": "x" * 2000}])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_an_engine_that_is_not_there_is_told_with_a_time():
    backend = StubBackend()
    backend.is_ready = False
    app = make_app(make_serving(backend))
    response = post(app)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert ask(app, "GET", "/readyz", token=None).status_code == 503
    assert ask(app, "GET", "/healthz", token=None).status_code == 200


def test_an_engine_that_dies_ends_the_stream_with_an_error():
    backend = StubBackend([Said("answer", "Wa"), engine_unavailable("died", code="engine_stopped")])
    serving = make_serving(backend)
    streamed = events(post(make_app(serving), stream=True).text)
    assert streamed[-1]["error"]["code"] == "engine_stopped"
    assert post(make_app(serving)).status_code == 503
    assert serving.admission.num_served == 0


def test_a_bug_is_told_without_its_insides():
    backend = StubBackend([ValueError("patient's secret")])
    response = post(make_app(make_serving(backend)))
    assert response.status_code == 500
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_hanging_up_frees_the_place(stream, waits):
    async def go():
        gate = asyncio.Event()
        backend = StubBackend(gate=gate)
        serving = make_serving(backend, limits=Limits(parallel=1, queue=4))
        app = make_app(serving)
        first = RawClient(app)
        await first.until(lambda: "assistant" in first.text)
        one = first
        if waits:
            one = RawClient(app, {**CHAT, "stream": stream})
            while serving.admission.num_waiting == 0:
                await asyncio.sleep(0)
        await one.hang_up()
        assert serving.admission.num_waiting == 0
        assert backend.running == (1 if waits else 0)
        gate.set()
        await first.hang_up()
        assert serving.admission.num_served == 0

    asyncio.run(go())


def test_the_queue_is_bounded_fair_and_refuses_at_once():
    async def go():
        gate = asyncio.Event()
        serving = make_serving(StubBackend(gate=gate), limits=Limits(parallel=1, queue=2))
        app = make_app(serving)
        clients = []
        for _ in range(5):
            clients.append(RawClient(app))
            await clients[-1].until(lambda: clients[-1].messages)
        assert [one.status for one in clients] == [200, 200, 200, 429, 429]
        refusal = dict(clients[3].messages[0]["headers"])
        assert int(refusal[b"retry-after"]) >= 1
        await clients[2].until(lambda: ": waiting 1" in clients[2].text)
        gate.set()
        await asyncio.gather(*(one.task for one in clients))
        assert all(one.text.endswith("data: [DONE]\n\n") for one in clients[:3])

    asyncio.run(go())


def test_waiting_ends():
    async def go():
        limits = Limits(parallel=1, queue=2, queue_seconds=0.05)
        app = make_app(make_serving(StubBackend(gate=asyncio.Event()), limits=limits))
        first = RawClient(app)
        await first.until(lambda: first.messages)
        second, third = RawClient(app), RawClient(app, CHAT)
        await asyncio.gather(second.task, third.task)
        assert events(second.text)[-1]["error"]["code"] == "timeout"
        assert third.status == 503
        await first.hang_up()

    asyncio.run(go())


def test_an_answer_that_takes_too_long_is_ended():
    limits = Limits(request_seconds=0.05)
    serving = make_serving(StubBackend(gate=asyncio.Event()), limits=limits)

    async def go():
        one = RawClient(make_app(serving))
        await asyncio.wait_for(one.task, 5)
        assert events(one.text)[-1]["error"]["code"] == "timeout"

    asyncio.run(go())


def test_a_stopping_server_sends_those_away_who_wait():
    async def go():
        gate = asyncio.Event()
        serving = make_serving(StubBackend(gate=gate), limits=Limits(parallel=1, queue=2))
        app = make_app(serving)
        first, second = RawClient(app), RawClient(app)
        await second.until(lambda: second.messages)
        serving.admission.close()
        await second.task
        assert events(second.text)[-1]["error"]["code"] == "stopping"
        late = RawClient(app)
        await late.task
        assert late.status == 503
        gate.set()
        await first.task
        assert first.text.endswith("data: [DONE]\n\n")

    asyncio.run(go())
