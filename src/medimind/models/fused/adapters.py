"""All adapters in three flat buffers: fp32 values, fp32 gradients, and a cast for the GEMMs.

```
layer 0                                                                  layer 1 ...
| Aq Ak Av | Bq | Bk | Bv | Ao | Bo | Ag Au | Bg | Bu | Ad | Bd |
```

The A matrices that share an input lie above each other, so that they are one matrix. The decoder's
own parameters become views of the values, so optimizers and checkpoints see no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medimind.kernels.lora_linear.joined import can_stack
from medimind.models.fused.group import Group


class FlatAdapters:
    """Values, gradients and casts of all adapters.

    Args:
        groups: All groups of all layers, in order; their views are set here.
        dtype: Compute dtype.
        device: Where they lie.
    """

    def __init__(
        self, groups: Sequence[Group], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.parameters = _in_order(groups)
        numel = sum(parameter.numel() for parameter in self.parameters)
        self.values = torch.empty(numel, dtype=torch.float32, device=device)
        self.grads = torch.zeros(numel, dtype=torch.float32, device=device)
        self.cast = (
            self.values
            if dtype == torch.float32
            else torch.empty(numel, dtype=dtype, device=device)
        )
        self.grad_views: list[torch.Tensor] = []
        offset = 0
        for parameter in self.parameters:
            here = slice(offset, offset + parameter.numel())
            offset = here.stop
            view = self.values[here].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            self.grad_views.append(self.grads[here].view(parameter.shape))
        self._bind(groups)
        self.refresh()

    def refresh(self) -> None:
        """Cast the values again, after they changed."""
        if self.cast is not self.values:
            self.cast.copy_(self.values)

    def _bind(self, groups: Sequence[Group]) -> None:
        offset = 0

        def take(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal offset
            here = slice(offset, offset + torch.Size(shape).numel())
            offset = here.stop
            return self.cast[here].view(shape), self.grads[here].view(shape)

        for group in groups:
            num_ranks = group.parts[-1].columns.stop if group.parts else 0
            group.a_EI, group.grad_a_EI = take(num_ranks, group.num_inputs)
            start = offset
            pairs = [
                take(part.rows.stop - part.rows.start, part.columns.stop - part.columns.start)
                for part in group.parts
            ]
            group.b = [cast for cast, _ in pairs]
            group.grad_b = [grad for _, grad in pairs]
            if can_stack(group.parts, group.num_outputs):
                shape = (group.num_outputs, -1)
                group.b_OR = self.cast[start:offset].view(shape)
                group.grad_b_OR = self.grads[start:offset].view(shape)


def _in_order(groups: Sequence[Group]) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = []
    for group in groups:
        adapted = group.adapted
        parameters += [p.lora_a for p in adapted if p.lora_a is not None]
        parameters += [p.lora_b for p in adapted if p.lora_b is not None]
    return parameters
