"""YAML read with the line of every key, so that an error can point at it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medimind.errors import ConfigError

KeyPath = tuple[str | int, ...]
MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 40
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True, slots=True)
class LinedYaml:
    """A YAML mapping and where its parts stand.

    Attributes:
        data: The mapping as plain Python values.
        lines: Path of keys and list indices -> 1-based line.
        problems: Duplicate keys and values of no recipe's kind, as (line, message).
    """

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    problems: tuple[tuple[int, str], ...]

    def line_of(self, path: KeyPath) -> int:
        """The line of the path, or of its nearest part that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(path: Path) -> LinedYaml:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: The file cannot be read, is no YAML, or holds no mapping.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = _Values()
        data = values.convert(root, (), 0) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "not valid YAML"
        raise ConfigError(
            f"this is not valid YAML: {problem}",
            where=f"{path}:{line}",
            fix="Check indentation, quotes and colons around that line",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"this is not valid YAML: {' '.join(str(error).split())}",
            where=str(path),
            fix="Save the recipe as plain UTF-8 text",
        ) from None
    except RecursionError:
        raise ConfigError(
            "the file is nested too deeply", where=str(path), fix="A recipe needs four levels"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(
            "the file holds no mapping of keys to values" if text.strip() else "the file is empty",
            where=str(path),
            fix="Start from 'medimind recipe show starter'",
        )
    return LinedYaml(data=data, lines=values.lines, problems=tuple(values.problems))


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError("this is a folder", where=str(path), fix="Name the YAML file in it")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"the file is larger than {MAX_BYTES >> 20} MiB",
                where=str(path),
                fix="Recipes are small YAML files; is this a data file?",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the recipe cannot be read: {error.strerror}",
            where=str(path),
            fix="'medimind recipe list' names the recipes that are here",
        ) from None
    except ValueError:
        raise ConfigError("this is not a file's name", where=repr(str(path))) from None
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            "the file is not UTF-8 text", where=f"{path}:{line}", fix="Save the recipe as UTF-8"
        ) from None


class _Values:
    """Turns YAML nodes into values and notes the line of each."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._constructor = yaml.SafeLoader("")
        self._nodes = 0

    def convert(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise RecursionError
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(n, (*path, i), depth + 1) for i, n in enumerate(node.value)]
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self.problems.append((line, f"{node.value[:40]!r} is no value for a recipe"))
            return None
        if isinstance(value, datetime.date | bytes):
            return node.value
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append((line, "a key must be a plain word"))
                continue
            if key in mapping:
                first = self.lines[(*path, key)]
                self.problems.append((line, f"'{key}' stands here again (first in line {first})"))
                continue
            self.lines[(*path, key)] = line
            mapping[key] = self.convert(value_node, (*path, key), depth + 1)
        return mapping
