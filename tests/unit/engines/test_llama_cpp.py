"""llama.cpp as an engine: the real SmolLM2 file, asked through our templates.

Both packages that bring llama.cpp pass the same tests; what is not installed is skipped.
"""

from __future__ import annotations

import builtins
import math
import os
import subprocess
import sys
import time

import pytest

from medimind.cli.answers import each_piece
from medimind.engines.engine import Decoding, Message, OptionRequest, Request
from medimind.engines.gguf_engine import PROGRAMS, find_program, open_gguf_engine
from medimind.engines.llama_server import import_xllamacpp
from medimind.errors import CheckpointError, EngineError, MissingExtraError, PromptError
from medimind.export.gguf import About, export_gguf, open_weights
from medimind.prompts.template_process import template_process
from tiny_checkpoints import write_folder

FRANCE = Request((Message("user", "What is the capital of France?"),))
STORY = Request((Message("user", "Write a long story about a dog."),), seed=1)


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    pytest.importorskip(PROGRAMS[request.param], reason=f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def engine(smollm2_gguf, program):
    if program == "xllamacpp":
        from medimind.engines.llama_cpp import LlamaCppEngine

        engine = LlamaCppEngine(smollm2_gguf, context=512, parallel=2, threads=1)
    else:
        engine = open_gguf_engine(smollm2_gguf, context=512, threads=1, program=program)
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
    pieces = []
    reason = each_piece(engine.stream(FRANCE, decoding=Decoding(12)), pieces.append)
    (reply,) = engine.answer([FRANCE], decoding=Decoding(12))
    assert len(pieces) > 1
    assert ("".join(pieces), reason) == (reply.text, reply.finish_reason)


def test_closing_a_stream_stops_it(engine):
    stream = engine.stream(STORY, decoding=Decoding(400, temperature=1.0))
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


def test_an_output_can_be_made_to_begin_with_a_text(engine):
    begun = Request(FRANCE.messages, prefill="The capital of France is")
    ids = engine.prompt_ids(begun)
    assert engine.tokenizer.decode(ids).endswith("assistant\nThe capital of France is")
    assert engine.answer([begun], decoding=Decoding(3))[0].text.startswith(" Paris")
    ((right, wrong),) = engine.option_logprobs([OptionRequest(begun, (" Paris", " Berlin"))])
    assert right > wrong + 1


def test_texts_that_end_an_output_are_no_part_of_it(engine):
    engine.answer([STORY], decoding=Decoding(12))  # all then start from the same cache
    whole = engine.answer([STORY], decoding=Decoding(12))[0].text
    stop = whole.split()[3]
    decoding = Decoding(12, stop=(stop,))
    reply = engine.answer([STORY], decoding=decoding)[0]
    assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert "".join(engine.stream(STORY, decoding=decoding)) == reply.text


def test_two_streams_do_not_disturb_each_other(engine):
    other = Request((Message("user", "Write a long story about a cat."),))
    apart = [list(engine.stream(one, decoding=Decoding(8))) for one in (STORY, other)]
    together = zip(*(engine.stream(one, decoding=Decoding(8)) for one in (STORY, other)))
    assert ["".join(pieces) for pieces in zip(*together)] == ["".join(one) for one in apart]


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


def test_a_file_that_is_no_adapter_is_refused(smollm2_gguf, program):
    with pytest.raises(CheckpointError, match="no GGUF adapter"):
        open_gguf_engine(smollm2_gguf, adapter=smollm2_gguf, program=program)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 9 * 10 ** 9 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ raise_exception('no') }}",
        "{% if %}",
    ],
)
def test_a_hostile_chat_template_ends_in_an_error(tmp_path, program, template, processor_seconds):
    base = write_folder(tmp_path / "base", "llama")
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = tmp_path / "m.gguf"
    export_gguf(open_weights(base), path, quantization="q8_0", model=base, about=About(name="m"))
    engine = open_gguf_engine(path, context=64, threads=1, program=program)
    template_process.close()  # all of a worker's life counts when it ends, so a new one
    started = processor_seconds()
    with pytest.raises(PromptError, match=r"chat template fails .*Name a template"):
        engine.answer([FRANCE], decoding=Decoding(2))
    assert processor_seconds() - started < 3  # 1.5, and its start
    plain = Request((), prompt="pain")
    assert engine.answer([plain], decoding=Decoding(2))[0].num_tokens  # the engine lives
    engine.close()


def test_the_first_package_that_is_installed_is_taken(program, smollm2_gguf, monkeypatch):
    assert find_program(program) == program
    assert find_program() in PROGRAMS
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'medimind\[local\]'"):
        open_gguf_engine(smollm2_gguf)
    with pytest.raises(MissingExtraError, match=r"'medimind\[llama-cpp-python\]'"):
        find_program("llama-cpp-python")


def test_a_package_that_wants_a_library_of_the_system_says_which(monkeypatch):
    """In slim containers libgomp is missing: pip would install what is there already."""

    def refuse(name, *rest, **named):
        if name == "xllamacpp":
            raise ImportError("libgomp.so.1: cannot open shared object file", name=name)
        return found(name, *rest, **named)

    found = builtins.__import__
    monkeypatch.setattr("builtins.__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"is installed, but .*libgomp\.so\.1.* libgomp1"):
        import_xllamacpp()


def test_it_needs_no_torch(smollm2_gguf, program):
    code = (
        "import sys, medimind.engines.gguf_engine as m; from pathlib import Path;"
        f"m.open_gguf_engine(Path({str(smollm2_gguf)!r}), context=64, program={program!r}).close();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
