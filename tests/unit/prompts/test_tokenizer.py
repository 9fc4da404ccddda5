"""The tokenizer gives the ids its checkpoint was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import small_backend, write_folder
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medimind.cases.case import Case
from medimind.errors import PromptError
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")


def real_texts(cases: list[Case]) -> list[str]:
    return [text for case in cases for text in (case.question, case.reasoning, case.response)]


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        ("r1_llama", "deepseek-r1-distill-llama-8b"),
        ("r1_qwen", "deepseek-r1-distill-qwen-7b"),
    ],
)
def test_ids_equal_those_of_transformers_on_real_english_and_chinese(
    fixture: str,
    name: str,
    shared: Path,
    real_cases: list[Case],
    request: pytest.FixtureRequest,
) -> None:
    ours: Tokenizer = request.getfixturevalue(fixture)
    path = shared / "tokenizers" / name / "tokenizer.json"
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path))
    texts = [*real_texts(real_cases), "<｜User｜>Why?<｜Assistant｜><think>\nHm.\n</think>\n\nSo."]
    expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert ours.encode_batch(texts) == expected
    assert [ours.encode(text) for text in texts] == expected
    assert [ours.decode(ids) for ids in expected] == texts


def test_r1_tokens_have_their_published_ids(r1_llama: Tokenizer) -> None:
    assert [r1_llama.token_id(token) for token in R1_TOKENS] == [128000, 128001, 128011, 128012]
    assert (r1_llama.bos_id, r1_llama.eos_id, r1_llama.pad_id) == (128000, 128001, 128001)
    assert r1_llama.adds_bos
    assert r1_llama.vocab_size == 128256
    assert r1_llama.encode("<think>") == [128013]
    assert r1_llama.token_id("no such token") is None


def test_encode_adds_nothing_though_the_post_processor_would(r1_llama: Tokenizer) -> None:
    assert r1_llama.encode("") == []
    assert r1_llama.bos_id not in r1_llama.encode("A question")


def test_smollm2_reads_its_tokens_and_template(smollm2: Tokenizer) -> None:
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.pad_id) == (1, 2, 2)
    assert not smollm2.adds_bos
    assert smollm2.vocab_size == 49152
    assert smollm2.encode("<|im_start|>user\n") == [1, 4093, 198]
    assert smollm2.chat_template is not None
    # Checked with llama.cpp, which gives the same 664,726 ids on 2,105 texts of the real data;
    # transformers' own GGUF reader forgets that digits are cut apart first.
    assert smollm2.encode("patient's\n\n12 mg") == [16594, 506, 1116, 33, 34, 9209]


def test_control_tokens_written_in_plain_text_stay_text(r1_llama: Tokenizer) -> None:
    text = "Is </think> a tag? <｜User｜> <｜end▁of▁sentence｜>"
    (plain,) = r1_llama.encode_plain([text])
    assert not {128001, 128011, 128013, 128014} & set(plain.ids)
    assert r1_llama.decode(plain.ids) == text
    assert {128001, 128011, 128014} <= set(r1_llama.encode(text))


@given(text=st.text(max_size=40), inserted=st.sampled_from(["<|im_end|>", "<think>", "<eos>"]))
@settings(deadline=None, max_examples=60)
def test_plain_text_never_holds_a_control_token(
    text: str, inserted: str, small_thinking: Tokenizer
) -> None:
    text = text + inserted + text
    (plain,) = small_thinking.encode_plain([text])
    assert not small_thinking._control_ids & set(plain.ids)
    assert small_thinking.decode(plain.ids) == text
    assert len(plain.starts) == len(plain.ids)


def test_split_control_keeps_every_character(small_thinking: Tokenizer) -> None:
    parts = small_thinking.split_control("a<think>\n<eos><eos>b")
    assert "".join(text for text, _ in parts) == "a<think>\n<eos><eos>b"
    ids = [small_thinking.token_id(t) for t in ("<think>", "<eos>")]
    assert [i for _, i in parts] == [None, ids[0], None, ids[1], ids[1], None]
    assert small_thinking.split_control("") == []


def test_skipping_special_tokens_keeps_the_thinking_tags(tmp_path: Path) -> None:
    backend = small_backend(control=("<eos>", "<think>", "</think>"))
    tokenizer = load_tokenizer(write_folder(tmp_path, backend, eos_token="<eos>"))
    ids = tokenizer.encode("pain</think>fever<eos>")
    assert tokenizer.decode(ids, skip_special=True) == "pain</think>fever"
    assert tokenizer.decode(ids) == "pain</think>fever<eos>"


def test_ids_beyond_the_vocabulary_decode_to_nothing(small: Tokenizer) -> None:
    assert small.decode([*small.encode("pain"), small.vocab_size + 7]) == "pain"


@given(ids=st.lists(st.integers(0, 420), max_size=40), skip=st.booleans())
@settings(deadline=None, max_examples=200)
def test_streamed_pieces_together_are_the_decoded_text(
    ids: list[int], skip: bool, small: Tokenizer
) -> None:
    decoder = small.stream_decoder(skip_special=skip)
    streamed = "".join([decoder.push(token_id) for token_id in ids]) + decoder.finish()
    assert streamed == small.decode(ids, skip_special=skip)


def test_a_character_of_several_tokens_is_streamed_whole(smollm2: Tokenizer) -> None:
    text = "发热 🩺 done"
    decoder = smollm2.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in smollm2.encode(text)]
    assert "".join(pieces) == text
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.finish() == ""


def test_bytes_that_never_complete_come_out_at_the_end(smollm2: Tokenizer) -> None:
    decoder = smollm2.stream_decoder()
    ids = smollm2.encode("🩺")[:-1]
    assert [decoder.push(token_id) for token_id in ids] == [""] * len(ids)
    assert decoder.finish() == "\ufffd"


@pytest.mark.parametrize("fixture", ["smollm2", "r1_qwen", "small"])
def test_a_saved_tokenizer_is_the_same_here_and_in_transformers(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path, real_cases: list[Case]
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.hash == tokenizer.hash
    assert (again.bos_id, again.eos_id, again.pad_id, again.adds_bos) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.adds_bos,
    )
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token, theirs.eos_token) == (tokenizer.bos, tokenizer.eos)
    assert theirs.chat_template == tokenizer.chat_template
    for text in real_texts(real_cases[::20]):
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        with_bos = [tokenizer.bos_id, *ids] if tokenizer.adds_bos else ids
        assert theirs.encode(text) == with_bos


def test_the_hash_tells_tokenizers_apart(small: Tokenizer, tmp_path: Path) -> None:
    other = load_tokenizer(write_folder(tmp_path, small_backend(), eos_token="<eos>"))
    assert len(small.hash) == 64
    assert other.hash != small.hash


def test_settings_of_the_config_win_over_the_post_processor(tmp_path: Path) -> None:
    backend = small_backend()
    settings_ = {"bos_token": "<bos>", "eos_token": "<eos>"}
    write_folder(tmp_path / "a", backend, **settings_, add_bos_token=True)
    adding = load_tokenizer(tmp_path / "a")
    adding.save(tmp_path / "b")
    config = json.loads((tmp_path / "b/tokenizer_config.json").read_text(encoding="utf-8"))
    del config["add_bos_token"]
    (tmp_path / "b/tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(tmp_path / "b").adds_bos
    config["add_bos_token"] = False
    (tmp_path / "b/tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    silent = load_tokenizer(tmp_path / "b")
    assert not silent.adds_bos
    silent.save(tmp_path / "c")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "c")
    assert theirs.encode("chest pain") == silent.encode("chest pain")


def test_tokens_listed_only_in_the_config_are_added(tmp_path: Path) -> None:
    backend = small_backend(control=("<eos>",))
    next_id = backend.get_vocab_size()
    listed = {
        str(next_id): {"content": "<|tool|>", "special": True},
        "0": {"content": "!", "special": False},
        "x": {"content": "ignored"},
        "7": {"content": None},
    }
    tokenizer = load_tokenizer(write_folder(tmp_path, backend, added_tokens_decoder=listed))
    assert tokenizer.encode("<|tool|>") == [next_id]
    wrong = {str(next_id + 5): {"content": "<|tool|>", "special": True}}
    write_folder(tmp_path, small_backend(control=("<eos>",)), added_tokens_decoder=wrong)
    with pytest.raises(PromptError, match="cannot get the id"):
        load_tokenizer(tmp_path)


def test_chat_templates_are_found_wherever_they_are_published(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert load_tokenizer(write_folder(tmp_path, small_backend())).chat_template is None
    write_folder(tmp_path, small_backend(), chat_template=named)
    assert load_tokenizer(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == "J"


def sentencepiece_like(kind: str) -> tokenizers.Tokenizer:
    """Words start with ``▁``, as in Mistral's first checkpoints."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"painfever.\nxyz", "▁p", "▁f"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocab=vocab, merges=[("▁", "p"), ("▁", "f")], unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    if kind == "prepend":
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(parts)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


@pytest.mark.parametrize("kind", ["prepend", "metaspace"])
def test_a_text_that_goes_on_gets_no_space_before_it(kind: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, sentencepiece_like(kind), bos_token="<s>", eos_token="</s>")
    tokenizer = load_tokenizer(folder)
    whole = tokenizer.encode("pain fever")
    (first,) = tokenizer.encode_plain(["pain"], at_start=True)
    (later,) = tokenizer.encode_plain([" fever"])
    assert first.ids + later.ids == whole
    assert tokenizer.decode(whole) == "pain fever"
    decoder = tokenizer.stream_decoder()
    assert "".join(map(decoder.push, whole)) + decoder.finish() == "pain fever"


def test_white_space_tokens_are_no_control_tokens(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small_backend(plain_added=("    ",)), eos_token="<eos>")
    tokenizer = load_tokenizer(folder)
    indent = tokenizer.token_id("    ")
    (plain,) = tokenizer.encode_plain(["a    b<eos>"])
    assert indent in plain.ids
    assert tokenizer.eos_id not in plain.ids
    assert not tokenizer.is_control("    ")


def test_a_control_token_of_the_vocabulary_is_never_taken_whole(tmp_path: Path) -> None:
    vocab = {"x": 0, "e": 1, "<": 2, ">": 3, "o": 4, "s": 5, "<eos>": 6}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    backend.add_special_tokens(["<eos>"])
    tokenizer = load_tokenizer(write_folder(tmp_path, backend, eos_token="<eos>"))
    (plain,) = tokenizer.encode_plain(["<eos>"])
    assert plain.ids == [2, 1, 4, 5, 3]


def test_merges_that_lead_to_a_control_token_are_left_out_of_plain_text(tmp_path: Path) -> None:
    vocab = {"<": 0, "t": 1, ">": 2, "<t": 3, "<t>": 4, "<t>t": 5}
    merges = [("<", "t"), ("<t", ">"), ("<t>", "t")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.add_special_tokens(["<t>", "<eos>"])
    tokenizer = load_tokenizer(write_folder(tmp_path, backend, eos_token="<eos>"))
    assert tokenizer.encode("<t>t") == [4, 1]
    (plain,) = tokenizer.encode_plain(["<t>t"])
    assert plain.ids == [3, 2, 1]
