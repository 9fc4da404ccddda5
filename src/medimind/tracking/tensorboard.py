"""Metrics as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medimind.errors import MissingExtraError
from medimind.tracking.tracker import Scalar


class TensorboardTracker:
    """Writes scalars, and tables as Markdown.

    Args:
        folder: Where the event files go.
        resume_step: The step the run goes on from; TensorBoard hides what was logged after it.

    Raises:
        MissingExtraError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, *, resume_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", extra="tensorboard") from None
        self._writer = SummaryWriter(
            str(folder), purge_step=resume_step + 1 if resume_step else None
        )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Write a table as Markdown text."""
        lines = [_markdown_row(columns), _markdown_row(["---"] * len(columns))]
        self._writer.add_text(name, "\n".join(lines + [_markdown_row(row) for row in rows]))
        self._writer.flush()

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Write the final figures as a table and close the file."""
        self.log_table("summary", columns=["figure", "value"], rows=list(summary.items()))
        self._writer.close()


def _markdown_row(cells: Sequence[Scalar]) -> str:
    texts = ("" if cell is None else str(cell) for cell in cells)
    return (
        "| " + " | ".join(text.replace("|", "\\|").replace("\n", "<br>") for text in texts) + " |"
    )
