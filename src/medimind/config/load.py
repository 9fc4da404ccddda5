"""A recipe file, with overrides from the command line, as a validated ``Recipe``."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medimind.config.lines import KeyPath, LinedYaml, read_yaml
from medimind.config.recipe import Recipe
from medimind.errors import ConfigError

_ABSENT = object()


def load_recipe(path: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a file and overrides such as ``lora.rank=32`` describe.

    Raises:
        ConfigError: Lists every error of the file at once, each with its line.
    """
    lined = read_yaml(path)
    origins: dict[KeyPath, str] = {}
    for override in overrides:
        apply_override(lined.data, override, origins)
    return validate_recipe(lined, path=path, origins=origins)


def validate_recipe(
    lined: LinedYaml, *, path: Path, origins: dict[KeyPath, str] | None = None
) -> Recipe:
    """The recipe that the YAML describes; ``origins`` names the override a value came from.

    Raises:
        ConfigError: Lists every error at once.
    """
    problems = [(f"{path}:{line}", message, line) for line, message in lined.problems]
    recipe = None
    try:
        recipe = Recipe.model_validate(lined.data)
    except ValidationError as error:
        for details in error.errors():
            if details["type"] == "too_short" and details["input"]:
                continue  # its items are wrong, and each has an error of its own
            keys = _keys_in_file(details["loc"], lined.data)
            origin = _origin(keys, origins or {})
            line = lined.line_of(keys)
            where = f"override '{origin}'" if origin else f"{path}:{line}"
            problems.append((where, _explain(details, keys), 0 if origin else line))
    if recipe is not None and not problems:
        return recipe
    problems.sort(key=lambda problem: problem[2])
    count = "one error" if len(problems) == 1 else f"{len(problems)} errors"
    listing = "".join(f"\n  {where}: {message}" for where, message, _ in problems)
    raise ConfigError(f"the recipe {path.name} has {count}:{listing}")


def apply_override(
    data: dict[str, Any], override: str, origins: dict[KeyPath, str] | None = None
) -> None:
    """Set ``a.b.0.c=value`` in nested mappings and lists; the value is read as YAML.

    Raises:
        ConfigError: The override has no ``=``, no value that YAML reads, or leads nowhere.
    """
    dotted, separator, text = override.partition("=")
    parts = dotted.strip().split(".")
    where = f"override '{override}'"
    if not separator or not all(parts):
        raise ConfigError(
            "this is neither an option nor an override",
            where=where,
            fix="Write key=value with the recipe's keys, such as lora.rank=32",
        )
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(
            "the value is not valid YAML", where=where, fix="Quote it for the shell"
        ) from None
    keys: list[str | int] = []
    target: Any = data
    for position, part in enumerate(parts):
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                raise ConfigError(
                    f"'{'.'.join(parts[:position])}' is a list of {len(target)}",
                    where=where,
                    fix=f"Use a number from 0 to {len(target) - 1}",
                )
            key: Any = int(part)
        elif isinstance(target, dict):
            key = part
        else:
            plain = ".".join(parts[:position])
            raise ConfigError(
                f"'{plain}' holds a plain value, so it has no '{part}'",
                where=where,
                fix=f"Set it as a whole: {plain}=VALUE",
            )
        keys.append(key)
        if position == len(parts) - 1:
            target[key] = value
            break
        if target[key] is None if isinstance(target, list) else target.get(key) is None:
            target[key] = {}
        target = target[key]
    if origins is not None:
        origins[tuple(keys)] = override


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML that loads to the same recipe."""
    data = recipe.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _keys_in_file(location: tuple[str | int, ...], data: Any) -> KeyPath:
    """The part of pydantic's location that names keys, without its tags of union members."""
    keys: list[str | int] = []
    for part in location:
        child = _child(data, part)
        if child is _ABSENT and isinstance(part, str) and re.search(r"[\[\](),-]", part):
            continue
        data = child
        keys.append(part)
    return tuple(keys)


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(part, _ABSENT)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return _ABSENT


def _origin(keys: KeyPath, origins: dict[KeyPath, str]) -> str | None:
    for length in range(len(keys), 0, -1):
        if keys[:length] in origins:
            return origins[keys[:length]]
    return next((text for path, text in origins.items() if path[: len(keys)] == keys), None)


def _explain(details: ErrorDetails, keys: KeyPath) -> str:
    name = ".".join(map(str, keys)) or "the recipe"
    kind = details["type"]
    if kind == "extra_forbidden":
        return f"unknown key '{name}'; {_hint(keys)}"
    if kind == "missing":
        return f"'{name}' is missing"
    message = details["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = details["input"]
    if kind == "literal_error" and isinstance(given, str):
        allowed = re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", ""))
        close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
        message += f" (got '{_short(given)}'{f'; did you mean {close[0]!r}?' if close else ''})"
    elif kind != "value_error" and not isinstance(given, dict):
        message += f" (got {_short(repr(given))})"
    return f"'{name}': {message}"


def _hint(keys: KeyPath) -> str:
    """What may have been meant by an unknown key: its like here, or the same in another section."""
    known = _known_keys(keys[:-1])
    elsewhere = [key for key in _dotted_keys(Recipe) if key.rpartition(".")[2] == keys[-1]]
    close = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.8 if elsewhere else 0.5)
    if close or elsewhere:
        return f"did you mean {' or '.join(map(repr, close or elsewhere[:3]))}?"
    return f"known keys: {', '.join(known)}"


def _dotted_keys(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """All keys of a section and of those in it, such as ``train.batch_size``; no list's items."""
    for name, field in section.model_fields.items():
        key = f"{above}{field.alias or name}"
        yield key
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _dotted_keys(inner, f"{key}.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(path: KeyPath) -> list[str]:
    section: type[BaseModel] | None = Recipe
    for part in path:
        if section is None or isinstance(part, int):
            continue
        field = next(
            (f for n, f in section.model_fields.items() if part in (n, f.alias)),
            None,
        )
        section = _section_in(field.annotation) if field else None
    if section is None:
        return []
    return [field.alias or name for name, field in section.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    found = (_section_in(argument) for argument in typing.get_args(annotation))
    return next((section for section in found if section is not None), None)
