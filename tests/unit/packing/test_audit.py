"""The label audit stops a run that would teach nothing, and cuts nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import prompt_of, prompts_st

from medimind.errors import PackingError
from medimind.packing.audit import audit_labels
from medimind.prompts.prompt import Prompt


def test_figures_of_each_row_and_of_all() -> None:
    prompts = [prompt_of(0, 10, prompt_length=4, num_reasoning=5), prompt_of(1, 6, prompt_length=4)]
    audit = audit_labels(prompts, max_length=10, max_truncated_share=0)
    first = audit.rows[0]
    assert (first.index, first.case_id, first.num_tokens, first.num_targets) == (0, "row:0", 10, 6)
    assert (first.num_reasoning_targets, first.num_response_targets) == (5, 1)
    assert first.left_out is None
    assert audit.kept == tuple(prompts)
    assert audit.summary() == {
        "rows": 2,
        "rows_kept": 2,
        "rows_too_long": 0,
        "rows_without_target": 0,
        "rows_without_reasoning": 1,
        "tokens": 16,
        "target_tokens": 8,
        "reasoning_target_tokens": 5,
        "response_target_tokens": 3,
        "tokens_median": 8.0,
        "tokens_p95": 9.8,
        "tokens_max": 10,
        "max_length": 10,
    }


def test_the_first_token_of_a_sequence_is_no_target() -> None:
    audit = audit_labels([prompt_of(0, 3, prompt_length=0)], max_length=9, max_truncated_share=0)
    assert audit.rows[0].num_targets == 2
    with pytest.raises(PackingError, match="nothing to learn"):
        audit_labels([prompt_of(0, 1, prompt_length=0)], max_length=9, max_truncated_share=0)


def test_targetless_rows_are_left_out_only_if_asked() -> None:
    prompts = [prompt_of(0, 5), prompt_of(1, 5, prompt_length=5)]
    audit = audit_labels(prompts, max_length=9, max_truncated_share=0, drop_targetless=True)
    assert audit.kept_indices == (0,)
    assert [(row.case_id, row.left_out) for row in audit.left_out] == [("row:1", "no target")]
    assert (audit.num_targetless, audit.num_too_long) == (1, 0)


def test_a_run_with_no_row_left_stops() -> None:
    prompts = [prompt_of(0, 5), prompt_of(1, 6)]
    with pytest.raises(PackingError, match="no row is left"):
        audit_labels(prompts, max_length=4, max_truncated_share=1)
    with pytest.raises(PackingError, match="no row is left"):
        audit_labels([], max_length=4, max_truncated_share=0)


@given(
    prompts=prompts_st(40), max_length=st.integers(1, 45), share=st.sampled_from([0, 0.01, 0.5, 1])
)
@settings(deadline=None, max_examples=200)
def test_rows_in_are_rows_kept_and_left_out(
    prompts: list[Prompt], max_length: int, share: float
) -> None:
    too_long = [p for p in prompts if len(p.token_ids_S) > max_length and p.is_target_S[1:].any()]
    try:
        audit = audit_labels(
            prompts, max_length=max_length, max_truncated_share=share, drop_targetless=True
        )
    except PackingError as error:
        too_many = len(too_long) > share * len(prompts)
        assert ("max_truncated_share" if too_many else "no row is left") in str(error)  # noqa: PT017
        return
    assert len(too_long) <= share * len(prompts)
    assert len(audit.kept) + len(audit.left_out) == len(audit.rows) == len(prompts)
    assert audit.num_too_long == len(too_long)
    assert all(kept is prompts[i] for kept, i in zip(audit.kept, audit.kept_indices))
    assert all(len(kept.token_ids_S) <= max_length for kept in audit.kept)
    assert all(kept.is_target_S[1:].any() for kept in audit.kept)
