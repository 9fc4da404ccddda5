from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.cases.sources import row as row_limits
from medimind.cases.sources.csv_file import read_csv
from medimind.cases.sources.files import find_files, read_rows, sha256_of
from medimind.cases.sources.json_file import read_json
from medimind.cases.sources.jsonl import read_jsonl
from medimind.cases.sources.row import BadRow, Row
from medimind.errors import DataError, MissingExtraError


def lines_of(rows) -> list[int]:
    return [row.line for row in rows]


def test_jsonl_gives_each_row_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": "b\u2028c"}\r\n{"a": 3}', "utf-8")
    assert list(read_jsonl(path)) == [Row(1, {"a": 1}), Row(4, {"a": "b\u2028c"}), Row(5, {"a": 3})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1', "not valid JSON"),
        ('{"a": 1} {"b": 2}', "more text follows"),
        ("[1, 2]", "a list where an object"),
        ("17", "a number where an object"),
        ("null", "empty (null)"),
        ("true", "true or false"),
        ('"text"', "text where an object"),
        ('{"a": 1, "a": 2}', "there twice"),
        ('{"a": "x\0y"}', "NUL"),
        ("[" * 100_000, "nests too deep"),
    ],
)
def test_jsonl_rejects_a_broken_row_and_goes_on(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 0}\n' + line + '\n{"a": 9}\n', "utf-8")
    rows = list(read_jsonl(path))
    assert [rows[0], rows[2]] == [Row(1, {"a": 0}), Row(3, {"a": 9})]
    assert isinstance(rows[1], BadRow)
    assert rows[1].line == 2
    assert reason in rows[1].reason
    assert rows[1].fix


def test_a_number_of_thousands_of_digits_is_no_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": ' + "9" * 10_000 + "}\n")
    (row,) = read_jsonl(path)
    assert isinstance(row, Row)
    assert row.fields["a"] == float("inf")


def test_too_long_lines_are_rejected_without_being_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("medimind.cases.sources.encoding.MAX_ROW_CHARACTERS", 50)
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 500 + '"}\n{"a": 3}\n')
    first, long, last = read_jsonl(path)
    assert isinstance(long, BadRow)
    assert "longer than" in long.reason
    assert (first.line, long.line, last.line) == (1, 2, 3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_encodings_with_a_byte_order_mark_are_read(tmp_path, encoding, suffix):
    text = {"jsonl": '{"a": "é漢"}\n', "json": '[{"a": "é漢"}]', "csv": "a\né漢\n"}[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_text(text, encoding)
    (row,) = read_rows(path)
    assert row.fields == {"a": "é漢"}


def test_latin1_is_refused_with_line_and_byte(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": 1}\n{"a": 2}\n{"a": "Behçet"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"not valid UTF-8: byte 0xe7 in line 3.*iconv"):
        list(read_jsonl(path))


def test_the_bad_byte_is_found_far_into_a_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n" + "é\n".encode() * 50_000 + b"\xff\n")
    with pytest.raises(DataError, match="byte 0xff in line 50002"):
        list(read_csv(path))


def test_half_a_utf16_character_at_the_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": 1}\n'.encode("utf-16") + b"x")
    with pytest.raises(DataError, match="not valid UTF-16"):
        list(read_jsonl(path))


def test_utf16_without_a_byte_order_mark_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": 1}\n'.encode("utf-16-le"))
    with pytest.raises(DataError, match=r"NUL bytes.*Save it as UTF-8"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.touch()
    with pytest.raises(DataError, match=f"a.{suffix}"):
        list(read_rows(path))


@pytest.mark.parametrize("text", ["  \n\n ", "\n"])
def test_white_space_alone_is_refused(tmp_path, text):
    for suffix in ("json", "csv"):
        path = tmp_path / f"a.{suffix}"
        path.write_text(text)
        with pytest.raises(DataError):
            list(read_rows(path))


class TestJson:
    def read(self, tmp_path, text):
        path = tmp_path / "a.json"
        path.write_text(text, "utf-8")
        return list(read_json(path))

    def test_an_array_gives_lines(self, tmp_path):
        rows = self.read(tmp_path, '[\n {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]\n')
        assert rows == [Row(2, {"a": 1}), Row(5, {"a": 2}), Row(5, {"a": 3})]

    def test_an_empty_array_has_no_rows(self, tmp_path):
        assert self.read(tmp_path, "[ ]") == []

    def test_an_object_of_objects_gives_its_keys_as_ids(self, tmp_path):
        rows = self.read(tmp_path, '{"x": {"a": 1},\n "y": {"a": 2, "id": "own"}}')
        assert rows == [Row(1, {"id": "x", "a": 1}), Row(2, {"id": "own", "a": 2})]

    def test_an_object_around_an_array_gives_its_elements(self, tmp_path):
        rows = self.read(tmp_path, '{"data": [{"a": 1},\n{"a": 2}], "version": 2}')
        assert rows == [Row(1, {"a": 1}), Row(2, {"a": 2})]

    def test_one_object_is_one_row(self, tmp_path):
        rows = self.read(tmp_path, '{"a": "x",\n "b": [1, 2], "c": {"d": 1}}')
        assert rows == [Row(1, {"a": "x", "b": [1, 2], "c": {"d": 1}})]

    def test_elements_that_are_no_objects_are_rejected_one_by_one(self, tmp_path):
        rows = self.read(tmp_path, '[{"a": 1}, 12345, "x", {"a": 1, "a": 2}, {"a": 4}]')
        assert [type(row) for row in rows] == [Row, BadRow, BadRow, BadRow, Row]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('[{"a": 1},\n{"a": "cut', 2),
            ('[{"a": 1}\n,', 2),
            ('[{"a": 1}\n{"a": 2}]', 2),
            ('[\n{"a": bad}]', 2),
            ('[{"a": 1}]\n]', 2),
            ('{"a": {"b": 1},\n 3: 4}', 2),
            ('{"a" {"b": 1}}', 1),
            ("\nhello", 2),
            ('[{"a": 1}, {"a": ' + "[" * 100_000, 1),
            ('{"a": [\n', 1),
            ('{"data": [{"a": 1},\n', 2),
            ('{"a": {"b": 1},\n', 2),
        ],
    )
    def test_damage_stops_with_its_line(self, tmp_path, text, line):
        with pytest.raises(DataError, match=rf"a\.json:{line}: the file is not valid JSON"):
            self.read(tmp_path, text)

    def test_damage_in_a_big_file_is_found_where_it_is(self, tmp_path):
        good = ",\n".join(json.dumps({"a": "x" * 900}) for _ in range(500))
        with pytest.raises(DataError, match=r"a\.json:501: "):
            self.read(tmp_path, f'[{good},\n{{"a": oops}},\n{good}]')

    def test_a_row_may_be_larger_than_what_is_read_at_once(self, tmp_path):
        rows = self.read(tmp_path, json.dumps([{"a": "x" * 300_000}, {"a": "y"}]))
        assert [len(row.fields["a"]) for row in rows] == [300_000, 1]

    def test_too_long_rows_are_rejected(self, tmp_path, monkeypatch):
        monkeypatch.setattr("medimind.cases.sources.json_file.MAX_ROW_CHARACTERS", 1000)
        rows = self.read(tmp_path, json.dumps([{"a": "x" * 3000}, {"a": "y"}]))
        assert [type(row) for row in rows] == [BadRow, Row]
        keyed = self.read(tmp_path, json.dumps({"k": {"a": "x" * 3000}, "l": {"a": "y"}}))
        assert [type(row) for row in keyed] == [BadRow, Row]

    def test_rows_beyond_all_bounds_stop(self, tmp_path, monkeypatch):
        monkeypatch.setattr("medimind.cases.sources.json_file.MAX_ROW_CHARACTERS", 1000)
        with pytest.raises(DataError, match="longer than"):
            self.read(tmp_path, json.dumps([{"a": "x" * 300_000}]))

    @settings(deadline=None, max_examples=60)
    @given(
        rows=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=60)), max_size=12),
        chunk=st.integers(1, 40),
        indent=st.sampled_from([None, 1]),
        is_ascii=st.booleans(),
    )
    def test_any_chunking_gives_the_rows(self, tmp_path_factory, rows, chunk, indent, is_ascii):
        path = tmp_path_factory.mktemp("json") / "a.json"
        text = json.dumps(rows, indent=indent, ensure_ascii=is_ascii)
        path.write_text(text, "utf-8", errors="surrogatepass" if is_ascii else "replace")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("medimind.cases.sources.json_file._CHUNK", chunk)
            read = list(read_json(path))
        assert [row.fields for row in read] == json.loads(path.read_text("utf-8"))


class TestSniffing:
    @pytest.mark.parametrize("suffix", ["json", "jsonl"])
    def test_json_and_json_lines_are_told_apart_by_content(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        for text in ('\n[{"a": 1},\n{"a": 2}]', '{"a": 1}\n{"a": 2}\n', ' [{"a": 1}, {"a": 2}]'):
            path.write_text(text)
            assert [row.fields for row in read_rows(path)] == [{"a": 1}, {"a": 2}]

    def test_one_object_on_one_line_of_a_json_file_is_no_json_line(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text('{"x": {"a": 1}, "y": {"a": 2}}\n')
        assert [row.fields["id"] for row in read_rows(path)] == ["x", "y"]


class TestCsv:
    def read(self, tmp_path, text, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return list(read_rows(path))

    def test_line_breaks_in_cells_keep_line_numbers_right(self, tmp_path):
        rows = self.read(tmp_path, 'q,a\r\n"one\r\ntwo\nthree",x\r\n\r\n"y ""z""",w\r\n')
        assert rows == [
            Row(2, {"q": "one\r\ntwo\nthree", "a": "x"}),
            Row(6, {"q": 'y "z"', "a": "w"}),
        ]

    def test_ragged_rows_are_rejected(self, tmp_path):
        rows = self.read(tmp_path, "q,a\nx\n1,2\n1,2,3\n")
        assert [type(row) for row in rows] == [BadRow, Row, BadRow]
        assert "3 cells where the header has 2" in rows[2].reason
        assert rows[2].line == 4

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_the_delimiter_is_found(self, tmp_path, delimiter):
        rows = self.read(tmp_path, f'question{delimiter}answer\n"a, b; c"{delimiter}d\n')
        assert rows == [Row(2, {"question": "a, b; c", "answer": "d"})]

    def test_a_doubled_header_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.csv:1: the header names a column twice: 'q'"):
            self.read(tmp_path, "q,a,q\n1,2,3\n")

    def test_an_unnamed_index_column_is_fine(self, tmp_path):
        assert self.read(tmp_path, ",q\n0,x\n") == [Row(2, {"column 1": "0", "q": "x"})]

    @pytest.mark.parametrize("text", ['q,a\nx,y\n"never closed,z\n', 'q,a\nx,y\n"a"b,c\n'])
    def test_broken_quoting_stops_with_its_line(self, tmp_path, text):
        with pytest.raises(DataError, match=r"a\.csv:3: .*not valid CSV.*double the quotes"):
            self.read(tmp_path, text)

    def test_a_file_without_header_in_the_form_of_mmlu(self, tmp_path):
        rows = self.read(tmp_path, '"What, then?",w,x,y,z,B\nWhy?,1,2,3,4,A\n')
        assert rows[0] == Row(
            1,
            {"question": "What, then?", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "B"},
        )
        assert lines_of(rows) == [1, 2]

    def test_option_letters_in_a_header_are_a_header(self, tmp_path):
        rows = self.read(tmp_path, "question,A,B,C,D,answer\nq,1,2,3,4,B\n")
        assert len(rows) == 1

    def test_a_header_with_a_quote_that_never_closes(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.csv:1: .*not valid CSV"):
            self.read(tmp_path, '"q,a\nx,y\n')

    def test_huge_cells(self, tmp_path, monkeypatch):
        rows = self.read(tmp_path, "q,a\n" + "x" * 200_000 + ",y\n")
        assert len(rows[0].fields["q"]) == 200_000
        monkeypatch.setattr("medimind.cases.sources.csv_file.MAX_ROW_CHARACTERS", 1000)
        with pytest.raises(DataError, match=r"a\.csv:2: the line is longer"):
            self.read(tmp_path, "q,a\n" + "x" * 2000 + ",y\n")
        (row,) = self.read(tmp_path, 'q,a\n"' + ("x" * 500 + "\n") * 4 + '",y\n')
        assert isinstance(row, BadRow)


class TestParquet:
    def write(self, path: Path, columns) -> Path:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
        return path

    def test_rows_come_with_their_number(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", {"q": [str(n) for n in range(300)]})
        rows = list(read_rows(path))
        assert (rows[-1], len(rows)) == (Row(300, {"q": "299"}), 300)

    def test_too_long_rows_are_rejected(self, tmp_path, monkeypatch):
        monkeypatch.setattr("medimind.cases.sources.parquet.MAX_ROW_CHARACTERS", 10)
        path = self.write(tmp_path / "a.parquet", {"q": ["short", "x" * 99]})
        assert [type(row) for row in read_rows(path)] == [Row, BadRow]

    def test_a_cut_off_file_is_refused(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", {"q": ["x"] * 50})
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match="cannot be read"):
            list(read_rows(path))

    def test_the_missing_package_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'medimind\[data\]'"):
            list(read_rows(tmp_path / "a.parquet"))


class TestFiles:
    def test_a_folder_gives_its_data_files_in_order(self, tmp_path):
        for name in ("b.jsonl", "a.csv", "sub/c.json", ".hidden.json", "readme.md", ".x/d.json"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
        names = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
        assert names == ["a.csv", "b.jsonl", "sub/c.json"]

    def test_what_cannot_be_found_is_explained(self, tmp_path):
        (tmp_path / "cases.jsonl").write_text("{}")
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.xlsx").write_text("x")
        for path, message in [
            ("case.jsonl", "no such file.*Did you mean 'cases.jsonl'"),
            ("zzzzz", "no such file.*Correct the path"),
            ("nowhere/cases.jsonl", "folder '.*nowhere' does not exist"),
            ("empty", "holds no data files.*.parquet"),
            ("a.xlsx", "'.xlsx' cannot be read.*.csv"),
            ("nul\0.json", "cannot be used|no such file"),
            ("x" * 5000, "cannot be used|no such file"),
        ]:
            with pytest.raises(DataError, match=message):
                find_files(tmp_path / path)

    def test_what_is_neither_file_nor_folder(self, tmp_path):
        fifo = tmp_path / "pipe.json"
        __import__("os").mkfifo(fifo)
        with pytest.raises(DataError, match="no file and no folder"):
            find_files(fifo)

    def test_a_file_that_vanishes_is_a_data_error(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            sha256_of(tmp_path / "gone.json")
        with pytest.raises(DataError, match="cannot be read"):
            list(read_jsonl(tmp_path / "gone.jsonl"))


def test_the_limit_is_far_beyond_any_case():
    assert row_limits.MAX_ROW_CHARACTERS >= 1_000_000
