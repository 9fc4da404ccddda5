"""Damaged input of every kind: an error of ours or counted rejections, never anything else."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sample_rows import o1_row

from medimind.cases.prepare import prepare_cases
from medimind.config.data import DataConfig
from medimind.errors import MediMindError

ROWS = [o1_row(number) for number in range(8)]
Mutation = Callable[[bytes, random.Random], bytes]


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows) -> bytes:
    import csv

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows) -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
}


def insert(what: bytes) -> Mutation:
    def mutate(data: bytes, draw: random.Random) -> bytes:
        at = draw.randrange(len(data))
        return data[:at] + what + data[at:]

    return mutate


def delete(size: int) -> Mutation:
    def mutate(data: bytes, draw: random.Random) -> bytes:
        at = draw.randrange(len(data) - size)
        return data[:at] + data[at + size :]

    return mutate


def flip(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(3):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


BYTES: dict[str, Mutation] = {
    "empty": lambda data, draw: b"",
    "one byte": lambda data, draw: data[:1],
    "cut in half": lambda data, draw: data[: len(data) // 2],
    "cut near the end": lambda data, draw: data[: -draw.randrange(2, 30)],
    "without its start": lambda data, draw: data[draw.randrange(1, 40) :],
    "twice": lambda data, draw: data + data,
    "white space": lambda data, draw: b" \n\t\n",
    "NUL within": insert(b"\0"),
    "many NULs": insert(b"\0" * 5000),
    "only NULs": lambda data, draw: b"\0" * 1000,
    "byte 0xff": insert(b"\xff"),
    "BOM": lambda data, draw: b"\xef\xbb\xbf" + data,
    "BOM within": insert(b"\xef\xbb\xbf"),
    "UTF-16 BOM before UTF-8": lambda data, draw: b"\xff\xfe" + data,
    "UTF-16": lambda data, draw: data.decode("latin-1").encode("utf-16"),
    "UTF-16 without BOM": lambda data, draw: data.decode("latin-1").encode("utf-16-be"),
    "UTF-16 cut": lambda data, draw: data.decode("latin-1").encode("utf-16")[:-1],
    "UTF-32": lambda data, draw: data.decode("latin-1").encode("utf-32"),
    "latin-1": insert("é".encode("latin-1")),
    "half a character": insert("漢".encode()[:2]),
    "encoded surrogate": insert(b"\xed\xa0\x80"),
    "quote": insert(b'"'),
    "backslash": insert(b"\\"),
    "brackets": insert(b"[" * 3000),
    "braces": insert(b'{"a":' * 3000),
    "line break": insert(b"\n"),
    "carriage returns": lambda data, draw: data.replace(b"\n", b"\r"),
    "delimiter": insert(b",,,"),
    "deleted byte": delete(1),
    "deleted piece": delete(40),
    "flipped bits": flip,
    "flipped bits again": flip,
    "gzip header": lambda data, draw: b"\x1f\x8b\x08\x00" + data,
    "HTML": lambda data, draw: b"<!DOCTYPE html><html><body>404</body></html>",
    "git LFS pointer": lambda data, draw: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab"
    ),
    "all 256 bytes": lambda data, draw: bytes(range(256)) * 4,
}
VALUES = {
    "null": None,
    "empty": "",
    "spaces": "  \n",
    "number": 5,
    "huge number": 10**400,
    "infinite": float("inf"),
    "NaN": float("nan"),
    "boolean": True,
    "list": ["a"],
    "object": {"a": 1},
    "NUL": "a\0b",
    "surrogate": "a\ud800b",
    "unclosed tag": "<think>never closed",
    "two tags": "<think>a</think><think>b</think>c",
    "only reasoning": "<think>a</think>",
    "huge": "word " * 1_000_000,
}


def prepare(path: Path):
    config = DataConfig.model_validate(
        {
            "sources": [{"source": "file", "path": path.name}],
            "held_out": {"rows": 2},
        }
    )
    return prepare_cases(config, base_folder=path.parent, seed=0)


def check(path: Path) -> str:
    """What became of the file: an error with place and fix, or an account of all its rows."""
    prepared = error = None
    try:
        prepared = prepare(path)
    except MediMindError as caught:
        error = caught
    if prepared is None:
        assert error is not None
        assert path.name in str(error) or "cases" in str(error)
        assert error.fix
        return "error"
    loaded = prepared.loaded
    out = len(loaded.cases) + len(loaded.rejections) + len(loaded.duplicates)
    assert loaded.rows_in == out
    for rejection in loaded.rejections:
        assert rejection.where.startswith(f"{path.name}:")
        assert rejection.line >= 1
        assert rejection.reason
        assert rejection.fix
    return "rejected" if loaded.rejections else "kept"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes(tmp_path, suffix, name):
    path = tmp_path / f"a.{suffix}"
    for seed in range(3):
        draw = random.Random(f"{suffix}:{name}:{seed}")
        path.write_bytes(BYTES[name](FORMATS[suffix](ROWS), draw))
        check(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
@pytest.mark.parametrize("name", VALUES)
def test_wrong_values(tmp_path, suffix, name):
    path = tmp_path / f"a.{suffix}"
    for column in ROWS[0]:
        rows = [dict(row) for row in ROWS]
        rows[4][column] = VALUES[name]
        try:
            data = FORMATS[suffix](rows)
        except (ValueError, UnicodeEncodeError):
            continue  # this format cannot hold such a value
        path.write_bytes(data)
        # Tags around or before reasoning in a column of its own only say what it is.
        fine = column == "Complex_CoT" and name in ("unclosed tag", "only reasoning")
        in_csv = suffix == "csv" and name not in ("null", "empty", "spaces")
        outcome = check(path)
        assert outcome == "kept" if fine else in_csv or outcome == "rejected"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("column", ROWS[0])
def test_missing_fields(tmp_path, suffix, column):
    path = tmp_path / f"a.{suffix}"
    rows = [dict(row) for row in ROWS]
    rows[4].pop(column)
    path.write_bytes(FORMATS[suffix](rows))
    assert check(path) == "rejected"
    for row in rows:
        row.pop(column, None)
    if suffix != "csv":
        path.write_bytes(FORMATS[suffix](rows))
        assert check(path) == ("kept" if column == "Complex_CoT" else "error")


def every_mutation() -> Iterator[tuple[str, str]]:
    yield from ((suffix, name) for suffix in FORMATS for name in BYTES)
    yield from ((suffix, name) for suffix in ("jsonl", "json", "csv") for name in VALUES)


def test_there_are_enough_mutations():
    assert len(set(every_mutation())) >= 80


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_undamaged_file_is_kept(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(FORMATS[suffix](ROWS))
    assert check(path) == "kept"
