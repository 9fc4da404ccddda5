"""llama.cpp as an engine: the real SmolLM2 file, asked through our templates."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest

from medimind.engines.engine import Decoding, Message, OptionRequest, Request
from medimind.errors import CheckpointError, EngineError

pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")

from medimind.engines.llama_cpp import LlamaCppEngine

FRANCE = Request((Message("user", "What is the capital of France?"),))


@pytest.fixture(scope="module")
def engine(smollm2_gguf):
    engine = LlamaCppEngine(smollm2_gguf, context=512, parallel=2, threads=1)
    yield engine
    engine.close()


def test_it_answers_in_the_order_of_the_requests(engine):
    other = Request((Message("user", "Say only: yes"),))
    seen = {}
    replies = engine.answer(
        [FRANCE, other, FRANCE], decoding=Decoding(12), on_reply=seen.__setitem__
    )
    assert seen == dict(enumerate(replies))
    lengths = [len(engine.prompt_ids(request)) for request in (FRANCE, other, FRANCE)]
    assert [reply.num_prompt_tokens for reply in replies] == lengths
    assert all(reply.text and reply.num_tokens for reply in replies)


def test_what_is_streamed_is_the_answer(engine):
    engine.answer([FRANCE], decoding=Decoding(12))  # both then start from the same cache
    pieces = list(engine.stream(FRANCE, decoding=Decoding(12)))
    assert len(pieces) > 1
    assert "".join(pieces) == engine.answer([FRANCE], decoding=Decoding(12))[0].text


def test_closing_a_stream_stops_it(engine):
    request = Request((Message("user", "Write a long story about a dog."),), seed=1)
    stream = engine.stream(request, decoding=Decoding(400, temperature=1.0))
    next(stream)
    started = time.perf_counter()
    stream.close()
    assert time.perf_counter() - started < 1


def test_a_cut_off_answer_says_so(engine):
    reply = engine.answer([FRANCE], decoding=Decoding(2))[0]
    assert (reply.finish_reason, reply.num_tokens) == ("length", 2)


def test_seeds_decide_what_is_sampled(engine):
    def sampled(seed):
        request = Request(FRANCE.messages, seed=seed)
        return engine.answer([request], decoding=Decoding(12, temperature=1.5))[0].text

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_thinking_is_closed_when_its_budget_is_spent(engine):
    reply = engine.answer([FRANCE], decoding=Decoding(24, thinking_budget=4))[0]
    assert "\n</think>\n\n" in reply.text
    assert reply.num_tokens is not None
    assert reply.num_tokens <= 24


def test_log_probabilities_are_those_of_a_distribution(engine):
    ids = engine.prompt_ids(FRANCE)
    found = engine.next_logprobs(ids, most=engine.tokenizer.vocab_size)
    assert math.isclose(sum(math.exp(value) for value in found.values()), 1, rel_tol=1e-3)
    asked = OptionRequest(FRANCE, (" Paris", " Berlin"))
    ((right, wrong),) = engine.option_logprobs([asked])
    assert right > wrong


def test_the_end_of_an_answer_has_a_probability_too(engine):
    ids = [*engine.prompt_ids(FRANCE), *engine.tokenizer.encode("The capital of France is Paris.")]
    found = engine.next_logprobs(ids, most=10)
    assert engine.tokenizer.eos_id in found


def test_llama_cpp_cuts_text_as_our_tokenizer_does(engine):
    for text in ("Fever of 38.5 °C, 患者 🩺", "<|im_start|>user\nx<|im_end|>", "  a\n\n b"):
        assert engine.tokenize(text) == engine.tokenizer.encode(text)


def test_rendered_text_gets_no_second_bos(engine, shared):
    prompt = engine.tokenizer.decode(engine.prompt_ids(FRANCE))
    assert engine.prompt_ids(Request((), prompt=prompt)) == engine.prompt_ids(FRANCE)


def test_what_cannot_be_done_is_refused(engine):
    long = Request((Message("user", "word " * 600),))
    with pytest.raises(EngineError, match="context only 512"):
        engine.answer([long], decoding=Decoding(4))
    with pytest.raises(EngineError, match="context only 512"):
        list(engine.stream(long, decoding=Decoding(4)))
    with pytest.raises(EngineError, match="no adapter is loaded"):
        engine.answer([FRANCE], decoding=Decoding(4), variant="tuned")


def test_identity_names_the_file(engine):
    assert engine.identity("base") == engine.identity("base")
    assert engine.variants == ("base",)


def test_a_file_that_is_no_adapter_is_refused(smollm2_gguf):
    with pytest.raises(CheckpointError, match="no GGUF adapter"):
        LlamaCppEngine(smollm2_gguf, adapter=smollm2_gguf)


def test_it_needs_no_torch(smollm2_gguf):
    code = (
        "import sys, medimind.engines.llama_cpp as m; from pathlib import Path;"
        f"m.LlamaCppEngine(Path({str(smollm2_gguf)!r}), context=64).close();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
