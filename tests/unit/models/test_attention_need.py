"""What attention is counted with in a step: the rows and the card that need the most."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.kernels.attention.footprint import Card, backends, backward_bytes
from medimind.models.fused.attention import attention_need
from medimind.models.fused.memory import memory_need
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.segments import padded_segments, padded_tokens
from medimind.models.fused.workload import Workload, cards_of_size
from medimind.models.shape import R1_DISTILL_LLAMA_8B

GIB = 1 << 30
H100, A100, T4 = Card((9, 0), 132), Card((8, 0), 108), Card((7, 5), 40)
WORK = Workload(R1_DISTILL_LLAMA_8B, 8192, 2, cards=(H100,))
LEAN = StepPlan(keep="inputs", resident=False, graph=False)


@settings(deadline=None)
@given(
    card=st.sampled_from([H100, A100, T4, Card((12, 0), 170)]),
    lengths=st.lists(st.integers(1, 2048), min_size=1, max_size=8),
    tokens=st.sampled_from([2048, 5000, 8192, 1 << 15]),
    graph=st.booleans(),
    flash4=st.booleans(),
    deterministic=st.booleans(),
)
def test_no_rows_need_more_than_is_counted(card, lengths, tokens, graph, flash4, deterministic):
    """As the step would run them: padded, and with empty segments."""
    with mock.patch("medimind.kernels.attention.footprint.has_flash4", return_value=flash4):
        _compare_need(card, lengths, tokens, graph=graph, deterministic=deterministic)


def _compare_need(card, lengths, tokens, *, graph, deterministic):
    work = replace(WORK, num_tokens=tokens, cards=(card,), longest=max(lengths), rows=8)
    need = attention_need(work, replace(LEAN, graph=graph, deterministic=deterministic)).workspace
    need -= 2 * 4096 * tokens  # the output itself
    if sum(lengths) > work.num_tokens:
        return
    tokens = padded_tokens(sum(lengths), num_tokens=work.num_tokens, graph=graph)
    padding = [tokens - sum(lengths)] if tokens > sum(lengths) else []
    parts = lengths + padding
    equal, count, longest = len(set(parts)) == 1, len(parts), max(parts)
    rule = {"equal": equal, "deterministic": deterministic, "longest": longest}
    for backend in backends(card, work.heads, **rule):
        shape = {"num_tokens": tokens, "segments": count, "longest": longest}
        if not equal:
            shape["segments"], shape["longest"] = padded_segments(
                count, longest, num_tokens=tokens, backend=backend, graph=graph
            )
        assert backward_bytes(backend, work.heads, card=card, **shape) <= need


def test_cudnn_takes_a_quarter_of_a_gib_more_on_a_hopper(monkeypatch):
    monkeypatch.setattr("medimind.kernels.attention.footprint.has_flash4", lambda: False)
    loose = replace(LEAN, deterministic=False)
    alike, unlike = (memory_need(replace(WORK, equal=e), loose).total for e in (True, False))
    assert (alike - unlike) / GIB == pytest.approx(0.25, abs=0.01)
    assert memory_need(WORK, loose).total == alike  # either may come
    for equal in (True, False, None):
        assert memory_need(replace(WORK, equal=equal), LEAN).total <= unlike


def test_what_layers_keep_is_counted_where_they_keep_it():
    lse = 4 * 32 * 8192
    for plan, layers in ((LEAN, 1), (replace(LEAN, offload=True), 32), (StepPlan(), 32)):
        assert attention_need(WORK, plan).kept == layers * lse


def test_a_card_of_which_only_the_memory_is_known_needs_no_less_than_any():
    for size, multiprocessors in ((8, 46), (10, 68), (12, 80), (16, 84), (24, 128), (32, 170)):
        cards = cards_of_size(size * GIB)
        assert all(card.multiprocessors >= multiprocessors for card in cards)
        for capability in ((8, 0), (8, 9), (9, 0), (12, 0)):
            known = replace(WORK, cards=(Card(capability, multiprocessors),))
            unknown = replace(WORK, cards=cards)
            assert memory_need(known, LEAN).total <= memory_need(unknown, LEAN).total
    assert (7, 5) in [card.capability for card in cards_of_size(16 * GIB, float16=True)]


def test_a_t4_needs_more_for_more_rows():
    few, many = (
        memory_need(replace(WORK, cards=(T4,), longest=2048, rows=n), LEAN).total for n in (4, 16)
    )
    assert many - few > 0.4 * GIB


def test_shapes_are_rounded_up_so_that_few_come_up():
    assert padded_tokens(1000, num_tokens=4096, graph=True) == 1024
    assert padded_tokens(1000, num_tokens=4096, graph=False) == 1024
    assert padded_tokens(4090, num_tokens=4096, graph=False) == 4096
    rows = {"num_tokens": 4096, "graph": True}
    assert padded_segments(3, 700, backend="flash", **rows) == (8, 1024)
    assert padded_segments(9, 700, backend="flash", **rows) == (32, 1024)
    assert padded_segments(9, 700, backend="efficient", **rows) == (16, 1024)
    assert padded_segments(9, 700, backend="tiled", **rows) == (32, 4096)
    assert padded_segments(9, 700, backend="flash4", **rows) == (32, 4096)
    assert padded_segments(9, 700, backend="reference", **rows) == (9, 700)
    assert padded_segments(9, 700, backend="flash", num_tokens=4096, graph=False) == (9, 1024)
    assert padded_segments(2, 3000, backend="flash", num_tokens=3200, graph=False) == (2, 3200)
