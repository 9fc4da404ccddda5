"""Endpoints: retries, refusals, reasoning put back, order and concurrency."""

from __future__ import annotations

import math
import threading
import time
from email.utils import formatdate

import pytest

from medimind.cli.answers import each_piece
from medimind.engines.endpoint import EndpointEngine, join_reasoning
from medimind.engines.engine import Decoding, Message, OptionRequest, Request
from medimind.errors import EngineError
from medimind.prompts.parse import parse_output
from stub_endpoint import StubEndpoint, chat_reply

DECODING = Decoding(max_new_tokens=32, temperature=0.6, top_p=0.95)


def request(text: str, seed: int = 0) -> Request:
    return Request((Message("user", text),), seed=seed)


def engine(stub: StubEndpoint, **settings) -> EndpointEngine:
    return EndpointEngine(stub.url, **{"model": "small", "wait": lambda _: None, **settings})


def test_outputs_come_in_order_several_at_a_time() -> None:
    together = threading.Barrier(3, timeout=10)

    def answer(body, before):
        together.wait()  # passes only if three requests are there at once
        return 200, chat_reply(body["messages"][-1]["content"].upper())

    with StubEndpoint(answer).running() as stub:
        one = engine(stub, concurrency=3, api_key="secret")
        seen: list[int] = []
        replies = one.answer(
            [request(text) for text in "abcdef"],
            decoding=DECODING,
            on_reply=lambda index, reply: seen.append(index),
        )
        one.close()
    assert [reply.text for reply in replies] == list("ABCDEF")
    assert sorted(seen) == list(range(6))
    assert stub.most_at_once == 3
    assert (replies[0].num_prompt_tokens, replies[0].num_tokens) == (7, 5)
    body = stub.bodies[0]
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["seed"]) == ("small", 32, 0)
    assert (body["temperature"], body["top_p"]) == (0.6, 0.95)
    assert stub.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_later_statuses_are_tried_again(status: int) -> None:
    def answer(body, before):
        return (status, {"error": "busy"}) if before < 2 else (200, chat_reply("yes"))

    pauses: list[float] = []
    with StubEndpoint(answer).running() as stub:
        one = engine(stub, wait=pauses.append)
        assert one.answer([request("a")], decoding=DECODING)[0].text == "yes"
        one.close()
    assert 0.75 <= pauses[0] <= 1.25
    assert 1.5 <= pauses[1] <= 2.5


@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_honoured(is_date: bool) -> None:
    def answer(body, before):
        value = formatdate(time.time() + 31, usegmt=True) if is_date else "31"
        return (429, {}, {"Retry-After": value}) if not before else (200, chat_reply("yes"))

    pauses: list[float] = []
    with StubEndpoint(answer).running() as stub:
        one = engine(stub, wait=pauses.append)
        one.answer([request("a")], decoding=DECODING)
        one.close()
    assert pauses[0] == pytest.approx(31, abs=2 if is_date else 0)


def test_a_reply_that_is_no_json_and_a_lost_server() -> None:
    def answer(body, before):
        return (200, "<html>") if not before else (200, chat_reply("yes"))

    with StubEndpoint(answer).running() as stub:
        one = engine(stub)
        assert one.answer([request("a")], decoding=DECODING)[0].text == "yes"
        one.close()
    gone = engine(stub, retries=2)
    with pytest.raises(EngineError, match="no answer after 3 tries, the last: no connection"):
        gone.answer([request("a")], decoding=DECODING)
    gone.close()


def test_an_error_with_status_200_is_tried_again_and_told(caplog) -> None:
    def answer(body, before):
        broken = {"error": {"message": "overloaded"}}
        return (200, broken) if before < 2 else (200, chat_reply("yes"))

    with StubEndpoint(answer).running() as stub:
        one = engine(stub)
        replies = one.answer([request("a"), request("b")], decoding=DECODING)
        assert [reply.text for reply in replies] == ["yes", "yes"]
        told = [record.message for record in caplog.records if "trying again" in record.message]
        assert len(told) == 1  # not by every thread
        assert "an error in place of an output: overloaded" in told[0]
        one.close()
    broken = StubEndpoint(lambda body, before: (200, {"error": "gone"}))
    with broken.running() as stub:
        one = engine(stub, retries=1)
        with pytest.raises(EngineError, match=r"after 2 tries.*in place of an output: gone"):
            one.answer([request("a")], decoding=DECODING)
        one.close()


@pytest.mark.parametrize(("message", "text"), [({}, ""), ({"refusal": "I cannot."}, "I cannot.")])
def test_a_model_that_says_nothing_has_answered(message, text) -> None:
    """It would say nothing again: one such question must not end every run."""
    with StubEndpoint(lambda body, before: (200, chat_reply(None, **message))).running() as stub:
        one = engine(stub)
        (reply,) = one.answer([request("a")], decoding=DECODING)
        one.close()
    assert (reply.text, reply.finish_reason) == (text, "stop")


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "model_length"])
def test_a_token_limit_has_several_names(reason: str) -> None:
    reply = chat_reply("Answer: A", finish_reason=reason)
    with StubEndpoint(lambda body, before: (200, reply)).running() as stub:
        one = engine(stub)
        assert one.answer([request("a")], decoding=DECODING)[0].finish_reason == "length"
        one.close()


def test_after_a_failure_no_thread_goes_on_trying() -> None:
    asked = threading.Event()

    def answer(body, before):
        if body["messages"][-1]["content"] == "busy":
            asked.set()
            return 503, {}
        assert asked.wait(10)
        return 401, {"error": "no"}

    with StubEndpoint(answer).running() as stub:
        one = engine(stub, concurrency=2, wait=None, retries=6)  # pauses of 1, 2, 4 ... seconds
        begun = time.monotonic()
        with pytest.raises(EngineError, match="status 401"):
            one.answer([request("busy"), request("wrong key")], decoding=DECODING)
        assert time.monotonic() - begun < 8
        one.close()
    assert stub.asked["busy", 0] <= 2


def test_a_slow_server_times_out() -> None:
    release = threading.Event()

    def answer(body, before):
        release.wait(10)
        return 200, chat_reply("late")

    with StubEndpoint(answer).running() as stub:
        one = engine(stub, timeout=0.05, retries=1)
        with pytest.raises(EngineError, match="ReadTimeout"):
            one.answer([request("a")], decoding=DECODING)
        one.close()
        release.set()


def test_a_refused_request_is_named_after_the_others_are_answered() -> None:
    def answer(body, before):
        if body["messages"][-1]["content"] == "long":
            return 400, {"error": {"message": "context too long"}}
        return 200, chat_reply("yes")

    seen: list[int] = []
    with StubEndpoint(answer).running() as stub:
        one = engine(stub, concurrency=1)
        with pytest.raises(EngineError, match=r"1 of 3 requests were refused \(2: status 400: con"):
            one.answer(
                [request("a"), request("long"), request("b")],
                decoding=DECODING,
                on_reply=lambda index, _: seen.append(index),
            )
        one.close()
    assert seen == [0, 2]
    assert stub.asked[("long", 0)] == 1


def test_a_wrong_key_stops_at_once() -> None:
    with StubEndpoint(lambda body, before: (401, {"error": "no"})).running() as stub:
        one = engine(stub, concurrency=1, api_key="secret")
        with pytest.raises(EngineError, match="status 401") as raised:
            one.answer([request(str(i)) for i in range(50)], decoding=DECODING)
        one.close()
    assert stub.asked.total() == 1
    assert "secret" not in str(raised.value)


def test_what_an_endpoint_cannot_do_is_refused() -> None:
    with StubEndpoint(lambda body, before: (200, chat_reply("yes"))).running() as stub:
        one = engine(stub)
        with pytest.raises(EngineError, match="cannot close the thinking"):
            one.answer([request("a")], decoding=Decoding(8, thinking_budget=4))
        with pytest.raises(EngineError, match="cannot begin an output"):
            one.answer([Request((Message("user", "a"),), prefill="So")], decoding=DECODING)
        assert one.option_logprobs([OptionRequest(request("a"), (" A",))]) is None
        assert one.variants == ("base",)
        one.close()
    assert not stub.bodies


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_comes_apart_is_put_back(field: str) -> None:
    reply = chat_reply("Answer: B", **{field: "A fever.\nSo flu."})
    with StubEndpoint(lambda body, before: (200, reply)).running() as stub:
        one = engine(stub, tuned_model="small-lora")
        got = one.answer([request("a")], decoding=DECODING, variant="tuned")[0]
        one.close()
    assert stub.bodies[0]["model"] == "small-lora"
    parsed = parse_output(got.text, open_in_prompt=got.open_in_prompt)
    assert (parsed.reasoning, parsed.answer) == ("A fever.\nSo flu.", "Answer: B")
    assert parsed.well_formed


@pytest.mark.parametrize(
    ("thought", "content", "closed", "answer"),
    [
        ("cut short", "", False, ""),
        ("cut short", None, False, ""),
        ("", "Answer: A", True, "Answer: A"),
        ("twice", "<think>\ntwice\n</think>\n\nAnswer: A", True, "Answer: A"),
        ("twice", "twice</think>Answer: A", True, "Answer: A"),
    ],
)
def test_joined_reasoning_reads_back(thought, content, closed, answer) -> None:
    parsed = parse_output(join_reasoning(thought, content or ""))
    assert (parsed.closed, parsed.answer) == (closed, answer)


def test_identity_tells_models_and_addresses_apart() -> None:
    engines = [
        EndpointEngine("http://a/v1", model="m"),
        EndpointEngine("http://a/v1/", model="m"),
        EndpointEngine("http://b/v1", model="m"),
        EndpointEngine("http://a/v1", model="n", tuned_model="m"),
    ]
    first, same, other, named = (one.identity("base") for one in engines)
    assert first == same
    assert len({first, other, named}) == 3
    assert engines[3].identity("tuned") == first
    for one in engines:
        one.close()


def test_stream_joins_reasoning_and_text() -> None:
    events = (
        'data: {"choices":[{"delta":{"reasoning_content":"Fe"}}]}\n\n'
        'data: {"choices":[{"delta":{"reasoning_content":"ver."}}]}\n\n'
        ": comment\n\n"
        'data: {"choices":[{"delta":{"content":"Answer"}}]}\n\n'
        'data: {"choices":[{"delta":{"content":": B"}}]}\n\n'
    )
    last = 'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    for end, reason in ((last, "length"), ("", "cancelled")):
        with StubEndpoint(lambda body, before, end=end: (200, events + end)).running() as stub:
            one = engine(stub)
            pieces = []
            ended = each_piece(one.stream(request("a"), decoding=DECODING), pieces.append)
            one.close()
        assert "".join(pieces) == "<think>\nFever.\n</think>\n\nAnswer: B"
        assert ended == reason


def test_echoed_log_probabilities_are_summed_over_the_continuation() -> None:
    def answer(body, before):
        text = body["prompt"]
        logprobs = {
            "text_offset": [0, 9, len("Question Answer:"), len("Question Answer:") + 2, len(text)],
            "token_logprobs": [None, -5.0, -1.0, -0.5 if "A" in text[-3:] else -2.0, -9.0],
        }
        return 200, {"choices": [{"text": text, "logprobs": logprobs}]}

    with StubEndpoint(answer).running() as stub:
        one = engine(stub)
        asked = OptionRequest(Request((), prompt="Question Answer:"), (" A x", " B x"))
        told = {}
        values = one.option_logprobs(
            [asked, asked, asked], on_logprobs=lambda index, found: told.update({index: found})
        )
        one.close()
    assert values is not None
    assert len(values) == 3
    assert told == dict(enumerate(values))
    assert all(map(math.isclose, values[2], [-1.5, -3.0]))
    assert stub.bodies[0]["path"] == "/v1/completions"
