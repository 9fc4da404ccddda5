"""``--judge``: models that judge open answers, on the command line and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from medimind.cli.terminal import console

if TYPE_CHECKING:
    from medimind.config.judge import JudgeConfig
    from medimind.evaluation.judge import JudgedArm

MOST = 2


def judge_option(help_text: str) -> Callable[[Any], Any]:
    """The option ``--judge [NAME=]MODEL@URL``, twice at most, as ``judges``."""
    return click.option(
        "--judge", "judges", multiple=True, metavar="[NAME=]MODEL@URL", help=help_text
    )


def read_judges(texts: Sequence[str]) -> tuple[JudgeConfig, ...]:
    """The judges that the command line names.

    Raises:
        UsageError: One is not ``[NAME=]MODEL@URL``, or there are too many.
    """
    if len(texts) > MOST:
        raise click.UsageError("--judge can be given twice at most")
    return tuple(map(_read, texts))


def _read(text: str) -> JudgeConfig:
    from pydantic import ValidationError

    from medimind.config.judge import JudgeConfig

    asked, _, url = text.rpartition("@")
    name, has_name, model = asked.rpartition("=")
    reason = ""
    if model and url.startswith(("http://", "https://")):
        try:
            return JudgeConfig(url=url, model=model, name=name if has_name else None)
        except ValidationError as error:
            reason = "".join(f"; {one['loc'][0]}: {one['msg']}" for one in error.errors())
    raise click.UsageError(f"--judge is MODEL@URL, such as llama3.1@http://..., not {text}{reason}")


def print_judged(judged: Sequence[JudgedArm], *, asked: bool = True) -> None:
    """What each judge made of each arm; where judges found nothing to judge, that.

    Args:
        judged: What they said.
        asked: Whether any judge was named.
    """
    if asked and not judged:
        from medimind.evaluation.judge.open import NOTHING_TO_JUDGE

        console.print(f"[yellow]warning:[/] {NOTHING_TO_JUDGE}")
    for one in judged:
        interval = f"{100 * one.interval.low:.0f} to {100 * one.interval.high:.0f} %"
        console.print(
            f"{one.shown}, judged by {one.judge}: {one.right} of {one.num_open} open answers right "
            f"({interval}), {one.right_by_rule} by words; {one.turned} turned with the "
            f"order, {one.unreadable} without a verdict",
            markup=False,
        )
