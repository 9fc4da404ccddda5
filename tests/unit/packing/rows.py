"""Prompts made of numbers, and Hypothesis strategies of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from medimind.prompts.prompt import Prompt


def prompt_of(
    case: int | str, length: int, *, prompt_length: int | None = None, num_reasoning: int = 0
) -> Prompt:
    """Token ``1000 * case + position``, so that a token tells where it comes from."""
    start = length // 3 if prompt_length is None else prompt_length
    number = case if isinstance(case, int) else 0
    is_target_S = np.arange(length) >= start
    return Prompt(
        case_id=f"row:{case}",
        token_ids_S=(1000 * number + np.arange(length)).astype(np.int32),
        is_target_S=is_target_S,
        prompt_length=start,
        num_reasoning_targets=num_reasoning,
        num_response_targets=int(is_target_S.sum()) - num_reasoning,
    )


@st.composite
def prompts_st(draw: st.DrawFn, max_length: int = 40) -> list[Prompt]:
    lengths = draw(st.lists(st.integers(1, max_length), max_size=30))
    return [
        prompt_of(case, length, prompt_length=draw(st.integers(0, length)))
        for case, length in enumerate(lengths)
    ]
