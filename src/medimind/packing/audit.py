"""The label audit: what each row would teach, checked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medimind.errors import PackingError
from medimind.prompts.prompt import Prompt

_NUM_NAMED = 5


@dataclass(frozen=True, slots=True)
class RowAudit:
    """Figures of one row, in tokens.

    Attributes:
        index: Its index among the prompts given.
        case_id: The case.
        num_tokens: All tokens.
        num_targets: Tokens that will be learned (a sequence's first token never can be).
        num_reasoning_targets: Those of the reasoning.
        num_response_targets: Those of the response, EOS included.
        left_out: Why the row is not trained on; ``None`` where it is.
    """

    index: int
    case_id: str
    num_tokens: int
    num_targets: int
    num_reasoning_targets: int
    num_response_targets: int
    left_out: Literal["too long", "no target"] | None


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """What the rows hold, and which are trained on.

    Attributes:
        rows: Figures of every row, in order.
        kept: The prompts to train on, whole.
        kept_indices: Their indices among the prompts given.
        left_out: The rows that are not trained on.
        max_length: The limit that was applied, in tokens.
    """

    rows: tuple[RowAudit, ...]
    kept: tuple[Prompt, ...]
    kept_indices: tuple[int, ...]
    left_out: tuple[RowAudit, ...]
    max_length: int

    @property
    def num_too_long(self) -> int:
        """Rows left out because they are longer than ``max_length``."""
        return sum(row.left_out == "too long" for row in self.left_out)

    @property
    def num_targetless(self) -> int:
        """Rows left out because nothing in them is a target."""
        return sum(row.left_out == "no target" for row in self.left_out)

    def summary(self) -> dict[str, float | int]:
        """Figures for the report; sums and lengths are over the kept rows."""
        kept = [self.rows[index] for index in self.kept_indices]
        lengths = np.array([row.num_tokens for row in kept])
        return {
            "rows": len(self.rows),
            "rows_kept": len(kept),
            "rows_too_long": self.num_too_long,
            "rows_without_target": self.num_targetless,
            "rows_without_reasoning": sum(row.num_reasoning_targets == 0 for row in kept),
            "tokens": int(lengths.sum()),
            "target_tokens": sum(row.num_targets for row in kept),
            "reasoning_target_tokens": sum(row.num_reasoning_targets for row in kept),
            "response_target_tokens": sum(row.num_response_targets for row in kept),
            "tokens_median": float(np.median(lengths)),
            "tokens_p95": float(np.percentile(lengths, 95)),
            "tokens_max": int(lengths.max()),
            "max_length": self.max_length,
        }


def audit_labels(
    prompts: Sequence[Prompt],
    *,
    max_length: int,
    max_truncated_share: float,
    drop_targetless: bool = False,
) -> LabelAudit:
    """Figures of every row, and the rows to train on. Rows are kept whole or left out, never cut.

    Args:
        prompts: Rendered cases.
        max_length: Longest row in tokens.
        max_truncated_share: Share of rows that may be longer.
        drop_targetless: Leave rows without a target out instead of stopping.

    Raises:
        PackingError: If too many rows are too long, a row teaches nothing, or no row is left; the
            rows are named.
    """
    rows = tuple(_row(i, prompt, max_length=max_length) for i, prompt in enumerate(prompts))
    left_out = tuple(row for row in rows if row.left_out)
    targetless = [row for row in left_out if row.left_out == "no target"]
    too_long = [row for row in left_out if row.left_out == "too long"]
    if targetless and not drop_targetless:
        raise PackingError(
            f"{len(targetless)} of {len(rows)} rows hold nothing to learn: {_named(targetless)}",
            fix="Mend the rows, or set train.drop_targetless: true to leave them out",
        )
    if len(too_long) > max_truncated_share * len(rows):
        longest = max(row.num_tokens for row in too_long)
        raise PackingError(
            f"{len(too_long)} of {len(rows)} rows ({len(too_long) / len(rows):.1%}) are longer "
            f"than {max_length} tokens, more than train.max_truncated_share "
            f"({max_truncated_share:.1%}) allows: {_named(too_long)}",
            fix=f"Raise train.max_length (the longest row has {longest} tokens), or raise "
            "train.max_truncated_share to leave them out",
        )
    kept = tuple(row.index for row in rows if not row.left_out)
    if not kept:
        raise PackingError("no row is left to train on", fix="Look at the data stage's report")
    return LabelAudit(rows, tuple(prompts[i] for i in kept), kept, left_out, max_length)


def _row(index: int, prompt: Prompt, *, max_length: int) -> RowAudit:
    num_targets = int(np.count_nonzero(prompt.is_target_S[1:]))
    num_tokens = len(prompt.token_ids_S)
    left_out = None
    if num_targets == 0:
        left_out = "no target"
    elif num_tokens > max_length:
        left_out = "too long"
    return RowAudit(
        index=index,
        case_id=prompt.case_id,
        num_tokens=num_tokens,
        num_targets=num_targets,
        num_reasoning_targets=prompt.num_reasoning_targets,
        num_response_targets=prompt.num_response_targets,
        left_out=left_out,
    )


def _named(rows: Sequence[RowAudit]) -> str:
    names = [f"{row.case_id} ({row.num_tokens} tokens)" for row in rows[:_NUM_NAMED]]
    more = len(rows) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
