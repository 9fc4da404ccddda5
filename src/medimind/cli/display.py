"""A run on the terminal: stages, progress bars, and the table of the training loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medimind.tracking.tracker import Scalar, Tracker

TABLE_EVERY = 10


class TerminalDisplay:
    """Shows a run to a person; on a pipe or in CI it prints plain lines instead of bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._bar_title = ""
        self._bar_task = TaskID(0)

    def stage(self, title: str) -> None:
        """Announce the next part of the way."""
        self._console.print(f"\n[bold]{title}[/]")

    def note(self, text: str) -> None:
        """Print a fact, in one line: a command in it can be copied."""
        self._console.print(f"  {text}", markup=False, soft_wrap=True)

    def progress(self, title: str, done: int, total: int) -> None:
        """Move the bar of a long work; a line says when it is complete."""
        if self._bar is None or self._bar_title != title:
            self._close_bar()
            self._bar, self._bar_title = self._new_bar(), title
            self._bar_task = self._bar.add_task(f"  {title}", total=total, status="")
            self._bar.start()
        self._bar.update(self._bar_task, completed=done, total=total)
        if done >= total:
            self._close_bar()
            self.note(f"{title}: {total} done")

    @contextmanager
    def training(self, total_steps: int) -> Iterator[Tracker]:
        """A bar over the optimizer steps, fed as a tracker."""
        with self._new_bar() as progress:
            task = progress.add_task("  training", total=total_steps, status="")
            yield _TrainingBar(progress, task, self._console, total_steps)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _new_bar(self) -> Progress:
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        return Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )


class _TrainingBar:
    """Shows step, loss, tokens/s and memory; prints the loss every ten steps."""

    def __init__(self, progress: Progress, task: TaskID, console: Console, total: int) -> None:
        self._progress = progress
        self._task = task
        self._console = console
        self._total = total
        self._printed_header = False

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Move the bar; print a row of the table every ten steps."""
        if "train/loss" in metrics:
            status = f"loss {metrics['train/loss']:.3f}"
            if "train/tokens_per_second" in metrics:
                status += f"  {metrics['train/tokens_per_second']:,.0f} tokens/s"
            if "train/peak_memory_gib" in metrics:
                status += f"  {metrics['train/peak_memory_gib']:.1f} GiB"
            self._progress.update(self._task, completed=step, status=status)
            if step % TABLE_EVERY == 0 or step in (1, self._total):
                self._row(step, "training loss", metrics["train/loss"])
        if "held_out/loss" in metrics:
            self._row(step, "held-out loss", metrics["held_out/loss"])

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Tables are shown in the report."""

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """The bar ends with its context."""

    def _row(self, step: int, label: str, value: float) -> None:
        if not self._printed_header:
            self._console.print(f"  {'step':>6}  loss", style="dim")
            self._printed_header = True
        self._console.print(f"  {step:>6}  {value:.4f}  [dim]{label}[/]")
