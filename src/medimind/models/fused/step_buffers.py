"""All buffers of a step whose rows are tokens.

``T`` tokens, ``D`` model width, ``K`` head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medimind.models.fused.activations import Activations, Workspace
from medimind.models.fused.offload import Travel


@dataclass(slots=True)
class StepBuffers:
    """All buffers whose rows are tokens.

    Attributes:
        saved: Of each layer.
        work: Shared by the layers.
        travel: What lies in host memory between the passes.
        token_ids_T: int64.
        position_ids_T: int64.
        cos_TK: Cosines of the tokens' positions.
        sin_TK: Sines.
        final_TD: What the final norm takes.
        final_rstd_T: fp32 reciprocal root mean squares of it.
        losses_T: fp32.
    """

    saved: list[Activations]
    work: Workspace
    travel: Travel | None
    token_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    cos_TK: torch.Tensor
    sin_TK: torch.Tensor
    final_TD: torch.Tensor
    final_rstd_T: torch.Tensor
    losses_T: torch.Tensor

    @property
    def hidden_TD(self) -> torch.Tensor:
        """Output of the final norm; between the passes the layers' own buffers are free."""
        return self.work.grad_TD

    @property
    def grad_hidden_TD(self) -> torch.Tensor:
        """Its gradient."""
        return self.work.delta.x_TI

    def rows(self, num_tokens: int) -> StepBuffers:
        """The same buffers for the first tokens only."""
        return StepBuffers(
            saved=[saved.rows(num_tokens) for saved in self.saved],
            work=self.work.rows(num_tokens),
            travel=self.travel and self.travel.rows(num_tokens),
            token_ids_T=self.token_ids_T[:num_tokens],
            position_ids_T=self.position_ids_T[:num_tokens],
            cos_TK=self.cos_TK[:num_tokens],
            sin_TK=self.sin_TK[:num_tokens],
            final_TD=self.final_TD[:num_tokens],
            final_rstd_T=self.final_rstd_T[:num_tokens],
            losses_T=self.losses_T[:num_tokens],
        )
