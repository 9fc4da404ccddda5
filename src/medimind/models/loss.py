"""Loss of a packed batch, at target positions only.

Shapes: ``T`` packed tokens, ``N`` targets, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medimind.kernels.cross_entropy import linear_cross_entropy, linear_token_losses
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


def _target_states(decoder: Decoder, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states after the final norm and token ids, both at target positions only."""
    device = decoder.device
    positions = np.flatnonzero(batch.labels_T != IGNORE_INDEX)
    hidden_TD = decoder.hidden_states(
        torch.from_numpy(batch.token_ids_T).to(device),
        torch.from_numpy(batch.position_ids_T).to(device),
        cu_seqlens=batch.cu_seqlens,
        max_seqlen=batch.max_seqlen,
    )
    index_N = torch.from_numpy(positions).to(device)
    targets_N = torch.from_numpy(batch.labels_T[positions]).to(device)
    return decoder.final_norm(hidden_TD.index_select(0, index_N)), targets_N


def batch_loss(decoder: Decoder, batch: PackedBatch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the batch's targets, differentiable.

    Returns:
        float32 scalar. Divide by the targets of the whole optimizer step.
    """
    hidden_ND, targets_N = _target_states(decoder, batch)
    return linear_cross_entropy(hidden_ND, decoder.head_VD, targets_N)


@torch.no_grad()
def token_losses(decoder: Decoder, batch: PackedBatch) -> TokenLosses:
    """Loss of every target, for evaluation; without a gradient."""
    hidden_ND, targets_N = _target_states(decoder, batch)
    losses_N = linear_token_losses(hidden_ND, decoder.head_VD, targets_N)
    is_target_T = batch.labels_T != IGNORE_INDEX
    counted = np.concatenate(([0], np.cumsum(is_target_T)))
    offsets = counted[batch.cu_seqlens[: len(batch.case_ids) + 1]]
    return TokenLosses(losses_N.cpu().numpy(), offsets.astype(np.int64), batch.case_ids)
