"""Which schema a file follows, and which column plays which role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medimind.cases.case import Case
from medimind.cases.schemas import chat, tabular
from medimind.cases.schemas.fields import Fields
from medimind.cases.schemas.options import has_option_columns
from medimind.cases.schemas.roles import Role, assign_columns, suggest
from medimind.errors import DataError


@dataclass(frozen=True, slots=True)
class Schema:
    """How rows of one kind become cases."""

    name: str
    roles: tuple[Role, ...]
    build: Callable[[Fields], Case]


@dataclass(frozen=True, slots=True)
class Reading:
    """A schema with the column of each role."""

    schema: Schema
    columns: Mapping[str, str]


# In the order of recognition: the first whose required columns are all there.
SCHEMAS = (
    Schema("messages", chat.MESSAGES_ROLES, chat.messages),
    Schema("sharegpt", chat.SHAREGPT_ROLES, chat.sharegpt),
    Schema("radiology", tabular.RADIOLOGY_ROLES, tabular.radiology),
    Schema("medical-o1", tabular.MEDICAL_O1_ROLES, tabular.medical_o1),
    Schema("multiple-choice", tabular.MULTIPLE_CHOICE_ROLES, tabular.multiple_choice),
    Schema("instruction", tabular.INSTRUCTION_ROLES, tabular.instruction),
    Schema("question-answer", tabular.QUESTION_ANSWER_ROLES, tabular.question_answer),
)


def choose_reading(
    schema_name: str, *, names: Sequence[str], mapped: Mapping[str, str], where: str
) -> Reading:
    """The schema named, or for ``auto`` the first that fits, with its columns.

    Args:
        schema_name: A schema's name or ``auto``.
        names: Columns that the file has.
        mapped: Role -> column, from the recipe.
        where: The file, for the complaint.

    Raises:
        DataError: A mapped column or a required one is not there, or no schema fits; with the
            closest name where there is one.
    """
    named = [schema for schema in SCHEMAS if schema_name in (schema.name, "auto")]
    _check_mapped(named, names=names, mapped=mapped, where=where)
    for schema in named:
        if not set(mapped) <= {role.name for role in schema.roles}:
            continue
        columns = assign_columns(schema.roles, names=names, mapped=mapped)
        missing = _missing(schema, columns, names)
        if not missing:
            return Reading(schema, columns)
        if schema_name == "auto":
            _check_not_mistyped(schema, missing, columns, names=names, where=where)
    if schema_name == "auto":
        raise _unrecognised(names=names, mapped=mapped, where=where)
    columns = assign_columns(named[0].roles, names=names, mapped=mapped)
    raise _missing_column(named[0], columns, names=names, where=where)


def _missing(schema: Schema, columns: Mapping[str, str], names: Sequence[str]) -> list[Role]:
    missing = [role for role in schema.roles if role.required and role.name not in columns]
    if schema.name == "multiple-choice":
        if "options" not in columns and not has_option_columns(names):
            missing.append(tabular.OPTIONS)
        keys = {"answer_key", "answer_number", "cop", "answer"}
        if not keys & set(columns):
            missing.append(tabular.ANSWER_KEY)
    return missing


def _check_not_mistyped(
    schema: Schema,
    missing: Sequence[Role],
    columns: Mapping[str, str],
    *,
    names: Sequence[str],
    where: str,
) -> None:
    """Refuse to read a file with a lesser schema because a column's name has a slip in it."""
    free = [name for name in names if name not in columns.values()]
    slips: dict[str, str] = {}
    for role in missing:
        close = (suggest(candidate, free, cutoff=0.85) for candidate in role.candidates)
        found = next((name for name in close if name), None)
        if found is None:
            return
        slips[role.name] = found
    if any(role.required and role.name in columns for role in schema.roles):
        wrong = " and ".join(f"'{name}'" for name in slips.values())
        mapping = ", ".join(f"{role}: {name}" for role, name in slips.items())
        raise DataError(
            f"{wrong} would fit the schema '{schema.name}', but for the spelling",
            where=where,
            fix=f"Set columns: {{{mapping}}}, or name another schema",
        )


def _check_mapped(
    schemas: Sequence[Schema], *, names: Sequence[str], mapped: Mapping[str, str], where: str
) -> None:
    roles = sorted({role.name for schema in schemas for role in schema.roles})
    for role, column in mapped.items():
        if role not in roles:
            close = suggest(role, roles)
            raise DataError(
                f"columns maps '{role}', which the schema does not have",
                where=where,
                fix=_did_you_mean(close) or f"Map one of: {', '.join(roles)}",
            )
        if column not in names:
            raise DataError(
                f"there is no column '{column}', which columns maps to '{role}'",
                where=where,
                fix=_did_you_mean(suggest(column, names)) or f"It has: {_listing(names)}",
            )


def _missing_column(
    schema: Schema, columns: Mapping[str, str], *, names: Sequence[str], where: str
) -> DataError:
    role = (_missing(schema, columns, names) or list(schema.roles))[0]
    free = [name for name in names if name not in columns.values()]
    close = next(
        filter(None, (suggest(name, free) for name in (role.name, *role.candidates))), None
    )
    hint = (
        f"Did you mean '{close}'? Then set columns: {{{role.name}: {close}}}"
        if close
        else f"Name it with columns: {{{role.name}: ...}}; the file has {_listing(names)}"
    )
    return DataError(
        f"no column for '{role.name}', which the schema '{schema.name}' needs",
        where=where,
        fix=hint,
    )


def _unrecognised(*, names: Sequence[str], mapped: Mapping[str, str], where: str) -> DataError:
    hint = "Set the source's schema, and columns where the names differ"
    best = 0
    for schema in SCHEMAS:
        columns = assign_columns(schema.roles, names=names, mapped={})
        required = [role for role in schema.roles if role.required]
        for role in required:
            if role.name in columns:
                continue
            free = [name for name in names if name not in columns.values()]
            close = next(filter(None, (suggest(name, free) for name in role.candidates)), None)
            others = sum(other.name in columns for other in required)
            if close and others >= best:
                best = others + 1
                hint = (
                    f"Did '{close}' mean '{role.candidates[0]}'? Then set schema: {schema.name} "
                    f"and columns: {{{role.name}: {close}}}"
                )
    with_map = " with the columns mapped" if mapped else ""
    return DataError(
        f"the columns {_listing(names)} fit no schema{with_map}", where=where, fix=hint
    )


def _did_you_mean(name: str | None) -> str | None:
    return f"Did you mean '{name}'?" if name else None


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "(none)"
