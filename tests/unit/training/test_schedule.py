from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.training.schedule import learning_rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (5, 60), (5, 5), (9, 4), (1, 1)])
def test_equals_transformers(schedule, warmup, steps):
    from transformers import optimization

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    make = getattr(optimization, f"get_{schedule}_schedule_with_warmup")
    length = {} if schedule == "constant" else {"num_training_steps": steps}
    scheduler = make(optimizer, num_warmup_steps=warmup, **length)
    for step in range(steps):
        rate = learning_rate(
            step, peak=2e-4, schedule=schedule, warmup_steps=warmup, num_steps=steps
        )
        assert rate == scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


@settings(deadline=None)
@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(0, 20),
    st.integers(1, 200),
    st.floats(0, 1),
)
def test_rises_then_falls_to_the_share_of_the_peak(schedule, warmup, steps, share):
    def rate(step):
        return learning_rate(
            step,
            peak=1.0,
            schedule=schedule,
            warmup_steps=warmup,
            num_steps=warmup + steps,
            final_share=share,
        )

    rates = [rate(step) for step in range(warmup + steps + 1)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(share)
