"""Local files and folders of them."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from medimind.cases.outcome import RowProblem
from medimind.cases.sources.csv_file import read_csv
from medimind.cases.sources.encoding import open_text, unreadable
from medimind.cases.sources.json_file import read_json
from medimind.cases.sources.json_values import decode
from medimind.cases.sources.jsonl import read_jsonl
from medimind.cases.sources.parquet import read_parquet
from medimind.cases.sources.row import MAX_ROW_CHARACTERS, Rows
from medimind.errors import DataError

_LINES = (".jsonl", ".ndjson")
_CORRECT = "Correct the path; a relative one starts at the folder that medimind runs in"
SUFFIXES = (".json", *_LINES, ".csv", ".tsv", ".parquet")


def resolve_path(path: str | Path, *, base_folder: Path) -> Path:
    """The path as the recipe means it: ``~`` is the home folder, others start in ``base_folder``.

    Raises:
        DataError: It names the home folder of a user who does not exist.
    """
    try:
        return base_folder / Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            "the home folder cannot be found", where=str(path), fix="Write the path in full"
        ) from error


def find_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or all readable files of a folder in the order of their names.

    Raises:
        DataError: Nothing is there, or nothing that can be read.
    """
    try:
        if path.is_dir():
            return _files_of(path)
        if path.is_file():
            _check_suffix(path)
            return (path,)
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(
            f"the path cannot be used ({error})", where=repr(str(path)), fix="Correct the path"
        ) from error
    if exists:
        raise DataError("this is no file and no folder", where=str(path), fix="Give a file")
    raise DataError("there is no such file or folder", where=str(path), fix=_path_fix(path))


def read_rows(path: Path) -> Rows:
    """The rows of one file.

    JSON and JSON Lines are told apart by what the file holds rather than by its name.

    Raises:
        DataError: The file cannot be read; damage within single rows gives ``BadRow``s instead.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_csv(path)
    if suffix == ".parquet":
        return read_parquet(path)
    return read_jsonl(path) if _holds_lines(path) else read_json(path)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def _files_of(folder: Path) -> tuple[Path, ...]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise DataError(
            "the folder holds no data files",
            where=str(folder),
            fix=f"Put files of these kinds there: {', '.join(SUFFIXES)}",
        )
    return tuple(found)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        kind = f"'{path.suffix}'" if path.suffix else "without a suffix"
        raise DataError(
            f"files of the kind {kind} cannot be read",
            where=str(path),
            fix=f"Convert it to one of these kinds: {', '.join(SUFFIXES)}",
        )


def _path_fix(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"The folder '{path.parent}' does not exist either. {_CORRECT}"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean '{close[0]}'?" if close else _CORRECT


def _holds_lines(path: Path) -> bool:
    with open_text(path) as file:
        line = ""
        while not line.strip():
            line = file.readline(MAX_ROW_CHARACTERS)
            if not line:
                raise DataError(
                    "the file holds nothing but white space",
                    where=str(path),
                    fix="Give a file with rows",
                )
        if line.lstrip().startswith("["):
            return False
        if path.suffix.lower() in _LINES:
            return True
        try:
            decode(line)
        except RowProblem:
            return False
        return any(more.strip() for more in iter(lambda: file.readline(MAX_ROW_CHARACTERS), ""))
