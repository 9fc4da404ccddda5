"""Sources as the files and data sets they consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.cases.sources.files import find_files, read_rows, resolve_path, sha256_of
from medimind.cases.sources.huggingface import open_hub
from medimind.cases.sources.row import Rows
from medimind.config.data import SourceConfig

STARTER_FILE = Path(__file__).parent / "starter" / "cases.jsonl"


@dataclass(frozen=True, slots=True)
class Part:
    """One file, or one split of a data set on the hub.

    Attributes:
        source: Name of the source it belongs to.
        label: What ids and places begin with.
        where: The file or data set, for complaints about all of it.
        read: Opens it anew and gives its rows.
        sha256: Of its content.
        own_ids: Whether the rows' own field ``id`` names the cases.
    """

    source: str
    label: str
    where: str
    read: Callable[[], Rows]
    sha256: str
    own_ids: bool = False


def open_parts(
    sources: Sequence[SourceConfig], *, base_folder: Path, warnings: list[str]
) -> list[tuple[SourceConfig, list[Part]]]:
    """The files of each source, or its data set on the hub.

    Args:
        sources: The recipe's sources.
        base_folder: Where relative paths start.
        warnings: Gets what the user should know.

    Raises:
        DataError: One cannot be found or read.
        MissingExtraError: One needs a package that is not installed.
    """
    names: dict[str, int] = {}
    parts: list[tuple[SourceConfig, list[Part]]] = []
    for source in sources:
        name = _name_of(source)
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name}@{names[name]}"
        if source.source == "huggingface":
            parts.append((source, [_hub_part(source, name, base_folder, warnings)]))
        else:
            parts.append((source, _file_parts(source, name, base_folder)))
    return parts


def _name_of(source: SourceConfig) -> str:
    if source.source == "starter":
        return "starter"
    path = (source.path or "").rstrip("/\\")
    return path if source.source == "huggingface" else Path(path).name or path


def _file_parts(source: SourceConfig, name: str, base_folder: Path) -> list[Part]:
    starter = source.source == "starter"
    path = STARTER_FILE if starter else resolve_path(source.path or "", base_folder=base_folder)
    shown = name if starter else source.path or ""
    return [
        Part(
            source=name,
            label=name if file == path else f"{name}/{file.relative_to(path).as_posix()}",
            where=shown if file == path else (Path(shown) / file.relative_to(path)).as_posix(),
            read=lambda file=file: read_rows(file),
            sha256=sha256_of(file),
            own_ids=starter,
        )
        for file in find_files(path)
    ]


def _hub_part(source: SourceConfig, name: str, base_folder: Path, warnings: list[str]) -> Part:
    data = open_hub(
        source.path or "",
        name=source.name,
        split=source.split,
        revision=source.revision,
        limit=source.limit,
        base_folder=base_folder,
    )
    if source.revision is None and not data.is_local:
        sliced = "[" in source.split or source.limit is not None
        which = ", and the rows of a slice differ between revisions" if sliced else ""
        warnings.append(
            f"{data.name}: no revision is pinned, so the next run may see other rows{which}. "
            "Set revision to a commit of the data set."
        )
    return Part(
        source=name,
        label=name,
        where=data.name,
        read=data.read_rows,
        sha256=data.sha256(),
    )
