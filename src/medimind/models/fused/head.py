"""The head of a step: losses at the targets and the gradient of the final norm's output.

Its number of rows changes with the targets, so it is no part of a graph.

``T`` tokens, ``N`` targets, ``C`` rows whose logits exist at once, ``D`` model width, ``V``
vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from medimind.kernels.backend import Kernels
from medimind.kernels.int8 import table_gradient, table_product
from medimind.models.decoder import Decoder
from medimind.models.fused.step_buffers import StepBuffers
from medimind.models.fused.transfer import on_card
from medimind.packing.batch import IGNORE_INDEX


class Head:
    """Losses and their gradient, some rows at a time.

    Args:
        decoder: With the head, which may be in 8 bits.
        kernels: Elementwise kernels.
        num_rows: C, at most.
        spare: A buffer that is free between the passes; the logits lie there where it holds any.
    """

    def __init__(
        self, decoder: Decoder, kernels: Kernels, *, num_rows: int, spare: torch.Tensor | None
    ) -> None:
        self.decoder, self.kernels = decoder, kernels
        self.logits_CV = _logits_buffer(
            spare,
            num_rows,
            decoder.architecture.vocab_size,
            dtype=decoder.dtype,
            device=decoder.device,
        )

    def __call__(self, at: StepBuffers, labels_T: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Sum of the losses (fp32 scalar); the gradient goes to ``at.grad_hidden_TD``.

        Args:
            at: With the final norm's output in ``hidden_TD``.
            labels_T: int64; ``IGNORE_INDEX`` where there is no target.
        """
        labels = labels_T if isinstance(labels_T, np.ndarray) else labels_T.cpu().numpy()
        positions = np.flatnonzero(labels != IGNORE_INDEX)
        device, table = self.decoder.device, self.decoder.head
        targets_N = on_card(torch.from_numpy(labels[positions]), device)
        full = len(positions) == len(labels)
        rows_N = None if full else on_card(torch.from_numpy(positions), device)
        if not full:
            at.grad_hidden_TD.zero_()
        for start in range(0, len(positions), len(self.logits_CV)):
            stop = min(start + len(self.logits_CV), len(positions))
            if rows_N is None:
                hidden_CD = at.hidden_TD[start:stop]
            else:
                hidden_CD = at.hidden_TD.index_select(0, rows_N[start:stop])
            logits_CV = self.logits_CV[: stop - start]
            table_product(hidden_CD, table, out=logits_CV)
            self.kernels.cross_entropy_(
                logits_CV, targets_N[start:stop], losses_out=at.losses_T[start:stop]
            )
            if rows_N is None:
                table_gradient(logits_CV, table, out=at.grad_hidden_TD[start:stop])
            else:
                grad_CD = table_gradient(logits_CV, table)
                at.grad_hidden_TD.index_copy_(0, rows_N[start:stop], grad_CD)
        return at.losses_T[: len(positions)].sum()


def _logits_buffer(
    spare: torch.Tensor | None,
    num_rows: int,
    vocab_size: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Room for the logits of some rows, in a spare buffer where it holds any."""
    if spare is None or spare.numel() < vocab_size:
        return torch.empty(num_rows, vocab_size, dtype=dtype, device=device)
    num_rows = min(num_rows, spare.numel() // vocab_size)
    return spare.view(-1)[: num_rows * vocab_size].view(num_rows, vocab_size)
