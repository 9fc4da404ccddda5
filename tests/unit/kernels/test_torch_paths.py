"""The plain torch paths of the operations against their textbook form under autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.kernels.attention import varlen_attention
from medimind.kernels.attention.blocked import (
    blocked_attention,
    blocked_attention_backward,
    largest_block,
    num_probabilities,
)
from medimind.kernels.attention.op import segment_bounds
from medimind.kernels.cross_entropy import linear_cross_entropy, linear_token_losses
from medimind.kernels.cross_entropy.blocked import block_size, blocked_cross_entropy
from medimind.kernels.lora_linear import frozen_linear, lora_linear
from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.kernels.rms_norm import add_rms_norm, rms_norm
from medimind.kernels.rotary import apply_rotary
from medimind.kernels.swiglu import swiglu

# Of the dtype's unit roundoff, times a few for the operations in a row.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
DTYPES = list(TOLERANCE)


def randn(*shape, seed=0, dtype=torch.float32, requires_grad=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.requires_grad_(requires_grad)


def assert_close(ours, exact, *, dtype=torch.float32, times=1.0):
    difference = (ours.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30)
    assert difference <= TOLERANCE[dtype] * times


def compare(op, textbook, inputs, *, times=1.0):
    """Outputs and gradients of ``op`` against ``textbook`` in float64 on the same values."""
    dtype = inputs[0].dtype
    ours = [x.detach().clone().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    outs, wants = op(*ours), textbook(*exact)
    outs, wants = (x if isinstance(x, tuple) else (x,) for x in (outs, wants))
    for index, (out, want) in enumerate(zip(outs, wants, strict=True)):
        assert_close(out, want, dtype=dtype, times=times)
        gradient = randn(*out.shape, seed=90 + index, dtype=out.dtype)
        out.backward(gradient, retain_graph=True)
        want.backward(gradient.double(), retain_graph=True)
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad.dtype == mine.dtype
        assert_close(mine.grad, theirs.grad, dtype=dtype, times=4 * times)


def norm_textbook(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype):
    inputs = randn(7, 3, 33, dtype=dtype), randn(33, seed=1, dtype=dtype)
    compare(lambda x, w: rms_norm(x, w, eps=1e-6), norm_textbook, inputs)


def test_rms_norm_with_the_sum_before_it():
    inputs = randn(7, 33), randn(7, 33, seed=1), randn(33, seed=2)
    compare(
        lambda x, r, w: add_rms_norm(x, r, w, eps=1e-6),
        lambda x, r, w: (norm_textbook(x + r, w), x + r),
        inputs,
    )


def test_a_frozen_norm_gets_no_gradient():
    x, weight = randn(4, 8, requires_grad=True), randn(8)
    rms_norm(x, weight, eps=1e-6).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary(dtype):
    angle_TK = randn(5, 3, seed=4).repeat(1, 2)
    cos_TK, sin_TK = angle_TK.cos(), angle_TK.sin()

    def turned(x, cos, sin):
        half = torch.cat((-x[..., 3:], x[..., :3]), dim=-1)
        return x * cos[:, None] + half * sin[:, None]

    compare(
        lambda q, k: apply_rotary(q, k, cos_TK.to(dtype), sin_TK.to(dtype)),
        lambda q, k: tuple(turned(x, cos_TK.double(), sin_TK.double()) for x in (q, k)),
        (randn(5, 4, 6, dtype=dtype), randn(5, 2, 6, seed=1, dtype=dtype)),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype):
    inputs = randn(6, 31, dtype=dtype), randn(6, 31, seed=1, dtype=dtype)
    compare(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, inputs)


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_lora_linear(nf4, masked):
    weight = randn(9, 12, seed=1)
    held = quantize_nf4(weight) if nf4 else weight
    base = dequantize_nf4(held, dtype=torch.float32) if nf4 else weight
    bias, mask = randn(9, seed=2), (randn(2, 5, 12, seed=3) > 0).float() * 2 if masked else None

    def textbook(x, a, b):
        low = x if mask is None else x * mask.double()
        return x @ base.double().t() + bias.double() + 0.5 * low @ a.t() @ b.t()

    compare(
        lambda x, a, b: lora_linear(x, held, bias, a, b, scaling=0.5, dropout_mask=mask),
        textbook,
        (randn(2, 5, 12), randn(3, 12, seed=4), randn(9, 3, seed=5)),
    )
    compare(
        lambda x: frozen_linear(x, held, bias),
        lambda x: x @ base.double().t() + bias.double(),
        (randn(2, 5, 12),),
    )


def test_inputs_without_a_gradient_get_none():
    x, a, b = randn(4, 6), randn(2, 6, seed=1, requires_grad=True), randn(5, 2, seed=2)
    lora_linear(x, randn(5, 6, seed=3), None, a, b.requires_grad_(), scaling=1.0).sum().backward()
    assert x.grad is None
    assert a.grad is not None


def attention_textbook(q_THK, k_TGK, v_TGK, bounds):
    per = q_THK.shape[1] // k_TGK.shape[1]
    outs = []
    for start, end in bounds:
        q = q_THK[start:end].transpose(0, 1) / q_THK.shape[2] ** 0.5
        k, v = (x[start:end].transpose(0, 1).repeat_interleave(per, 0) for x in (k_TGK, v_TGK))
        scores = q @ k.transpose(1, 2)
        future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        outs.append((scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_attention_within_segments(heads):
    offsets = [0, 5, 5, 6, 23]
    compare(
        lambda q, k, v: varlen_attention(q, k, v, cu_seqlens=offsets, max_seqlen=17),
        lambda q, k, v: attention_textbook(q, k, v, segment_bounds(offsets)),
        (randn(23, heads[0], 8), randn(23, heads[1], 8, seed=1), randn(23, heads[1], 8, seed=2)),
    )
    empty = varlen_attention(
        randn(0, 4, 8), randn(0, 4, 8), randn(0, 4, 8), cu_seqlens=[0], max_seqlen=0
    )
    assert empty.shape == (0, 4, 8)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    groups=st.integers(1, 3),
    per=st.integers(1, 4),
    width=st.sampled_from([2, 8, 24]),
    keep=st.booleans(),
)
def test_blocked_attention(lengths, groups, per, width, keep):
    """Buffers start as NaN: whatever is not written would show."""
    tokens = sum(lengths)
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    bounds = segment_bounds(offsets)
    q_TGRK, k_TGK, v_TGK = (
        randn(tokens, groups, *shape, seed=i)
        for i, shape in enumerate([(per, width), (width,), (width,)])
    )
    gradient = randn(tokens, groups * per, width, seed=7)
    exact = [x.double().reshape(tokens, -1, width).requires_grad_() for x in (q_TGRK, k_TGK, v_TGK)]
    want = attention_textbook(*exact, bounds)
    want.backward(gradient.double())

    def group_major(x_TGRK):
        return x_TGRK.transpose(0, 1).reshape(groups, tokens * per, width).contiguous()

    def token_major(x_GQK):
        return x_GQK.view(groups, tokens, per, width).transpose(0, 1).reshape(tokens, -1, width)

    q_GQK = group_major(q_TGRK * width**-0.5)
    out_GQK, grad_q_GQK = (torch.full_like(q_GQK, torch.nan) for _ in range(2))
    grad_k_TGK, grad_v_TGK = (torch.full_like(k_TGK, torch.nan) for _ in range(2))
    block = largest_block(bounds, groups=groups, heads_per_group=per)
    kept = num_probabilities(bounds, groups=groups, heads_per_group=per)
    scratch = torch.full((kept if keep else block,), torch.nan)
    blocked_attention(
        q_GQK, k_TGK, v_TGK, bounds=bounds, out_GQK=out_GQK, scratch=scratch, keep=keep
    )
    blocked_attention_backward(
        group_major(gradient.view(tokens, groups, per, width)),
        q_GQK,
        k_TGK,
        v_TGK,
        bounds=bounds,
        grad_q_GQK=grad_q_GQK,
        grad_k_TGK=grad_k_TGK,
        grad_v_TGK=grad_v_TGK,
        scratch=scratch,
        scratch_grad=torch.full((block,), torch.nan),
        kept=keep,
    )
    assert_close(token_major(out_GQK), want)
    assert_close(token_major(grad_q_GQK) * width**-0.5, exact[0].grad, times=10)
    assert_close(grad_k_TGK, exact[1].grad, times=10)
    assert_close(grad_v_TGK, exact[2].grad, times=10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_targets", [1, 7, 300])
def test_linear_cross_entropy(dtype, num_targets):
    head = randn(1000, 12, seed=1, dtype=dtype)
    targets = torch.arange(num_targets) * 37 % 1000
    hidden = randn(num_targets, 12, dtype=dtype).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    loss = linear_cross_entropy(hidden, head, targets)
    want = torch.nn.functional.cross_entropy(exact @ head.double().t(), targets, reduction="sum")
    (loss * 0.5).backward()
    (want * 0.5).backward()
    assert loss.dtype == torch.float32
    assert_close(loss, want, dtype=dtype)
    assert_close(hidden.grad, exact.grad, dtype=dtype, times=2)
    each = linear_token_losses(hidden.detach(), head, targets, chunk_size=5)
    assert_close(each.sum(), want, dtype=dtype)
    assert_close(linear_cross_entropy(hidden.detach(), head, targets), want, dtype=dtype)


@pytest.mark.parametrize("spread", [0.0, 1.0, 400.0])
def test_blocked_cross_entropy_when_later_blocks_hold_the_peak(spread):
    """The vocabulary takes several blocks, and logits grow with the entry."""
    head = randn(2 * block_size(3) + 100, 4, seed=1)
    head[:, 0] = torch.linspace(-1, 1, head.shape[0]) * spread
    hidden, targets = randn(3, 4), torch.tensor([0, 5000, head.shape[0] - 1])
    hidden[:, 0] = torch.tensor([1.0, -1.0, 0.5])
    exact = hidden.double().requires_grad_()
    want = torch.nn.functional.cross_entropy(exact @ head.double().t(), targets, reduction="none")
    want.sum().backward()
    losses, gradient = blocked_cross_entropy(hidden, head, targets)
    assert_close(losses, want)
    assert (gradient - exact.grad).abs().max() <= 2e-5 * (1 + spread)


def test_block_sizes_stay_within_bounds():
    sizes = [block_size(rows) for rows in (0, 1, 100, 1000, 10_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(512 <= size <= 4096 for size in sizes)
