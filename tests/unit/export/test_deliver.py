"""A trained run as GGUF files that are held against the model they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medimind.config.prompt import PromptConfig
from medimind.export.gguf import About, export_gguf, export_gguf_adapter, open_weights
from medimind.export.verify import (
    Fidelity,
    compare_with_reference,
    kl_divergence,
    make_probes,
    reference_logprobs,
)
from medimind.formats.gguf import read_gguf
from medimind.models.adapter import save_adapter
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from medimind.prompts.chat import PROMPT_KEY, render_chat
from medimind.prompts.render import render_training
from medimind.prompts.templates import get_template

pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")

from medimind.cases.case import Case
from medimind.config import ModelConfig
from medimind.engines.gguf_chat import open_chat
from medimind.engines.gguf_engine import PROGRAMS, open_gguf_engine
from medimind.engines.llama_cpp import LlamaCppEngine
from medimind.errors import CheckpointError
from tiny_checkpoints import write_folder

PROMPT = PromptConfig(template="chatml", system="Think of the patient.")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny llama with rope factors, an adapter on it, and both on disk."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "base", "llama")
    model = load_model(ModelConfig(path=str(folder / "base"), quantization="nf4", device="cpu"))
    attach_lora(model.decoder, rank=4, alpha=8, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model.decoder).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_adapter(folder / "adapter", model.decoder, base_model_name="base")
    return model, folder


@pytest.fixture(scope="module")
def probes(trained):
    model, _ = trained
    case = Case(id="1", question="the patient has pain", response="step by step", reasoning="think")
    prompt = render_training(case, template=get_template(PROMPT), tokenizer=model.tokenizer)
    return make_probes([prompt], most_prompts=1, places_each=6)


def merged(trained, path, *, quantization, base="trained"):
    model, folder = trained
    weights = open_weights(model.path, adapter=folder / "adapter", base=base, nf4=True)
    return export_gguf(
        weights,
        path,
        quantization=quantization,
        model=model.path,
        about=About(name="tiny", license="apache-2.0"),
        prompt=PROMPT,
    )


def fidelity(trained, probes, engine, **options):
    model, _ = trained
    references = reference_logprobs(model, probes)
    return compare_with_reference(
        engine, probes, references, texts=["the patient <|im_end|> has 38.5"], **options
    )


def test_llama_cpp_gives_the_merged_file_the_trained_models_answers(trained, probes, tmp_path):
    merged(trained, tmp_path / "m.gguf", quantization="f32")
    engine = LlamaCppEngine(tmp_path / "m.gguf", context=128)
    found = fidelity(trained, probes, engine)
    assert found.kl_mean < 1e-3  # llama.cpp keeps keys and values in 16 bits
    assert found.agreement == 1
    assert (found.num_same_ids, found.num_round_trips) == (1, 1)
    assert found.problems(max_kl=0.01, min_agreement=0.99) == []
    model, _ = trained
    with adapter_disabled(model.decoder):
        untuned = fidelity(trained, probes, engine)
    assert untuned.kl_mean > 100 * found.kl_mean
    assert untuned.problems(max_kl=0.01, min_agreement=1.0)


def test_the_other_base_is_farther_from_what_was_trained(trained, probes, tmp_path):
    merged(trained, tmp_path / "t.gguf", quantization="f32")
    merged(trained, tmp_path / "o.gguf", quantization="f32", base="original")
    near = fidelity(trained, probes, LlamaCppEngine(tmp_path / "t.gguf", context=128))
    far = fidelity(trained, probes, LlamaCppEngine(tmp_path / "o.gguf", context=128))
    assert far.kl_mean > 10 * near.kl_mean


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_adapter_is_switched_per_request(trained, probes, tmp_path, program):
    pytest.importorskip(PROGRAMS[program], reason=f"{program} is not installed")
    model, folder = trained
    weights = open_weights(model.path, adapter=folder / "adapter", base="trained", nf4=True)
    file = export_gguf_adapter(
        folder / "adapter",
        tmp_path / "a.gguf",
        architecture=weights.architecture,
        about=About(name="tiny"),
        prompt=PROMPT,
        quantization="f32",
    )
    base = base_of(trained, tmp_path)
    engine = open_gguf_engine(base, adapter=file.path, context=128, program=program)
    assert engine.variants == ("base", "tuned")
    tuned = fidelity(trained, probes, engine, variant="tuned")
    assert tuned.kl_mean < 1e-3
    assert fidelity(trained, probes, engine, variant="base").kl_mean > 100 * tuned.kl_mean
    assert fidelity(trained, probes, engine, variant="tuned").kl_mean == pytest.approx(
        tuned.kl_mean, abs=1e-4
    )
    assert engine.identity("base") != engine.identity("tuned")


def test_an_adapter_is_not_laid_over_the_file_it_is_merged_into(trained, tmp_path):
    _, folder = trained
    file = merged(trained, tmp_path / "m.gguf", quantization="f16")
    adapter = export_gguf_adapter(
        folder / "adapter",
        tmp_path / "a.gguf",
        architecture=open_weights(folder / "base").architecture,
        about=About(name="tiny"),
        prompt=PROMPT,
    )
    with pytest.raises(CheckpointError, match="merged in already") as caught:
        open_chat(file.path, adapter=adapter.path)
    assert "--with-base" in str(caught.value)
    open_chat(base_of(trained, tmp_path), adapter=adapter.path)


def base_of(trained, tmp_path):
    """The dequantised NF4 base without the adapter, as a GGUF file."""
    model, _ = trained
    weights = open_weights(model.path, base="trained", nf4=True)
    file = export_gguf(
        weights,
        tmp_path / "base.gguf",
        quantization="f32",
        model=model.path,
        about=About(name="tiny"),
    )
    return file.path


def test_the_file_is_asked_as_it_was_taught(trained, tmp_path):
    """Pain: an exported model that carries the base's chat template answers differently."""
    merged(trained, tmp_path / "m.gguf", quantization="q8_0")
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert PromptConfig.model_validate_json(metadata[PROMPT_KEY]) == PROMPT
    assert "Think of the patient." in metadata["tokenizer.chat_template"]
    engine = LlamaCppEngine(tmp_path / "m.gguf", context=128)
    expected = render_chat(
        [("user", "pain")], template=get_template(PROMPT), tokenizer=engine.tokenizer
    )
    from medimind.engines.engine import Message, Request

    assert engine.prompt_ids(Request((Message("user", "pain"),))) == expected


def test_kl_is_that_of_the_whole_distribution_when_all_is_named():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 50))
    logp, logq = (row - np.log(np.exp(row).sum()) for row in logits)
    whole = float(np.sum(np.exp(logp) * (logp - logq)))
    found = {index: float(value) for index, value in enumerate(logq)}
    assert kl_divergence(logp.astype(np.float32), found) == pytest.approx(whole, rel=1e-5)
    most = dict(sorted(found.items(), key=lambda pair: -pair[1])[:25])
    assert 0 < kl_divergence(logp.astype(np.float32), most) <= whole + 1e-6
    same = {index: float(value) for index, value in enumerate(logp)}
    assert kl_divergence(logp.astype(np.float32), same) == pytest.approx(0, abs=1e-6)


def test_what_is_not_a_number_is_no_good_file():
    broken = Fidelity(4, math.nan, math.nan, math.nan, 1, 0, 0)
    assert len(broken.problems(max_kl=0.1, min_agreement=0.9)) == 4


def test_texts_that_do_not_come_back_are_a_problem():
    found = Fidelity(4, 0.0, 0.0, 1.0, num_texts=5, num_same_ids=5, num_round_trips=4)
    (problem,) = found.problems(max_kl=0.1, min_agreement=0.9)
    assert problem == "1 of 5 texts do not come back from their tokens"
