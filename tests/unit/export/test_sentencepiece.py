"""Tokenizers of the SentencePiece kind (Llama 2, Mistral 7B) in GGUF files."""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from medimind.errors import ExportError, PromptError
from medimind.export.gguf.vocabulary import metadata_of
from medimind.prompts.sentencepiece_bpe import BYTES, build_backend, merges_of, space_prefix_of
from medimind.prompts.tokenizer import load_tokenizer
from medimind.prompts.tokenizer_folder import read_folder
from medimind.prompts.tokenizer_gguf import definition_from_metadata
from tiny_checkpoints import write_folder

TEXT = """A 54-year-old woman has chest pain and fever. Let me think about what fits the findings.
The patient needs an ECG, then aspirin 300 mg. The patient thinks; thinking step by step."""
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED = ("[INST]", "[/INST]")
TEXTS = (
    "The patient has pain.",
    "  two  spaces, a tab\tand\nlines\n\n",
    "患者发热 🩺 \u00a0°C",
    "[INST] fever? [/INST]The</s>",
    "x",
)


def small_backend(*, space_prefix=True):
    """Specials, bytes, characters and pieces, as in Mistral's files."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=220, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    pieces = sorted(state["vocab"], key=state["vocab"].__getitem__)
    made = {"".join(merge): rank for rank, merge in enumerate(state["merges"])}
    tokens = [*SPECIAL, *BYTES, *pieces]
    scores = [-float(made.get(token, len(made))) for token in tokens]
    plain = range(len(SPECIAL) + len(BYTES), len(tokens))
    backend = build_backend(
        {token: token_id for token_id, token in enumerate(tokens)},
        merges_of(tokens, scores, plain=plain),
        unknown="<unk>",
        space_prefix=space_prefix,
    )
    backend.add_special_tokens(
        [tokenizers.AddedToken(t, normalized=False) for t in (*SPECIAL, *ADDED)]
    )
    return backend


def put_into(folder, backend):
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_folder(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no-prefix"])
def both(request, tmp_path_factory):
    """A tokenizer, and what comes of it on its way through a GGUF header."""
    backend = small_backend(space_prefix=request.param)
    definition = put_into(tmp_path_factory.mktemp("spm"), backend)
    metadata = metadata_of(definition, vocab_size=600)
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is request.param
    return backend, definition_from_metadata(metadata, where="header")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet=TEXT + "▁患"), st.sampled_from(TEXTS)))
def test_the_header_gives_the_same_ids(both, text):
    backend, restored = both
    expected = backend.encode(text, add_special_tokens=False)
    found = restored.backend.encode(text, add_special_tokens=False)
    assert found.ids == expected.ids
    assert restored.backend.decode(found.ids) == backend.decode(expected.ids)


def test_tokens_keep_their_meaning(both):
    _, restored = both
    assert (restored.bos, restored.eos, restored.adds_bos) == ("<s>", "</s>", True)
    assert restored.backend.encode("[INST]", add_special_tokens=False).tokens == ["[INST]"]


def test_llama_cpp_cuts_text_the_same_way(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    from medimind.engines.llama_cpp import LlamaCppEngine
    from medimind.export.gguf import About, export_gguf, open_weights

    folder = write_folder(tmp_path / "base", "mistral", vocab_size=600)
    put_into(folder, small_backend())
    path = tmp_path / "m.gguf"
    export_gguf(open_weights(folder), path, quantization="f16", model=folder, about=About(name="m"))
    engine = LlamaCppEngine(path, context=64, threads=1)
    ours = load_tokenizer(folder)
    for text in (*TEXTS, TEXT):
        assert engine.tokenize(text) == ours.encode(text) == engine.tokenizer.encode(text)
    engine.close()


def test_merges_that_scores_cannot_tell_are_refused(tmp_path):
    state = json.loads(small_backend().to_str())
    del state["model"]["merges"][3]
    other = tokenizers.Tokenizer.from_str(json.dumps(state))
    with pytest.raises(ExportError, match="not all ways to make its pieces"):
        metadata_of(put_into(tmp_path, other), vocab_size=600)


def test_spaces_that_llama_cpp_does_not_know_are_refused(tmp_path):
    state = json.loads(small_backend().to_str())
    metaspace = {"type": "Metaspace", "replacement": "▁", "split": False}
    state |= {"normalizer": None, "pre_tokenizer": {**metaspace, "prepend_scheme": "always"}}
    assert space_prefix_of(state) is True
    state["pre_tokenizer"]["prepend_scheme"] = "first"
    other = tokenizers.Tokenizer.from_str(json.dumps(state))
    with pytest.raises(ExportError, match="with byte fallback"):
        metadata_of(put_into(tmp_path, other), vocab_size=600)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.scores": [0.0]},
        {"tokenizer.ggml.scores": None},
        {"tokenizer.ggml.add_space_prefix": 3},
    ],
)
def test_a_damaged_header_is_refused(tmp_path, change):
    metadata = metadata_of(put_into(tmp_path, small_backend()), vocab_size=600)
    with pytest.raises(PromptError, match=next(iter(change))):
        definition_from_metadata(metadata | change, where="header")
