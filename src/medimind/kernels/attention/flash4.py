"""Attention by FlashAttention-4, where its package is installed (``medimind[hopper]``).

Its kernels are written for Hopper's asynchronous products and compiled at first use (CuTe DSL, four
to six seconds for each kind of attention). Offsets of segments are read on the card, so a captured
graph serves other segments, empty ones at the end included.

Gradients are summed in whatever order their tiles come, as cuDNN does, or tiles wait for their
turn, which costs a fifth of the time and gives the same bits each time.

``T`` tokens, ``H`` query heads, ``G`` key/value heads, ``K`` head width.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from medimind.kernels.attention.forward import Segments

logger = logging.getLogger(__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it the compiler's remarks on the package's own code are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _package() -> Any:
    with _quiet():
        return importlib.import_module("flash_attn.cute.interface")


@cache
def loads() -> bool:
    """Whether the package works on this machine; a warning tells once why not."""
    try:
        _package()
        _try_out()
    except Exception as error:  # a broken compiler, driver or library raises whatever it likes
        logger.warning(
            "flash-attn-4 is installed but does not work, so attention runs without it (%s: %s); "
            "pip install --force-reinstall 'medimind[hopper]' may mend it",
            type(error).__name__,
            error,
        )
        return False
    return True


def _try_out(device: str = "cuda") -> None:
    """One small forward pass, by the kernel that the 8B takes: what does not fit shows here."""
    q, k, v = (torch.ones(256, n, 128, dtype=torch.bfloat16, device=device) for n in (4, 1, 1))
    offsets = torch.tensor([0, 256], dtype=torch.int32, device=device)
    out_THK, _ = flash4_forward(q, k, v, Segments(offsets, 256, None, (0, 256)))
    if not torch.allclose(out_THK, torch.ones_like(out_THK), atol=0.01):
        raise RuntimeError("its output is wrong")


def flash4_forward(
    q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, segments: Segments
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and fp32 logarithms of the sums of the exponentials.

    Args:
        q_THK: Heads may lie apart, and tokens; likewise all others.
        k_TGK: Keys.
        v_TGK: Values.
        segments: Empty ones at the end are fine.

    Returns:
        The output, contiguous, and the logarithms: ``(H, T)``, but ``(N, H, T / N)`` for ``N``
        segments of one length.
    """
    inputs = _rows(segments, q_THK, k_TGK, v_TGK)
    with _quiet():
        out, lse, *_ = _package()._flash_attn_fwd(
            *inputs, causal=True, return_lse=True, **_offsets(segments, len(q_THK))
        )
    return out.view(q_THK.shape), lse


def flash4_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    lse: torch.Tensor,
    segments: Segments,
    *,
    deterministic: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v.

    Args:
        grad_THK: Gradient of the output.
        q_THK: As in the forward pass.
        k_TGK: As in the forward pass.
        v_TGK: As in the forward pass.
        out_THK: The output.
        lse: The logarithms.
        segments: As in the forward pass.
        deterministic: Sum in a fixed order.
    """
    grad, *inputs = _rows(segments, grad_THK, q_THK, k_TGK, v_TGK, out_THK)
    with _quiet():
        grads = _package()._flash_attn_bwd(
            *inputs,
            grad,
            lse,
            causal=True,
            deterministic=deterministic,
            **_offsets(segments, len(q_THK)),
        )
    q, k, v = (x.view(like.shape) for x, like in zip(grads, (q_THK, k_TGK, v_TGK), strict=True))
    return q, k, v


def _rows(segments: Segments, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """With an axis for segments of one length, which needs no offsets and is a little faster."""
    if segments.equal is None:
        return list(tensors)
    return [x.unflatten(0, (segments.equal, -1)) for x in tensors]


def _offsets(segments: Segments, num_tokens: int) -> dict[str, Any]:
    if segments.equal is not None:
        return {}
    # The longest is all tokens, whatever it is: a kernel is compiled for all of them alike.
    return {
        "cu_seqlens_q": segments.cu_seqlens,
        "cu_seqlens_k": segments.cu_seqlens,
        "max_seqlen_q": num_tokens,
        "max_seqlen_k": num_tokens,
    }
