from __future__ import annotations

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_rows import o1_row, write_jsonl

from medimind.cases.load import load_cases
from medimind.cases.loaded import LoadedCases
from medimind.cases.starter import load_starter
from medimind.config.data import DataConfig
from medimind.errors import DataError


def test_rejections_name_file_line_field_and_fix(tmp_path, load):
    write_jsonl(tmp_path / "a.jsonl", [o1_row(1), o1_row(2, Response=""), o1_row(3)])
    loaded = load("a.jsonl")
    assert [case.id for case in loaded.cases] == ["a.jsonl:1", "a.jsonl:3"]
    (rejection,) = loaded.rejections
    assert (rejection.file, rejection.line, rejection.field) == ("a.jsonl", 2, "Response")
    assert str(rejection) == (
        "a.jsonl:2: field 'Response': is empty. Fill it in, or remove the row."
    )
    assert loaded.rows_in == 3


def test_no_text_of_a_row_reaches_the_log(tmp_path, load, caplog):
    secret = "patient Erika Mustermann"
    rows = [
        o1_row(1),
        o1_row(2, Question=secret, Response=None),
        {"Question": secret, "Complex_CoT": [secret], "Response": secret},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    with caplog.at_level(logging.DEBUG):
        loaded = load("a.jsonl")
    assert len(loaded.rejections) == 2
    assert "Mustermann" not in caplog.text + "".join(map(str, loaded.rejections))


def test_stop_lists_the_first_several(tmp_path, load):
    write_jsonl(tmp_path / "a.jsonl", [o1_row(n, Response=None) for n in range(7)] + [o1_row(8)])
    with pytest.raises(DataError) as caught:
        load("a.jsonl", on_invalid="stop")
    text = str(caught.value)
    assert text.startswith(
        "7 rows are wrong. Mend them, or set data.on_invalid: skip:\n  a.jsonl:1: field 'Response'"
    )
    assert "a.jsonl:5" in text
    assert "a.jsonl:6" not in text
    assert "and 2 more" in text


def test_nothing_left_is_an_error(tmp_path, load):
    write_jsonl(tmp_path / "a.jsonl", [o1_row(1, Response=None)])
    with pytest.raises(DataError, match="no row can be used, 1 rejected"):
        load("a.jsonl")
    (tmp_path / "b.jsonl").write_text("{broken\n{too\n")
    with pytest.raises(DataError, match="no row can be used, 2 rejected"):
        load("b.jsonl")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(DataError, match=r"c\.json: there are no rows"):
        load("c.json")
    write_jsonl(tmp_path / "d.jsonl", [o1_row(1)])
    with pytest.raises(DataError, match="no rows were taken"):
        load({"path": "d.jsonl", "split": "train[5:]"})


def test_a_folder_mixes_kinds_of_files(tmp_path, load):
    folder = tmp_path / "mix"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [o1_row(1), o1_row(2)])
    (folder / "b.csv").write_text("question,answer\nWhat is it?,Measles\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.json").write_text(json.dumps([o1_row(3), o1_row(4)]))
    loaded = load("mix")
    assert [case.id for case in loaded.cases] == [
        "mix/a.jsonl:1",
        "mix/a.jsonl:2",
        "mix/b.csv:2",
        "mix/sub/c.json:1",
        "mix/sub/c.json:1#2",
    ]
    files = loaded.sources[0].files
    assert [(file.path, file.schema, file.rows) for file in files] == [
        ("mix/a.jsonl", "medical-o1", 2),
        ("mix/b.csv", "question-answer", 1),
        ("mix/sub/c.json", "medical-o1", 2),
    ]
    assert all(len(file.sha256) == 64 for file in files)


def test_limit_and_slice_count_over_a_whole_folder(tmp_path, load):
    folder = tmp_path / "many"
    folder.mkdir()
    for name, some in (("a", range(3)), ("b", range(3, 6)), ("c", range(6, 9))):
        write_jsonl(folder / f"{name}.jsonl", [o1_row(n) for n in some])

    def numbers(**source) -> list[int]:
        cases = load({"path": "many", **source}).cases
        return [int(case.question.split()[1]) for case in cases]

    assert numbers() == list(range(9))
    assert numbers(limit=4) == [0, 1, 2, 3]
    assert numbers(split="train[2:7]") == [2, 3, 4, 5, 6]
    assert numbers(split="train[4:]", limit=2) == [4, 5]
    assert numbers(split="train[:2]", limit=5) == [0, 1]
    for split in ("test", "train[:10%]", "train[-5:]"):
        with pytest.raises(DataError, match="a file has no split"):
            numbers(split=split)


def test_weights_follow_their_source(tmp_path, load):
    write_jsonl(tmp_path / "a.jsonl", [o1_row(1), o1_row(2)])
    write_jsonl(tmp_path / "b.jsonl", [o1_row(2), o1_row(3)])
    loaded = load({"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 0.5})
    assert loaded.weights == (2, 2, 0.5)
    assert [(s.kept, s.duplicates, s.weight) for s in loaded.sources] == [(2, 0, 2), (1, 1, 0.5)]


def test_the_same_file_twice_gives_unique_ids(tmp_path, load):
    write_jsonl(tmp_path / "a.jsonl", [o1_row(1)])
    loaded = load("a.jsonl", "a.jsonl", deduplicate="none")
    assert [case.id for case in loaded.cases] == ["a.jsonl:1", "a.jsonl@2:1"]


def test_ids_of_the_starter_set_are_its_own():
    cases = load_starter()
    assert len({case.id for case in cases}) == len(cases) > 0
    assert {case.split for case in cases} <= {"train", "held_out"}
    assert all(case.id.startswith("starter-") and case.metadata["specialty"] for case in cases)
    for case in cases:
        assert len(case.options) == 4
        assert case.answer_index is not None
        assert case.answer


def test_the_starter_set_twice_is_refused():
    config = DataConfig.model_validate({"sources": [{"source": "starter"}] * 2})
    with pytest.raises(DataError, match="is there twice"):
        load_cases(config, base_folder=None)  # pyright: ignore[reportArgumentType]


class TestGroups:
    def test_group_by_takes_a_column(self, tmp_path, load):
        rows = [o1_row(1, patient="p1"), o1_row(2, patient=7), o1_row(3, patient=None)]
        write_jsonl(tmp_path / "a.jsonl", rows)
        loaded = load("a.jsonl", group_by="patient")
        assert [case.group for case in loaded.cases] == ["p1", "7", None]

    def test_a_column_that_no_source_has(self, tmp_path, load):
        write_jsonl(tmp_path / "a.jsonl", [o1_row(1, patient="p1")])
        with pytest.raises(DataError, match="Did you mean 'patient'"):
            load("a.jsonl", group_by="patients")
        with pytest.raises(DataError, match="Name one of: Complex_CoT"):
            load("a.jsonl", group_by="zzz")

    def test_a_column_that_one_source_lacks_is_a_warning(self, tmp_path, load):
        write_jsonl(tmp_path / "a.jsonl", [o1_row(1, patient="p1")])
        write_jsonl(tmp_path / "b.jsonl", [o1_row(2)])
        (warning,) = load("a.jsonl", "b.jsonl", group_by="patient").warnings
        assert warning.startswith("b.jsonl: there is no column 'patient'")

    def test_a_group_that_is_no_text(self, tmp_path, load):
        write_jsonl(tmp_path / "a.jsonl", [o1_row(1, patient=["x"]), o1_row(2, patient="y")])
        (rejection,) = load("a.jsonl", group_by="patient").rejections
        assert rejection.reason == "is a list where text is expected"


class TestMedMcqa:
    def rows(self, *cops):
        texts = {f"op{letter}": f"option {letter}" for letter in "abcd"}
        return [
            {"question": f"Question {n} {'word ' * n}?", **texts, "cop": cop}
            for n, cop in enumerate(cops)
        ]

    @pytest.mark.parametrize(
        ("cops", "indices"),
        [((1, 2, 4), [0, 1, 3]), ((0, 2, 3), [0, 2, 3]), (("1", "4"), [0, 3])],
    )
    def test_the_whole_file_tells_where_counting_starts(self, tmp_path, load, cops, indices):
        write_jsonl(tmp_path / "a.jsonl", self.rows(*cops))
        loaded = load({"path": "a.jsonl", "limit": 50}, deduplicate="none")
        assert [case.answer_index for case in loaded.cases] == indices

    @pytest.mark.parametrize(("cops", "why"), [((1, 2, 3), "neither"), ((0, 4), "both")])
    def test_a_file_that_does_not_tell_is_refused(self, tmp_path, load, cops, why):
        write_jsonl(tmp_path / "a.jsonl", self.rows(*cops))
        with pytest.raises(DataError, match=rf"{why}.*answer_key: cop.*answer_number: cop"):
            load("a.jsonl")
        source = {"path": "a.jsonl", "columns": {"answer_number": "cop"}}
        if why == "neither":
            loaded = load(source, deduplicate="none")
            assert [case.answer_index for case in loaded.cases] == [0, 1, 2]

    def test_hidden_answers_are_rejected(self, tmp_path, load):
        write_jsonl(tmp_path / "a.jsonl", self.rows(1, 4, -1, None, float("inf")))
        loaded = load("a.jsonl", deduplicate="none")
        assert [rejection.line for rejection in loaded.rejections] == [3, 4, 5]


def test_specialty_and_split_come_along(tmp_path, load):
    rows = [
        o1_row(1, specialty="cardiology", split="train"),
        o1_row(2, subject_name=None, split="test"),
        o1_row(3, specialty=5, split="fold 3"),
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    cases = load("a.jsonl").cases
    assert [case.split for case in cases] == ["train", "held_out", None]
    assert [dict(case.metadata) for case in cases] == [{"specialty": "cardiology"}, {}, {}]


def test_the_account_is_checked():
    with pytest.raises(AssertionError, match="3 rows in, 0 accounted for"):
        LoadedCases((), (), (), (), 3, (), ())


ROW = st.one_of(
    st.builds(o1_row, st.integers(0, 6)),
    st.builds(
        lambda number, column, value: o1_row(number, **{column: value}),
        st.integers(0, 6),
        st.sampled_from(["Question", "Complex_CoT", "Response", "other"]),
        st.one_of(st.none(), st.text(max_size=8), st.integers(), st.lists(st.text(), max_size=2)),
    ),
    st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
    st.just({}),
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.lists(st.lists(ROW, min_size=1, max_size=8), min_size=1, max_size=3),
    deduplicate=st.sampled_from(["none", "exact", "near"]),
    limit=st.one_of(st.none(), st.integers(1, 5)),
)
def test_rows_in_are_kept_rejected_or_duplicates(tmp_path_factory, files, deduplicate, limit):
    folder = tmp_path_factory.mktemp("cases")
    sources = []
    for number, rows in enumerate(files):
        # One good row, so that the columns can be recognised.
        lines = [o1_row(100 + number), *rows]
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        sources.append({"source": "file", "path": path.name, "limit": limit})
    config = DataConfig.model_validate({"sources": sources, "deduplicate": deduplicate})
    loaded = load_cases(config, base_folder=folder)
    rows_in = sum(min(len(rows) + 1, limit or 99) for rows in files)
    assert loaded.rows_in == rows_in
    assert rows_in == len(loaded.cases) + len(loaded.rejections) + len(loaded.duplicates)
    for source in loaded.sources:
        assert source.rows_in == source.kept + source.rejected + source.duplicates
    ids = {case.id for case in loaded.cases}
    assert len(ids) == len(loaded.cases)
    assert all(duplicate.kept_id in ids for duplicate in loaded.duplicates)
    assert all(duplicate.case_id not in ids for duplicate in loaded.duplicates)
    assert all(rejection.where and rejection.fix for rejection in loaded.rejections)


@pytest.mark.parametrize("kind", ["file", "huggingface"])
def test_a_home_folder_of_nobody(load, kind):
    with pytest.raises(DataError, match="home folder"):
        load({"source": kind, "path": "~nobody-of-that-name/a.jsonl"})
