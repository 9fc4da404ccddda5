"""Forward and backward through all layers and the head as one differentiable function.

Used on CPUs in float32; everything else goes through the modules, operation by operation.
Shapes: ``T`` packed tokens, ``N`` targets, ``D`` model width, ``K`` width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from medimind.kernels.attention.blocked import Bounds, num_probabilities
from medimind.kernels.cross_entropy.op import cross_entropy_with_gradient
from medimind.kernels.embedding import gather_rows
from medimind.kernels.rms_norm.op import rms_norm_backward, rms_norm_forward
from medimind.models.cpu_step.layer import (
    LayerWeights,
    Pass,
    layer_backward,
    layer_forward,
    layer_weights,
)
from medimind.models.decoder import Decoder
from medimind.models.rope import rotary_tables
from medimind.models.workspace import Workspace

# Attention probabilities are kept for the backward up to this much; beyond, they are made again.
PROBABILITY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """A packed batch as tensors.

    Attributes:
        token_ids_T: int64.
        position_ids_T: int64.
        bounds: Start and end of each segment.
        target_positions_N: Positions that predict a target.
        targets_N: The targets.
    """

    token_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    bounds: Bounds
    target_positions_N: torch.Tensor
    targets_N: torch.Tensor


def can_join(decoder: Decoder) -> bool:
    """Whether the layers can run as joint functions: dense float32 on a CPU, no dropout."""
    has_dropout = decoder.training and decoder.lora is not None and decoder.lora.dropout > 0
    return decoder.device.type == "cpu" and decoder.dtype == torch.float32 and not has_dropout


def _pass(decoder: Decoder, batch: PackedTensors, workspace: Workspace, *, keep: bool) -> Pass:
    a = decoder.architecture
    cos_TK, sin_TK = rotary_tables(
        batch.position_ids_T, decoder.inverse_frequency, dtype=decoder.dtype
    )
    half = a.head_dim // 2
    entries = a.num_layers * num_probabilities(
        batch.bounds, groups=a.num_kv_heads, heads_per_group=a.num_heads // a.num_kv_heads
    )
    return Pass(
        architecture=a,
        workspace=workspace,
        cos_T1K=cos_TK[:, None, :half].contiguous(),
        sin_T1K=sin_TK[:, None, :half].contiguous(),
        bounds=batch.bounds,
        keep=keep,
        keep_probabilities=keep and entries * decoder.dtype.itemsize <= PROBABILITY_BYTES,
    )


def _embed(decoder: Decoder, batch: PackedTensors, workspace: Workspace) -> torch.Tensor:
    shape = batch.token_ids_T.shape[0], decoder.architecture.hidden_size
    hidden_TD = workspace.take("embedded", *shape)
    gather_rows(decoder.embedding, batch.token_ids_T, out=hidden_TD)
    return hidden_TD


@torch.no_grad()
def joint_hidden_states(decoder: Decoder, batch: PackedTensors) -> torch.Tensor:
    """Hidden states ``(N, D)`` of the target positions, before the final norm; no gradient."""
    workspace = decoder.borrow_workspace()
    run = _pass(decoder, batch, workspace, keep=False)
    hidden_TD = _embed(decoder, batch, workspace)
    for index, layer in enumerate(decoder.layers):
        hidden_TD = layer_forward(hidden_TD, layer_weights(layer), run, index=index)
    picked_ND = hidden_TD.index_select(0, batch.target_positions_N)
    decoder.return_workspace(workspace)
    return picked_ND


class _JointLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, decoder: Decoder, batch: PackedTensors, *parameters: torch.Tensor
    ) -> torch.Tensor:
        del parameters
        decoder.generation = None  # the copies of the weights that generation made
        workspace = decoder.borrow_workspace()
        run = _pass(decoder, batch, workspace, keep=True)
        states_TD = [_embed(decoder, batch, workspace)]
        weights: list[LayerWeights] = []
        for index, layer in enumerate(decoder.layers):
            weights.append(layer_weights(layer))
            states_TD.append(layer_forward(states_TD[-1], weights[-1], run, index=index))
        last_ND = states_TD[-1].index_select(0, batch.target_positions_N)
        norm_D, eps = decoder.model.norm.weight.data, decoder.architecture.rms_norm_epsilon
        normed_ND, scale_N1 = rms_norm_forward(last_ND, norm_D, eps=eps)
        loss, grad_ND = cross_entropy_with_gradient(normed_ND, decoder.head, batch.targets_N)
        ctx.grad_ND = rms_norm_backward(grad_ND, last_ND, norm_D, scale_N1)
        ctx.decoder, ctx.batch, ctx.run = decoder, batch, run
        ctx.states_TD, ctx.weights = states_TD, weights
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.run is None:
            raise RuntimeError("the loss was differentiated twice; its buffers are gone")
        run, states_TD, batch = ctx.run, ctx.states_TD, ctx.batch
        grad_TD = run.workspace.take("grad_hidden", *states_TD[0].shape).zero_()
        grad_TD.index_copy_(0, batch.target_positions_N, ctx.grad_ND.mul_(grads[0]))
        first = _first_adapted(ctx.weights)
        gradients: list[torch.Tensor] = []
        for index in range(len(ctx.weights) - 1, first - 1, -1):
            layer_gradients = layer_backward(
                grad_TD,
                states_TD[index],
                ctx.weights[index],
                run,
                index=index,
                needs_input_grad=index > first,
            )
            gradients = layer_gradients + gradients
        ctx.decoder.return_workspace(run.workspace)
        ctx.run = ctx.states_TD = ctx.weights = ctx.grad_ND = None
        return None, None, *gradients


def _first_adapted(weights: list[LayerWeights]) -> int:
    """The lowest layer with an adapter; below it nothing needs a gradient."""
    for index, w in enumerate(weights):
        if any(linear.parts for linear in (w.qkv, w.output, w.gate_up, w.down)):
            return index
    return len(weights)


def joint_loss(decoder: Decoder, batch: PackedTensors) -> torch.Tensor:
    """Sum of the targets' negative log-likelihoods, differentiable in the adapters."""
    parameters = [
        matrix
        for _, projection in decoder.projections()
        if projection.has_adapter
        for matrix in (projection.lora_a, projection.lora_b)
    ]
    loss: Any = _JointLoss.apply(decoder, batch, *parameters)
    return loss
