"""Loss of a packed batch, at target positions only.

Shapes: ``T`` packed tokens, ``N`` targets, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medimind.kernels.attention.op import segment_bounds
from medimind.kernels.cross_entropy import linear_cross_entropy, linear_token_losses
from medimind.models.cpu_step.step import PackedTensors, can_join, joint_hidden_states, joint_loss
from medimind.models.decoder import Decoder
from medimind.packing.batch import IGNORE_INDEX, PackedBatch


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Negative log-likelihood (nats) of every target of a batch, case after case.

    Attributes:
        losses_N: float32.
        offsets: int64, one more than cases: case ``i`` has ``losses_N[offsets[i]:offsets[i + 1]]``.
        case_ids: The cases.
    """

    losses_N: NDArray[np.float32]
    offsets: NDArray[np.int64]
    case_ids: tuple[str, ...]

    def per_case(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each case with the losses of its targets."""
        for index, case_id in enumerate(self.case_ids):
            yield case_id, self.losses_N[self.offsets[index] : self.offsets[index + 1]]


def packed_tensors(batch: PackedBatch, *, device: torch.device) -> PackedTensors:
    """The batch on the device, with its targets' positions."""
    positions_N = np.flatnonzero(batch.labels_T != IGNORE_INDEX)
    return PackedTensors(
        token_ids_T=torch.from_numpy(batch.token_ids_T).to(device),
        position_ids_T=torch.from_numpy(batch.position_ids_T).to(device),
        bounds=segment_bounds(batch.cu_seqlens.tolist()),
        target_positions_N=torch.from_numpy(positions_N).to(device),
        targets_N=torch.from_numpy(batch.labels_T[positions_N]).to(device),
    )


def _target_states(decoder: Decoder, batch: PackedBatch, tensors: PackedTensors) -> torch.Tensor:
    """Hidden states after the final norm, at target positions only."""
    hidden_TD = decoder.hidden_states(
        tensors.token_ids_T,
        tensors.position_ids_T,
        cu_seqlens=batch.cu_seqlens,
        max_seqlen=batch.max_seqlen,
    )
    return decoder.final_norm(hidden_TD.index_select(0, tensors.target_positions_N))


def batch_loss(decoder: Decoder, batch: PackedBatch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the batch's targets, differentiable.

    Returns:
        float32 scalar. Divide by the targets of the whole optimizer step.
    """
    decoder.check_length(batch.max_seqlen)
    tensors = packed_tensors(batch, device=decoder.device)
    if torch.is_grad_enabled() and decoder.lora is not None and can_join(decoder):
        return joint_loss(decoder, tensors)
    hidden_ND = _target_states(decoder, batch, tensors)
    return linear_cross_entropy(hidden_ND, decoder.head, tensors.targets_N)


@torch.no_grad()
def token_losses(decoder: Decoder, batch: PackedBatch) -> TokenLosses:
    """Loss of every target, for evaluation; without a gradient or dropout."""
    decoder.check_length(batch.max_seqlen)
    tensors = packed_tensors(batch, device=decoder.device)
    if can_join(decoder):
        hidden_ND = decoder.final_norm(joint_hidden_states(decoder, tensors))
    else:
        hidden_ND = _target_states(decoder, batch, tensors)
    losses_N = linear_token_losses(hidden_ND, decoder.head, tensors.targets_N)
    counted = np.concatenate(([0], np.cumsum(batch.labels_T != IGNORE_INDEX)))
    offsets = counted[batch.cu_seqlens[: len(batch.case_ids) + 1]]
    return TokenLosses(losses_N.cpu().numpy(), offsets.astype(np.int64), batch.case_ids)
