"""The starter set keeps its own rules; the file is read as any other JSONL, without our loader."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "src" / "medimind" / "cases" / "starter"
FIELDS = [
    "id",
    "specialty",
    "split",
    "question",
    "reasoning",
    "response",
    "answer",
    "options",
    "answer_index",
]
TEXTS = ("question", "reasoning", "response")
NUM_WORDS = {"question": (50, 110), "reasoning": (120, 200), "response": (50, 90), "answer": (1, 8)}
NGRAM = 8


def _read() -> list[dict[str, Any]]:
    text = (FOLDER / "cases.jsonl").read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


CASES = _read()
BY_SPLIT = {
    split: [case for case in CASES if case["split"] == split] for split in ("train", "held_out")
}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _ngrams(text: str) -> set[str]:
    words = _words(text)
    return {" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _benchmark_texts(folder: Path) -> Iterator[str]:
    """Every text of the benchmarks, their outputs and the public training set, row by row."""
    folders = ("mcq", "cot", "generations", "reference")
    for path in sorted(path for name in folders for path in (folder / name).rglob("*.*")):
        if path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                yield from _strings(json.loads(line))
        elif path.suffix == ".json":
            yield from _strings(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".csv":
            yield from path.read_text(encoding="utf-8").splitlines()


def test_counts_are_those_promised() -> None:
    assert len(BY_SPLIT["train"]) == 90
    assert len(BY_SPLIT["held_out"]) == 30
    assert len(CASES) == 120
    specialties = Counter(case["specialty"] for case in CASES)
    assert len(specialties) >= 14
    assert min(specialties.values()) >= 4


def test_every_specialty_is_held_out_in_a_similar_share() -> None:
    totals = Counter(case["specialty"] for case in CASES)
    held_out = Counter(case["specialty"] for case in BY_SPLIT["held_out"])
    assert set(held_out) == set(totals)
    for specialty, total in totals.items():
        assert 1 / 8 <= held_out[specialty] / total <= 3 / 8, specialty


def test_ids_count_upwards() -> None:
    assert [case["id"] for case in CASES] == [f"starter-{i:03d}" for i in range(1, 121)]


def test_file_is_plain_utf8_jsonl() -> None:
    raw = (FOLDER / "cases.jsonl").read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\n\n" not in raw


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
class TestCase:
    def test_schema(self, case: dict[str, Any]) -> None:
        assert list(case) == FIELDS
        assert isinstance(case["answer_index"], int)
        assert isinstance(case["options"], list)
        texts = [case[f] for f in FIELDS if f not in ("options", "answer_index")]
        for text in [*texts, *case["options"]]:
            assert isinstance(text, str)
            assert text == " ".join(text.split()), "stray or doubled white space"
            assert text.isprintable()

    def test_gold_answer_is_the_option_it_points_at(self, case: dict[str, Any]) -> None:
        assert len(case["options"]) == 4
        assert len({option.lower() for option in case["options"]}) == 4
        assert case["options"][case["answer_index"]] == case["answer"]

    def test_lengths(self, case: dict[str, Any]) -> None:
        for field, (low, high) in NUM_WORDS.items():
            assert low <= len(case[field].split()) <= high, field

    def test_question_is_one_open_question_after_a_vignette(self, case: dict[str, Any]) -> None:
        assert case["question"].count("?") == 1
        assert case["question"].endswith("?")
        assert re.search(r"\d", case["question"]), "no figure in the vignette"
        assert "following" not in case["question"], "must make sense without its options"

    def test_reasoning_ends_with_the_answer(self, case: dict[str, Any]) -> None:
        reasoning = case["reasoning"].lower()
        assert case["answer"].lower() in reasoning[-len(reasoning) // 3 :]
        assert re.search(r"\b(I|me|[Mm]y|myself)\b", case["reasoning"]), "not in the first person"

    def test_response_states_the_answer(self, case: dict[str, Any]) -> None:
        assert case["answer"].lower() in case["response"].lower()

    def test_no_markup_of_a_template(self, case: dict[str, Any]) -> None:
        for field in TEXTS:
            text = case[field]
            assert not re.search(r"</?think|<\||\[/?INST|##|\*\*|Final Response", text, re.I)
            assert not re.search(r"\bAnswer\s*:", text, re.I), "the renderer adds this line"
            assert not re.search(r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer) \(?[A-D]\b", text)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_no_answer_position_is_favoured(split: str) -> None:
    positions = Counter(case["answer_index"] for case in BY_SPLIT[split])
    assert sorted(positions) == [0, 1, 2, 3]
    assert max(positions.values()) - min(positions.values()) <= 1


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_length_does_not_give_the_answer_away(split: str) -> None:
    longest = sum(case["answer"] == max(case["options"], key=len) for case in BY_SPLIT[split])
    shortest = sum(case["answer"] == min(case["options"], key=len) for case in BY_SPLIT[split])
    assert longest / len(BY_SPLIT[split]) <= 0.4
    assert shortest / len(BY_SPLIT[split]) <= 0.4


@pytest.mark.parametrize("field", TEXTS)
def test_held_out_shares_no_phrase_with_train(field: str) -> None:
    train = set().union(*(_ngrams(case[field]) for case in BY_SPLIT["train"]))
    for case in BY_SPLIT["held_out"]:
        assert not _ngrams(case[field]) & train, case["id"]


def test_held_out_asks_about_other_answers() -> None:
    train = {case["answer"].lower() for case in BY_SPLIT["train"]}
    held_out = [case["answer"].lower() for case in BY_SPLIT["held_out"]]
    assert not train & set(held_out)
    assert len(set(held_out)) == len(held_out)


def test_questions_are_all_different() -> None:
    seen: dict[str, str] = {}
    for case in CASES:
        for ngram in _ngrams(case["question"]):
            assert ngram not in seen, f"{case['id']} and {seen[ngram]} share '{ngram}'"
        seen |= dict.fromkeys(_ngrams(case["question"]), case["id"])


def test_no_phrase_of_a_public_benchmark(shared: Path) -> None:
    ours = {ngram: case["id"] for case in CASES for f in TEXTS for ngram in _ngrams(case[f])}
    num_texts = 0
    for text in _benchmark_texts(shared / "data"):
        num_texts += 1
        hits = _ngrams(text) & ours.keys()
        assert not hits, {ngram: ours[ngram] for ngram in hits}
    assert num_texts > 5_000


def test_data_card_counts_are_true() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = {
        name.strip(): (int(train), int(held_out))
        for name, train, held_out in re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|$", card, re.M)
    }
    assert rows.pop("**all**") == (90, 30)
    train = Counter(case["specialty"] for case in BY_SPLIT["train"])
    held_out = Counter(case["specialty"] for case in BY_SPLIT["held_out"])
    assert rows == {name: (train[name], held_out[name]) for name in train}
    for field in FIELDS:
        assert f"`{field}`" in card
