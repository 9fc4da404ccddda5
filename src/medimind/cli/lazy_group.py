"""Groups of commands that are imported only when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands live in modules of their names, imported on use.

    Args:
        commands: Name -> line of help, in the order shown.
        package: Where the modules are; each has a ``command``.
    """

    def __init__(
        self, *args: Any, commands: Mapping[str, str], package: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lines, self._package = commands, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order shown."""
        return list(self._lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in self._lines:
            return None
        return importlib.import_module(f"{self._package}.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._lines.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; a mistyped one gets a suggestion."""
        if args and args[0] not in self._lines and not args[0].startswith("-"):
            import difflib  # only a mistake needs it

            close = difflib.get_close_matches(args[0], self._lines, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"there is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)
