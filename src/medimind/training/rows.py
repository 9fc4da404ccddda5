"""The rows of a run: its cases as tokens, audited before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from medimind.cases.case import Case
from medimind.cases.prepare import PreparedCases
from medimind.config.recipe import Recipe
from medimind.packing.audit import audit_labels
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import render_cases
from medimind.prompts.templates import get_template
from medimind.prompts.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


def training_prompts(
    recipe: Recipe,
    cases: PreparedCases,
    *,
    tokenizer: Tokenizer,
    note: Callable[[str], None],
) -> tuple[tuple[Prompt, ...], tuple[float, ...] | None]:
    """The training cases as tokens after the label audit, and how often each is taken.

    Args:
        recipe: Says how they are rendered, and how long a row may be.
        cases: The cases of the run.
        tokenizer: Of the model.
        note: Gets the account of what is kept and left out.

    Raises:
        PackingError: The audit found rows that would be cut or teach nothing.
    """
    rendered = render_cases(
        cases.train,
        template=get_template(recipe.prompt),
        tokenizer=tokenizer,
        with_options=recipe.prompt.show_options,
    )
    for rejected in rendered.rejected:
        _log.warning("%s is left out: %s", rejected.case_id, rejected.reason)
    audit = audit_labels(
        rendered.prompts,
        max_length=recipe.train.max_length,
        max_truncated_share=recipe.train.max_truncated_share,
        drop_targetless=recipe.train.drop_targetless,
    )
    for row in audit.left_out:
        _log.warning("%s is left out: %s (%d tokens)", row.case_id, row.left_out, row.num_tokens)
    tokens = sum(row.num_tokens for row in audit.rows if not row.left_out)
    targets = sum(row.num_targets for row in audit.rows if not row.left_out)
    note(
        f"{len(audit.kept)} rows, {tokens:,} tokens, {targets:,} of them targets; "
        f"{len(audit.left_out) + len(rendered.rejected)} rows left out, none cut"
    )
    weights = tuple(cases.train_weights[rendered.indices[index]] for index in audit.kept_indices)
    return audit.kept, weights if set(weights) != {1.0} else None


def held_out_prompts(
    recipe: Recipe, held_out: Sequence[Case], *, tokenizer: Tokenizer
) -> tuple[Prompt, ...]:
    """The held-out cases as tokens, for the loss during training."""
    rendered = render_cases(
        held_out,
        template=get_template(recipe.prompt),
        tokenizer=tokenizer,
        with_options=recipe.prompt.show_options,
    )
    limit = recipe.train.max_length
    fitting = tuple(prompt for prompt in rendered.prompts if len(prompt.token_ids_S) <= limit)
    if left_out := len(held_out) - len(fitting):
        _log.warning(
            "the held-out loss during training leaves out %d of %d cases: longer than %d tokens",
            left_out,
            len(held_out),
            limit,
        )
    return fitting
