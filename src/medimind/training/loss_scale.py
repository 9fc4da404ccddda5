"""Loss scaling for fp16 (Micikevicius et al., 2018), as a value instead of hidden state."""

from __future__ import annotations

from dataclasses import dataclass, replace

GROWTH_INTERVAL = 2000
MAX_SCALE = 2.0**24


@dataclass(frozen=True, slots=True)
class LossScale:
    """What the loss is multiplied by, so that small fp16 gradients do not vanish.

    An overflow halves it and the same rows are tried again: no case is skipped. After
    ``GROWTH_INTERVAL`` steps in a row without one it doubles. Powers of two only, so scaling
    rounds nothing.

    Attributes:
        value: The factor; 1 changes nothing.
        good_steps: Steps since the last change.
        overflows: Attempts of this run whose gradients overflowed.
        dynamic: Whether it adapts; ``False`` for bf16 and fp32.
    """

    value: float = 1.0
    good_steps: int = 0
    overflows: int = 0
    dynamic: bool = False

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may still be the scale's fault."""
        return self.dynamic and self.value > 1.0

    def after_overflow(self) -> LossScale:
        """Half the scale."""
        return replace(self, value=self.value / 2, good_steps=0, overflows=self.overflows + 1)

    def after_step(self) -> LossScale:
        """One more step without an overflow."""
        if not self.dynamic:
            return self
        if self.good_steps + 1 < GROWTH_INTERVAL:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, value=min(self.value * 2, MAX_SCALE), good_steps=0)


def initial_loss_scale(*, is_float16: bool) -> LossScale:
    """2^16 and adapting for fp16, else 1."""
    return LossScale(value=2.0**16, dynamic=True) if is_float16 else LossScale()
