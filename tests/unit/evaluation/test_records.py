"""Record files: types checked, damage dropped with a note, nothing asked twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_builders import make_case, make_record, make_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medimind.errors import EvaluationError
from medimind.evaluation.records import RecordFile, digest, read_records, record_from


def write(path: Path, records, tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(r.to_json().encode() + b"\n" for r in records) + tail)
    return path


def test_records_come_back_as_they_were(tmp_path) -> None:
    records = make_records("base", num=12, right=0.5, loss=2.0, seed=1)
    found = read_records(write(tmp_path / "base.jsonl", records))
    assert list(found.records) == records
    assert found.damaged == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", 3),
        ("kind", "guess"),
        ("options", "ABCD"),
        ("options", [1, 2]),
        ("loss", "low"),
        ("loss", True),
        ("num_tokens", 1.5),
        ("correct", 1),
        ("status", "fine"),
        ("option_logprobs", [None]),
        ("question", None),
        ("loss", float("nan")),
        ("loss", 1e400),
        ("loss", 10**400),
        ("num_tokens", 10**400),
        ("option_logprobs", [float("-inf"), -1.0, -1.0, -1.0]),
        ("option_logprobs", [-1.0, -1.0]),
        ("num_tokens", -5),
        ("gold", "F"),
        ("gold", ""),
        ("extracted", "AB"),
        ("options", []),
    ],
)
def test_wrong_types_are_refused(field: str, value: object) -> None:
    row = json.loads(make_record(make_case(0), "base").to_json())
    with pytest.raises(EvaluationError, match=f"{field}|status|options"):
        record_from({**row, field: value}, where="x.jsonl:1")


def test_letters_in_lower_case_are_letters() -> None:
    record = make_record(make_case(0), "base")
    row = {**json.loads(record.to_json()), "gold": "b", "extracted": "b", "likeliest": "b"}
    assert record_from(row, where="x") == record


def test_missing_field_is_named_and_unknown_one_left_out() -> None:
    row = json.loads(make_record(make_case(0), "base").to_json())
    assert record_from({**row, "later": 1}, where="x").case_id == "case-000"
    del row["case_id"]
    with pytest.raises(EvaluationError, match="x:7: field 'case_id' is missing"):
        record_from(row, where="x:7")


def test_damaged_lines_are_counted(tmp_path) -> None:
    records = make_records("base", num=2, right=0.5, loss=2.0, seed=1)
    path = write(
        tmp_path / "base.jsonl", records, b"\x00\xff\n[1, 2]\n\n{}\n" + b"[" * 100_000 + b"\n"
    )
    found = read_records(path)
    assert len(found.records) == 2
    assert found.damaged == (3, 4, 6, 7)


def test_byte_order_mark_is_no_damage(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", make_records("base", num=1, right=1, loss=2.0, seed=1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_records(path).damaged == ()


def test_missing_file_is_a_plain_error(tmp_path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")


def test_resume_keeps_what_is_wanted_in_order(tmp_path) -> None:
    records = make_records("base", num=6, right=0.5, loss=2.0, seed=1)
    path = tmp_path / "evaluation" / "base.jsonl"
    wanted = [record.key for record in records]
    file = RecordFile(path, wanted=wanted)
    assert file.missing == set(wanted)
    file.append([records[4], records[1]])
    again = RecordFile(path, wanted=wanted)
    assert again.notes == []
    assert again.missing == set(wanted) - {records[4].key, records[1].key}
    again.append(records)
    assert again.finish() == tuple(records)
    assert list(read_records(path).records) == records


def test_last_line_without_its_line_break_is_completed(tmp_path) -> None:
    records = make_records("base", num=3, right=0.5, loss=2.0, seed=1)
    path = write(tmp_path / "base.jsonl", records[:2])
    path.write_bytes(path.read_bytes()[:-1])
    file = RecordFile(path, wanted=[record.key for record in records])
    file.append([records[2]])
    assert list(read_records(path).records) == records


def test_records_of_other_settings_are_dropped_with_a_note(tmp_path) -> None:
    records = make_records("base", num=3, right=0.5, loss=2.0, seed=1)
    path = write(tmp_path / "base.jsonl", records)
    file = RecordFile(path, wanted=[records[0].key, "new"])
    assert file.missing == {"new"}
    assert "2 records of other settings" in file.notes[0]
    assert len(read_records(path).records) == 1


@given(cut=st.integers(1, 2000))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_file_torn_anywhere_loses_only_the_torn_line(tmp_path, cut: int) -> None:
    records = make_records("base", num=3, right=0.5, loss=2.0, seed=1)
    path = write(tmp_path / "base.jsonl", records)
    data = path.read_bytes()
    start = data[:-1].rindex(b"\n") + 1
    kept = start + cut % (len(data) - start)
    path.write_bytes(data[:kept])
    file = RecordFile(path, wanted=[record.key for record in records])
    is_whole = kept == len(data) - 1  # only its line break is missing
    assert file.missing == (set() if is_whole else {records[2].key})
    assert bool(file.notes) == (kept > start and not is_whole)
    file.append([records[2]])
    assert file.finish() == tuple(records)
    assert path.read_bytes() == data


def test_half_a_surrogate_pair_does_not_stop_the_writing(tmp_path) -> None:
    record = make_record(make_case(0, question="why \ud83d?"), "base")
    file = RecordFile(tmp_path / "base.jsonl", wanted=[record.key])
    file.append([record])
    assert read_records(file.path).records[0].question == "why ??"


def test_digest_depends_on_values_only() -> None:
    assert digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
    assert digest([1]) != digest([2])


def test_records_of_other_settings_can_be_kept(tmp_path) -> None:
    records = make_records("base", num=4, right=0.5, loss=2.0, seed=1)
    path = write(tmp_path / "base.jsonl", records, tail=records[0].to_json().encode()[:40])
    keys = [record.key for record in records]
    file = RecordFile(path, wanted=[keys[2], "new"], keep_others=True)
    assert file.missing == {"new"}
    assert "damaged line 5" in file.notes[0]
    file.append([make_record(make_case(9), "base", key="new")])
    assert [record.key for record in file.finish()] == [keys[2], "new"]
    assert [record.key for record in read_records(path).records] == [*keys, "new"]
