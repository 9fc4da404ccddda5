"""Our decoder behind the protocol: what generate and the templates give, adapter off and on."""

from __future__ import annotations

import pytest
import torch

from medimind.cli.answers import each_piece
from medimind.config import ModelConfig, PromptConfig
from medimind.engines.engine import Decoding, Message, OptionRequest, Request
from medimind.engines.own import OwnEngine
from medimind.errors import EngineError, PromptError
from medimind.models.generate import generate
from medimind.models.load import Model, load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from medimind.models.options import Choice, option_logprobs
from medimind.prompts.templates import get_template
from tiny_checkpoints import write_folder

TEMPLATE = get_template(PromptConfig(template="chatml", system=""))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = write_folder(
        tmp_path_factory.mktemp("own") / "llama", "llama", max_position_embeddings=512
    )
    loaded = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    attach_lora(loaded.decoder, rank=4, alpha=8, seed=1)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lora_parameters(loaded.decoder).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return loaded


def ask(text: str, seed: int = 0, **changes) -> Request:
    return Request((Message("user", text),), seed=seed, **changes)


REQUESTS = [ask("pain"), ask("the patient has a cold and flu"), ask("fever")]


@pytest.mark.parametrize("variant", ["base", "tuned"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_outputs_are_those_of_generate(model, variant, temperature) -> None:
    engine = OwnEngine(model, template=TEMPLATE, batch_size=2)
    decoding = Decoding(10, thinking_budget=4, temperature=temperature, top_p=0.9)
    seen: dict[int, str] = {}
    replies = engine.answer(
        REQUESTS,
        decoding=decoding,
        variant=variant,
        on_reply=lambda index, reply: seen.update({index: reply.text}),
    )

    def direct():
        return generate(
            model,
            [engine.prompt_ids(request) for request in REQUESTS],
            max_new_tokens=10,
            thinking_budget=4,
            reasoning_close=TEMPLATE.reasoning_close,
            temperature=temperature,
            top_p=0.9,
            seed=0,
            stop=TEMPLATE.stop,
            batch_size=2,
        )

    if variant == "base":
        with adapter_disabled(model.decoder):
            wanted = direct()
    else:
        wanted = direct()
    assert [reply.text for reply in replies] == [one.text for one in wanted]
    assert [reply.token_ids for reply in replies] == [one.token_ids for one in wanted]
    assert seen == {index: one.text for index, one in enumerate(wanted)}
    assert replies[0].open_in_prompt
    assert replies[0].prompt is not None
    assert replies[0].prompt.endswith("<think>\n")
    assert replies[0].markers == ("<think>", "</think>")
    assert model.decoder.layers[0].self_attn.q_proj.adapter_enabled


def test_base_and_tuned_differ_and_have_identities_of_their_own(model) -> None:
    engine = OwnEngine(model, template=TEMPLATE)
    decoding = Decoding(12)
    base = engine.answer(REQUESTS, decoding=decoding, variant="base")
    tuned = engine.answer(REQUESTS, decoding=decoding, variant="tuned")
    assert [one.text for one in base] != [one.text for one in tuned]
    other = OwnEngine(model, template=get_template(PromptConfig(template="plain")))
    identities = {
        engine.identity("base"),
        engine.identity("tuned"),
        other.identity("base"),
        OwnEngine(model, template=None).identity("base"),
    }
    assert len(identities) == 4
    assert engine.identity("base") == OwnEngine(model, template=TEMPLATE).identity("base")


def test_a_sample_is_the_same_whatever_else_is_asked(model) -> None:
    engine = OwnEngine(model, template=TEMPLATE, batch_size=8)
    decoding = Decoding(8, temperature=1.0)
    samples = [ask("pain", seed) for seed in range(3)]
    together = engine.answer(samples, decoding=decoding)
    alone = [engine.answer([one], decoding=decoding)[0] for one in samples]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert len({one.token_ids for one in together}) == 3


def test_stream_is_the_answer(model) -> None:
    engine = OwnEngine(model, template=TEMPLATE)
    decoding = Decoding(9, thinking_budget=3)
    pieces = []
    stream = engine.stream(ask("pain"), decoding=decoding, variant="tuned")
    reason = each_piece(stream, pieces.append)
    (reply,) = engine.answer([ask("pain")], decoding=decoding, variant="tuned")
    assert ("".join(pieces), reason) == (reply.text, reply.finish_reason)


def test_options_follow_an_empty_thinking(model) -> None:
    engine = OwnEngine(model, template=TEMPLATE)
    request = ask("pain", prefill="Answer:")
    letters = (" A", " B")
    (found,) = engine.option_logprobs([OptionRequest(request, letters)], variant="tuned")
    tokenizer = model.tokenizer
    ids = engine.prompt_ids(ask("pain"))
    ids = [*ids, *tokenizer.encode(TEMPLATE.reasoning_close + "Answer:")]
    encoded = [tokenizer.encode(letter) for letter in letters]
    assert [found] == option_logprobs(model, [Choice(ids, encoded)])
    bare = Request((), prompt="the patient")
    told = {}
    plain = engine.option_logprobs(
        [OptionRequest(bare, letters), OptionRequest(request, letters)],
        on_logprobs=lambda index, logprobs: told.update({index: logprobs}),
    )
    assert told == dict(enumerate(plain))
    with adapter_disabled(model.decoder):
        choices = [Choice(engine.prompt_ids(bare), encoded), Choice(ids, encoded)]
        assert plain == option_logprobs(model, choices)


@pytest.mark.parametrize(
    ("prefill", "is_open"), [("", True), ("So it is", True), ("So.\n</think>\n\nAnswer", False)]
)
def test_a_prefill_may_end_the_thinking(model, prefill, is_open) -> None:
    engine = OwnEngine(model, template=TEMPLATE)
    (reply,) = engine.answer([ask("pain", prefill=prefill)], decoding=Decoding(3))
    assert reply.open_in_prompt is is_open
    assert reply.prompt is not None
    assert reply.prompt.endswith(prefill or "<think>\n")


def test_what_cannot_be_asked_is_refused(model, tmp_path) -> None:
    engine = OwnEngine(model, template=TEMPLATE)
    with pytest.raises(PromptError):
        engine.answer([Request(())], decoding=Decoding(3))
    folder = write_folder(tmp_path / "bare", "llama")
    bare = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    with pytest.raises(EngineError, match="no adapter"):
        OwnEngine(bare, template=TEMPLATE).answer(
            [ask("pain")], decoding=Decoding(3), variant="tuned"
        )
