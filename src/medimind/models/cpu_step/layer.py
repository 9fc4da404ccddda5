"""One decoder layer as two pure functions over explicit buffers, the backward by hand.

```
h ─► norm ─► q k v ─► rotary ─► attention ─► o ─► + ─► norm ─► gate up ─► swiglu ─► down ─► +
└────────────────────────────────────────────────┘└──────────────────────────────────────────┘
```

What the backward needs is kept in a `Workspace` under the layer's index; what is cheap to make
again (the normed states, ``swiglu``) is made again. Base weights are frozen: only the adapters and
the layer's input get gradients. Shapes: ``T`` packed tokens, ``D`` model width, ``H`` query heads,
``G`` key/value heads, ``R`` query heads of each, ``Q = T * R``, ``K`` width of a head, ``I`` width
of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medimind.kernels.attention.blocked import (
    Bounds,
    blocked_attention,
    blocked_attention_backward,
    largest_block,
    num_probabilities,
)
from medimind.kernels.rms_norm.op import rms_norm_backward, rms_norm_forward
from medimind.models.architecture import Architecture
from medimind.models.cpu_step.linear import JointLinear, joint_backward, joint_forward, joint_linear
from medimind.models.layer import Layer
from medimind.models.workspace import Workspace


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """All tensors of a layer, as the functions below take them."""

    norm_1_D: torch.Tensor
    norm_2_D: torch.Tensor
    q_norm_K: torch.Tensor | None
    k_norm_K: torch.Tensor | None
    qkv: JointLinear
    output: JointLinear
    gate_up: JointLinear
    down: JointLinear


def layer_weights(layer: Layer) -> LayerWeights:
    """The layer's tensors; neighbouring projections as one."""
    attention, mlp = layer.self_attn, layer.mlp
    qk_norm = layer.architecture.qk_norm
    return LayerWeights(
        norm_1_D=layer.input_layernorm.weight.data,
        norm_2_D=layer.post_attention_layernorm.weight.data,
        q_norm_K=attention.q_norm.weight.data if qk_norm else None,
        k_norm_K=attention.k_norm.weight.data if qk_norm else None,
        qkv=joint_linear(
            (attention.q_proj, attention.k_proj, attention.v_proj), *attention.joined_qkv
        ),
        output=joint_linear((attention.o_proj,), *attention.joined_output),
        gate_up=joint_linear((mlp.gate_proj, mlp.up_proj), *mlp.joined_gate_up),
        down=joint_linear((mlp.down_proj,), *mlp.joined_down),
    )


@dataclass(frozen=True, slots=True)
class Pass:
    """What all layers of one pass share.

    Attributes:
        architecture: Shapes and constants.
        workspace: Where buffers come from.
        cos_T1K: Cosines, ``(T, 1, K / 2)``.
        sin_T1K: Sines.
        bounds: Start and end of each segment.
        keep: Keep what the backward needs, layer by layer; else buffers are shared by all layers.
        keep_probabilities: Keep the attention's probabilities too.
    """

    architecture: Architecture
    workspace: Workspace
    cos_T1K: torch.Tensor
    sin_T1K: torch.Tensor
    bounds: Bounds
    keep: bool
    keep_probabilities: bool

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.cos_T1K.shape[0]


@dataclass(frozen=True, slots=True)
class _Saved:
    """The buffers of one layer; contents survive until its backward when ``keep`` is set."""

    scale_1_T1: torch.Tensor
    scale_2_T1: torch.Tensor
    qkv_TO: torch.Tensor
    q_GQK: torch.Tensor
    out_TD: torch.Tensor
    middle_TD: torch.Tensor
    gate_up_TI2: torch.Tensor
    low_qkv_TR: torch.Tensor
    low_output_TR: torch.Tensor
    low_gate_up_TR: torch.Tensor
    low_down_TR: torch.Tensor
    raw_qk_TO: torch.Tensor | None
    scale_q_TH1: torch.Tensor | None
    scale_k_TG1: torch.Tensor | None


def _buffers(w: LayerWeights, p: Pass, index: int) -> _Saved:
    a, t = p.architecture, p.num_tokens
    slot = index if p.keep else 0

    def take(name: str, *shape: int) -> torch.Tensor:
        return p.workspace.take(name, *shape, index=slot)

    q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    per = a.num_heads // a.num_kv_heads
    return _Saved(
        scale_1_T1=take("scale_1", t, 1),
        scale_2_T1=take("scale_2", t, 1),
        qkv_TO=take("qkv", t, q + 2 * kv),
        q_GQK=take("q", a.num_kv_heads, t * per, a.head_dim),
        out_TD=take("out", t, q),
        middle_TD=take("middle", t, a.hidden_size),
        gate_up_TI2=take("gate_up", t, 2 * a.intermediate_size),
        low_qkv_TR=take("low_qkv", t, w.qkv.num_ranks),
        low_output_TR=take("low_output", t, w.output.num_ranks),
        low_gate_up_TR=take("low_gate_up", t, w.gate_up.num_ranks),
        low_down_TR=take("low_down", t, w.down.num_ranks),
        raw_qk_TO=take("raw_qk", t, q + kv) if a.qk_norm else None,
        scale_q_TH1=take("scale_q", t, a.num_heads, 1) if a.qk_norm else None,
        scale_k_TG1=take("scale_k", t, a.num_kv_heads, 1) if a.qk_norm else None,
    )


def _heads(x_TO: torch.Tensor, a: Architecture) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views ``(T, G, R, K)``, ``(T, G, K)``, ``(T, G, K)`` of joint q, k, v columns."""
    t, groups, width = x_TO.shape[0], a.num_kv_heads, a.head_dim
    q, kv = a.num_heads * width, groups * width
    per = a.num_heads // groups
    return (
        x_TO[:, :q].view(t, groups, per, width),
        x_TO[:, q : q + kv].view(t, groups, width),
        x_TO[:, q + kv :].view(t, groups, width),
    )


def _token_major(x_GQK: torch.Tensor, per: int) -> torch.Tensor:
    """View ``(T, G, R, K)`` of group-major rows."""
    groups, rows, width = x_GQK.shape
    return x_GQK.view(groups, rows // per, per, width).transpose(0, 1)


def _turn(
    x: torch.Tensor, out: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, sign: float
) -> None:
    """Rotate pairs of channels by the angle times ``sign`` from ``x`` to another tensor."""
    half = x.shape[-1] // 2
    torch.mul(x[..., :half], cos, out=out[..., :half])
    out[..., :half].addcmul_(x[..., half:], sin, value=-sign)
    torch.mul(x[..., half:], cos, out=out[..., half:])
    out[..., half:].addcmul_(x[..., :half], sin, value=sign)


def _turn_in_place(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, sign: float) -> None:
    """Rotate in place; keys are small enough for a copy."""
    _turn(x.clone(), x, cos, sin, sign=sign)


def _norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    scale_T1: torch.Tensor,
    out_TD: torch.Tensor,
) -> None:
    """Write the normed states and the reciprocal roots."""
    torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True, out=scale_T1)
    scale_T1.square_().mul_(1.0 / x_TD.shape[-1]).add_(eps).rsqrt_()
    torch.mul(x_TD, scale_T1, out=out_TD).mul_(weight_D)


def _add_norm_backward(
    grad_TD: torch.Tensor,
    grad_normed_TD: torch.Tensor,
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    scale_T1: torch.Tensor,
    *,
    spare_TD: torch.Tensor,
) -> None:
    """Add the gradient through a norm; ``grad_normed_TD`` and ``spare_TD`` are used up."""
    weighted_TD = grad_normed_TD.mul_(weight_D)
    dot_T1 = torch.mul(weighted_TD, x_TD, out=spare_TD).sum(dim=1, keepdim=True)
    factor_T1 = dot_T1.mul_(scale_T1.pow(3)).mul_(-1.0 / x_TD.shape[1])
    grad_TD.addcmul_(weighted_TD, scale_T1).addcmul_(x_TD, factor_T1)


def layer_forward(hidden_TD: torch.Tensor, w: LayerWeights, p: Pass, *, index: int) -> torch.Tensor:
    """Hidden states after the layer, in a buffer of their own; ``hidden_TD`` is left as it is."""
    a, t, eps = p.architecture, p.num_tokens, p.architecture.rms_norm_epsilon
    saved = _buffers(w, p, index)
    normed_TD = p.workspace.take("normed", t, a.hidden_size)
    _norm(hidden_TD, w.norm_1_D, eps=eps, scale_T1=saved.scale_1_T1, out_TD=normed_TD)
    joint_forward(normed_TD, w.qkv, out_TO=saved.qkv_TO, low_TR=saved.low_qkv_TR)
    _attend(saved, w, p, index)
    joint_forward(saved.out_TD, w.output, out_TO=saved.middle_TD, low_TR=saved.low_output_TR)
    saved.middle_TD.add_(hidden_TD)
    _norm(saved.middle_TD, w.norm_2_D, eps=eps, scale_T1=saved.scale_2_T1, out_TD=normed_TD)
    joint_forward(normed_TD, w.gate_up, out_TO=saved.gate_up_TI2, low_TR=saved.low_gate_up_TR)
    active_TI = p.workspace.take("active", t, a.intermediate_size)
    gate_TI, up_TI = saved.gate_up_TI2.chunk(2, dim=1)
    torch.ops.aten.silu.out(gate_TI, out=active_TI)
    active_TI.mul_(up_TI)
    slot = index + 1 if p.keep else index % 2
    next_TD = p.workspace.take("hidden", t, a.hidden_size, index=slot)
    joint_forward(active_TI, w.down, out_TO=next_TD, low_TR=saved.low_down_TR)
    return next_TD.add_(saved.middle_TD)


def _attend(saved: _Saved, w: LayerWeights, p: Pass, index: int) -> None:
    """From the joint q, k, v to the attention's output."""
    a = p.architecture
    per = a.num_heads // a.num_kv_heads
    q_TGRK, k_TGK, v_TGK = _heads(saved.qkv_TO, a)
    if saved.raw_qk_TO is not None:
        saved.raw_qk_TO.copy_(saved.qkv_TO[:, : saved.raw_qk_TO.shape[1]])
        _normalise_heads(saved, w, a)
    cos, sin = p.cos_T1K, p.sin_T1K
    scale = a.head_dim**-0.5
    q_out_TGRK = _token_major(saved.q_GQK, per)
    _turn(q_TGRK, q_out_TGRK, (cos * scale)[:, None], (sin * scale)[:, None], sign=1.0)
    _turn_in_place(k_TGK, cos, sin, sign=1.0)
    out_GQK = p.workspace.take("out_groups", *saved.q_GQK.shape)
    blocked_attention(
        saved.q_GQK,
        k_TGK,
        v_TGK,
        bounds=p.bounds,
        out_GQK=out_GQK,
        scratch=_probabilities(p, index),
        keep=p.keep_probabilities,
    )
    saved.out_TD.view(q_TGRK.shape).copy_(_token_major(out_GQK, per))


def _probabilities(p: Pass, index: int) -> torch.Tensor:
    a = p.architecture
    per = a.num_heads // a.num_kv_heads
    if p.keep_probabilities:
        size = num_probabilities(p.bounds, groups=a.num_kv_heads, heads_per_group=per)
        return p.workspace.take("probabilities", size, index=index)
    return p.workspace.take(
        "scores", largest_block(p.bounds, groups=a.num_kv_heads, heads_per_group=per)
    )


def _normalise_heads(saved: _Saved, w: LayerWeights, a: Architecture) -> None:
    """Norm of each head's query and key, in place."""
    q_TGRK, k_TGK, _ = _heads(saved.qkv_TO, a)
    q_THK = q_TGRK.view(-1, a.num_heads, a.head_dim)
    for x, weight, scale in (
        (q_THK, w.q_norm_K, saved.scale_q_TH1),
        (k_TGK, w.k_norm_K, saved.scale_k_TG1),
    ):
        if weight is not None and scale is not None:
            normed, root = rms_norm_forward(x, weight, eps=a.rms_norm_epsilon)
            x.copy_(normed)
            scale.copy_(root)


def layer_backward(
    grad_TD: torch.Tensor,
    hidden_TD: torch.Tensor,
    w: LayerWeights,
    p: Pass,
    *,
    index: int,
    needs_input_grad: bool,
) -> list[torch.Tensor]:
    """Gradients of the adapters, in the order of the projections, A before B.

    Args:
        grad_TD: Gradient of the layer's output; becomes that of its input, in place.
        hidden_TD: The layer's input.
        w: The layer's tensors.
        p: The pass whose forward this follows.
        index: The layer.
        needs_input_grad: False below the first adapter: then ``grad_TD`` ends meaningless.
    """
    saved = _buffers(w, p, index)
    mlp_grads = _mlp_backward(grad_TD, saved, w, p)
    attention_grads = _attention_backward(
        grad_TD, hidden_TD, saved, w, p, index=index, needs_input_grad=needs_input_grad
    )
    return attention_grads + mlp_grads


def _mlp_backward(
    grad_TD: torch.Tensor, saved: _Saved, w: LayerWeights, p: Pass
) -> list[torch.Tensor]:
    a, t = p.architecture, p.num_tokens
    gate_TI, up_TI = saved.gate_up_TI2.chunk(2, dim=1)
    silu_TI = p.workspace.take("silu", t, a.intermediate_size)
    active_TI = p.workspace.take("active", t, a.intermediate_size)
    grad_active_TI = p.workspace.take("grad_active", t, a.intermediate_size)
    torch.ops.aten.silu.out(gate_TI, out=silu_TI)
    torch.mul(silu_TI, up_TI, out=active_TI)
    down = joint_backward(grad_TD, active_TI, saved.low_down_TR, w.down, grad_x_TD=grad_active_TI)
    # What gate and up were becomes their gradient: nothing else needs them any more.
    torch.mul(grad_active_TI, up_TI, out=active_TI)
    torch.mul(grad_active_TI, silu_TI, out=up_TI)
    torch.ops.aten.silu_backward.grad_input(active_TI, gate_TI, grad_input=gate_TI)
    normed_TD = p.workspace.take("normed", t, a.hidden_size)
    torch.mul(saved.middle_TD, saved.scale_2_T1, out=normed_TD).mul_(w.norm_2_D)
    grad_normed_TD = p.workspace.take("grad_normed", t, a.hidden_size)
    gate_up = joint_backward(
        saved.gate_up_TI2, normed_TD, saved.low_gate_up_TR, w.gate_up, grad_x_TD=grad_normed_TD
    )
    _add_norm_backward(
        grad_TD, grad_normed_TD, saved.middle_TD, w.norm_2_D, saved.scale_2_T1, spare_TD=normed_TD
    )
    return gate_up + down


def _attention_backward(
    grad_TD: torch.Tensor,
    hidden_TD: torch.Tensor,
    saved: _Saved,
    w: LayerWeights,
    p: Pass,
    *,
    index: int,
    needs_input_grad: bool,
) -> list[torch.Tensor]:
    a, t = p.architecture, p.num_tokens
    per = a.num_heads // a.num_kv_heads
    grad_out_TD = p.workspace.take("grad_out", *saved.out_TD.shape)
    output = joint_backward(
        grad_TD, saved.out_TD, saved.low_output_TR, w.output, grad_x_TD=grad_out_TD
    )
    grad_out_GQK = p.workspace.take("out_groups", *saved.q_GQK.shape)
    _token_major(grad_out_GQK, per).copy_(grad_out_TD.view(t, a.num_kv_heads, per, a.head_dim))
    grad_qkv_TO = p.workspace.take("grad_qkv", *saved.qkv_TO.shape)
    grad_q_TGRK, grad_k_TGK, grad_v_TGK = _heads(grad_qkv_TO, a)
    grad_q_GQK = p.workspace.take("grad_q", *saved.q_GQK.shape)
    _, k_TGK, v_TGK = _heads(saved.qkv_TO, a)
    block = largest_block(p.bounds, groups=a.num_kv_heads, heads_per_group=per)
    blocked_attention_backward(
        grad_out_GQK,
        saved.q_GQK,
        k_TGK,
        v_TGK,
        bounds=p.bounds,
        grad_q_GQK=grad_q_GQK,
        grad_k_TGK=grad_k_TGK,
        grad_v_TGK=grad_v_TGK,
        scratch=_probabilities(p, index),
        scratch_grad=p.workspace.take("grad_scores", block),
        kept=p.keep_probabilities,
    )
    cos, sin, scale = p.cos_T1K, p.sin_T1K, a.head_dim**-0.5
    back_cos, back_sin = (cos * scale)[:, None], (sin * scale)[:, None]
    _turn(_token_major(grad_q_GQK, per), grad_q_TGRK, back_cos, back_sin, sign=-1.0)
    _turn_in_place(grad_k_TGK, cos, sin, sign=-1.0)
    if saved.raw_qk_TO is not None:
        _normalise_heads_backward(grad_qkv_TO, saved, w, a)
    normed_TD = p.workspace.take("normed", t, a.hidden_size)
    torch.mul(hidden_TD, saved.scale_1_T1, out=normed_TD).mul_(w.norm_1_D)
    grad_normed_TD = p.workspace.take("grad_normed", t, a.hidden_size)
    qkv = joint_backward(
        grad_qkv_TO,
        normed_TD,
        saved.low_qkv_TR,
        w.qkv,
        grad_x_TD=grad_normed_TD if needs_input_grad else None,
    )
    if needs_input_grad:
        _add_norm_backward(
            grad_TD, grad_normed_TD, hidden_TD, w.norm_1_D, saved.scale_1_T1, spare_TD=normed_TD
        )
    return qkv + output


def _normalise_heads_backward(
    grad_qkv_TO: torch.Tensor, saved: _Saved, w: LayerWeights, a: Architecture
) -> None:
    """Through the norms of the heads, in place."""
    if saved.raw_qk_TO is None:
        return
    grad_q_TGRK, grad_k_TGK, _ = _heads(grad_qkv_TO, a)
    q = a.num_heads * a.head_dim
    raw_q = saved.raw_qk_TO[:, :q].view(-1, a.num_heads, a.head_dim)
    raw_k = saved.raw_qk_TO[:, q:].view(-1, a.num_kv_heads, a.head_dim)
    for grad, raw, weight, scale in (
        (grad_q_TGRK.view(raw_q.shape), raw_q, w.q_norm_K, saved.scale_q_TH1),
        (grad_k_TGK, raw_k, w.k_norm_K, saved.scale_k_TG1),
    ):
        if weight is not None and scale is not None:
            grad.copy_(rms_norm_backward(grad, raw, weight, scale))
