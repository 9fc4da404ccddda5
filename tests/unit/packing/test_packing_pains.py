"""What users of other tools suffer from cannot happen here (numbers: the project's list of pains).

5 all labels masked and "finished"; 9 packing lets rows see each other; 13 rows cut silently.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from rows import prompt_of, prompts_st

from medimind.errors import PackingError
from medimind.packing.audit import audit_labels
from medimind.packing.pack import pack
from medimind.prompts.prompt import Prompt


def test_pain_5_rows_without_any_label_stop_the_run_by_name() -> None:
    prompts = [prompt_of(case, 9, prompt_length=9) for case in range(7)]
    with pytest.raises(PackingError) as caught:
        audit_labels(prompts, max_length=9, max_truncated_share=0)
    message = str(caught.value)
    assert "7 of 7 rows hold nothing to learn: row:0 (9 tokens), row:1" in message
    assert message.count("row:") == 5
    assert "and 2 more" in message
    assert "train.drop_targetless" in message


@given(prompts=prompts_st(40))
@settings(deadline=None, max_examples=100)
def test_pain_5_no_label_is_lost_between_audit_and_batches(prompts: list[Prompt]) -> None:
    teaching = [prompt for prompt in prompts if prompt.is_target_S[1:].any()]
    if not teaching:
        return
    audit = audit_labels(teaching, max_length=40, max_truncated_share=0)
    batches = pack(audit.kept, tokens_per_batch=40, pad_to=64)
    assert sum(b.num_targets for b in batches) == audit.summary()["target_tokens"]


@given(prompts=prompts_st(40))
@settings(deadline=None, max_examples=100)
def test_pain_9_no_row_sees_another(prompts: list[Prompt]) -> None:
    """What varlen attention lets each query see: its own segment, up to itself."""
    for batch in pack(prompts, tokens_per_batch=40, pad_to=50):
        segment_T = np.repeat(np.arange(len(batch.cu_seqlens) - 1), np.diff(batch.cu_seqlens))
        same_TT = segment_T[:, None] == segment_T[None, :]
        index_T = np.arange(len(segment_T))
        sees_TT = same_TT & (index_T[None, :] <= index_T[:, None])
        case_T = batch.token_ids_T // 1000
        for query in np.flatnonzero(segment_T < len(batch.case_ids)):
            assert set(case_T[sees_TT[query]]) == {case_T[query]}
            assert sees_TT[query].sum() == batch.position_ids_T[query] + 1
        labelled = np.flatnonzero(batch.labels_T >= 0)
        assert (batch.labels_T[labelled] // 1000 == case_T[labelled]).all()


def test_pain_13_long_rows_stop_the_run_with_the_length_that_would_do() -> None:
    prompts = [prompt_of(case, 10 if case else 25) for case in range(50)]
    with pytest.raises(PackingError) as caught:
        audit_labels(prompts, max_length=20, max_truncated_share=0.01)
    message = str(caught.value)
    assert "1 of 50 rows (2.0%) are longer than 20 tokens" in message
    assert "(1.0%) allows: row:0 (25 tokens)" in message
    assert "the longest row has 25 tokens" in message


def test_pain_13_few_long_rows_are_left_out_whole_and_listed() -> None:
    prompts = [prompt_of(case, 10 if case != 3 else 25) for case in range(100)]
    audit = audit_labels(prompts, max_length=20, max_truncated_share=0.01)
    assert [(row.case_id, row.num_tokens, row.left_out) for row in audit.left_out] == [
        ("row:3", 25, "too long")
    ]
    assert 3 not in audit.kept_indices
    assert all(len(kept.token_ids_S) == 10 for kept in audit.kept)
    assert audit.summary()["rows_too_long"] == 1
