"""The questions of a benchmark, from files in the form they are published in, or from the hub."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.cases.case import Case
from medimind.cases.sources.files import SUFFIXES, read_rows, sha256_of
from medimind.cases.sources.huggingface import open_hub
from medimind.cases.sources.row import BadRow
from medimind.errors import EvaluationError
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.benchmark import (
    Benchmark,
    BenchmarkCard,
    BenchmarkRow,
    BenchmarkRowError,
)
from medimind.evaluation.benchmarks.own_file import read_own_file


@dataclass(frozen=True, slots=True)
class BenchmarkItems:
    """The questions of a benchmark that are asked.

    Attributes:
        card: The benchmark.
        benchmark: Its wording for completions; ``None`` for a file of the user's.
        cases: The questions asked, in the order of the source.
        num_available: Questions of the source.
        origin: The files, or the data set on the hub.
        revision: Commit on the hub; ``None`` for files.
        sha256: Digest (hex) over the source's content.
    """

    card: BenchmarkCard
    benchmark: Benchmark | None
    cases: tuple[Case, ...]
    num_available: int
    origin: str
    revision: str | None
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The card, and where the questions came from, as JSON values."""
        return {
            **dataclasses.asdict(self.card),
            "origin": self.origin,
            "revision": self.revision,
            "sha256": self.sha256,
            "num_available": self.num_available,
            "num_asked": len(self.cases),
        }


def read_benchmark(
    name: str, *, path: Path | None = None, limit: int | None = None
) -> BenchmarkItems:
    """The questions of a benchmark.

    With a limit, the same questions are taken everywhere (those whose ids hash lowest), spread
    over the whole source; a larger limit holds those of a smaller one.

    Args:
        name: A benchmark, ``name@commit`` to pin its revision on the hub, or a file of the user's.
        path: File, or folder of files as published; ``None`` fetches from the hub.
        limit: Ask at most this many.

    Raises:
        DataError: A file or the hub cannot be read.
        EvaluationError: There is no such benchmark or file, or rows are not as published.
        MissingExtraError: ``datasets`` is not installed.
    """
    name, _, revision = name.partition("@")
    if name not in BENCHMARKS:
        items = _own(name)
    else:
        benchmark = BENCHMARKS[name]
        items = (
            _from_hub(benchmark, revision=revision or None)
            if path is None
            else _from_files(benchmark, path)
        )
    return dataclasses.replace(items, cases=_taken(items.cases, limit))


def _own(name: str) -> BenchmarkItems:
    path = Path(name).expanduser()
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise EvaluationError(
            f"there is no benchmark and no file '{name}'",
            fix=f"Name one of {', '.join(BENCHMARKS)}, or a file of questions",
        )
    card, cases, content = read_own_file(path)
    if card.name in BENCHMARKS:  # medqa.jsonl is not MedQA
        card = dataclasses.replace(card, name=path.name)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return BenchmarkItems(card, None, tuple(cases), len(cases), str(path), None, digest)


def _from_files(benchmark: Benchmark, path: Path) -> BenchmarkItems:
    files = _find(benchmark.card, path)
    rows = [row for file in files for row in _rows(file)]
    cases = _cases(benchmark, rows, origin=str(path))
    digest = hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    shown = ", ".join(map(str, files))
    return BenchmarkItems(benchmark.card, benchmark, cases, len(cases), shown, None, digest)


def _find(card: BenchmarkCard, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found: list[Path] = []
    for pattern in card.files:
        found += sorted(one for one in path.rglob(pattern) if one.is_file())
        if found and not card.needs_all_files:
            break
    if found:
        return list(dict.fromkeys(found))
    raise EvaluationError(
        f"the folder holds no file of {card.title}",
        where=str(path),
        fix=f"It is published at {card.source}; files are looked for by the names "
        + ", ".join(card.files),
    )


def _rows(file: Path) -> Iterator[BenchmarkRow]:
    for row in read_rows(file):
        where = f"{file}:{row.line}"
        if isinstance(row, BadRow):
            raise EvaluationError(row.reason, where=where, fix=row.fix)
        yield BenchmarkRow(where, file.stem, row.fields)


def _from_hub(benchmark: Benchmark, *, revision: str | None) -> BenchmarkItems:
    card = benchmark.card
    if card.hub is None:
        raise EvaluationError(
            f"{card.title} is not on the hub in a form that can be read",
            fix=f"Download it from {card.source} and give --benchmark-path FOLDER",
        )
    commit = resolve_commit(card.hub, revision)
    data = open_hub(
        card.hub,
        name=card.hub_config,
        split=card.hub_split,
        revision=commit,
        limit=None,
        base_folder=Path.cwd(),
    )
    rows = []
    for row in data.read_rows():
        where = f"{data.name}:{row.line}"
        if isinstance(row, BadRow):
            raise EvaluationError(row.reason, where=where, fix=row.fix)
        rows.append(BenchmarkRow(where, card.hub_config or "", row.fields))
    cases = _cases(benchmark, rows, origin=data.name)
    return BenchmarkItems(
        card, benchmark, cases, len(cases), data.name, commit, digest_of_cases(cases)
    )


def resolve_commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision (or the newest state) of a data set is; ``None`` for a folder.

    Raises:
        EvaluationError: The hub cannot be asked, or has no such data set or revision.
    """
    if Path(name).is_dir():
        return None
    if revision is not None and len(revision) == 40:
        return revision
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
    except Exception as error:  # the client raises whatever its transport raises
        raise EvaluationError(
            f"the newest commit of the data set cannot be found ({type(error).__name__})",
            where=name,
            fix="Check the connection; pin it as NAME@<40 hex digits>, which works from the cache; "
            "or give --benchmark-path FOLDER",
        ) from error


def digest_of_cases(cases: Sequence[Case]) -> str:
    """SHA-256 (hex) over what is asked and what is right."""
    hasher = hashlib.sha256()
    for case in cases:
        hasher.update(repr((case.id, case.question, case.options, case.answer)).encode())
    return hasher.hexdigest()


def _cases(benchmark: Benchmark, rows: Sequence[BenchmarkRow], *, origin: str) -> tuple[Case, ...]:
    title = benchmark.card.title
    if not rows:
        raise EvaluationError("there are no rows", where=origin, fix="Give the published file")
    try:
        cases = benchmark.cases(rows)
    except BenchmarkRowError as error:
        raise EvaluationError(
            f"the row is not as {title} publishes it: {error.reason}",
            where=error.where,
            fix=error.fix,
        ) from None
    if not cases:
        raise EvaluationError(f"no row belongs to {title}", where=origin)
    return tuple(_with_own_ids(cases))


def _with_own_ids(cases: Sequence[Case]) -> Iterator[Case]:
    """Rows that are there several times are asked several times, each under an id of its own."""
    seen: Counter[str] = Counter()
    for case in cases:
        seen[case.id] += 1
        times = seen[case.id]
        yield case if times == 1 else dataclasses.replace(case, id=f"{case.id}#{times}")


def _taken(cases: Sequence[Case], limit: int | None) -> tuple[Case, ...]:
    if limit is None or limit >= len(cases):
        return tuple(cases)
    lowest = sorted(cases, key=lambda case: hashlib.sha256(case.id.encode()).digest())[:limit]
    wanted = {case.id for case in lowest}
    return tuple(case for case in cases if case.id in wanted)
