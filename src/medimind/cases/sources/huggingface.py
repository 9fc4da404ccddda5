"""Data sets of the Hugging Face hub, or folders laid out like one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medimind.cases.sources.files import resolve_path
from medimind.cases.sources.row import MAX_ROW_CHARACTERS, TOO_LONG, TOO_LONG_FIX, BadRow, Row, Rows
from medimind.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class HubData:
    """A loaded data set.

    Attributes:
        name: How it was asked for, such as ``owner/set:en:train[:500]``.
        dataset: The rows.
        is_local: Whether it is a folder of this machine.
    """

    name: str
    dataset: Dataset
    is_local: bool

    def read_rows(self) -> Rows:
        """Each row; ``line`` is its number in the split or slice, counted from 1.

        Raises:
            DataError: A row cannot be decoded.
        """
        number = 0
        try:
            for number, fields in enumerate(iter(self.dataset), start=1):
                yield _row(number, dict(fields))
        except Exception as error:  # decoders of columns raise whatever their packages raise
            raise _failed(self.name, error, after=number) from error

    def sha256(self) -> str:
        """SHA-256 over the content of all rows, in hexadecimal."""
        digest = hashlib.sha256()
        for row in self.read_rows():
            fields = row.fields if isinstance(row, Row) else row.reason
            digest.update(json.dumps(fields, sort_keys=True, default=repr).encode())
        return digest.hexdigest()


def open_hub(
    path: str,
    *,
    name: str | None,
    split: str,
    revision: str | None,
    limit: int | None,
    base_folder: Path,
) -> HubData:
    """A split of a data set, fetched where it is not in the cache of ``datasets`` yet.

    Args:
        path: Name on the hub, or a folder, relative to ``base_folder``.
        name: Its configuration, such as ``en``.
        split: Split with an optional slice, such as ``train[:500]``.
        revision: Commit, tag or branch on the hub.
        limit: Take at most this many rows.
        base_folder: Where relative paths start.

    Raises:
        DataError: It does not exist, cannot be reached or has no such split or configuration.
        MissingExtraError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", extra="data") from error

    folder = resolve_path(path, base_folder=base_folder)
    try:
        is_local = folder.is_dir()
    except (OSError, ValueError):  # no path at all, so perhaps a name
        is_local = False
    shown = ":".join(filter(None, (path, name, split)))
    try:
        dataset = datasets.load_dataset(
            str(folder.resolve()) if is_local else path,
            name,
            split=split,
            revision=None if is_local else revision,
        )
    except Exception as error:  # dataset builders raise whatever their packages raise
        raise _failed(shown, error) from error
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            "the split gives no single table", where=shown, fix="Name one split, such as train"
        )
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(range(limit))
    return HubData(shown, dataset, is_local)


def _row(number: int, fields: Mapping[str, Any]) -> Row | BadRow:
    size = sum(len(value) for value in fields.values() if isinstance(value, str | bytes))
    if size > MAX_ROW_CHARACTERS:
        return BadRow(number, TOO_LONG, TOO_LONG_FIX)
    return Row(number, fields)


def _failed(name: str, error: Exception, *, after: int | None = None) -> DataError:
    lines = str(error).strip().splitlines()
    detail = f": {lines[0][:300]}" if lines else ""
    when = f" after row {after}" if after is not None else ""
    return DataError(
        f"the data set cannot be loaded{when} ({type(error).__name__}{detail})",
        where=name,
        fix="Check path, name, split and revision, and the connection if it is not in the cache; "
        "or download it and use source: file",
    )
