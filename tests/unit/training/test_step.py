from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_model, make_prompts

from medimind.errors import NonFiniteError, TrainingError
from medimind.models.lora import lora_parameters, seed_dropout
from medimind.models.loss import batch_loss
from medimind.packing.pack import pack
from medimind.training.loss_scale import GROWTH_INTERVAL, LossScale, initial_loss_scale
from medimind.training.step import dropout_seed, mean_loss, take_step


class Watched(torch.optim.AdamW):
    """AdamW that remembers the gradients it was given."""

    def step(self, closure=None):
        self.seen = [p.grad.clone() for p in self.param_groups[0]["params"]]
        return super().step(closure)


def wake(model):
    """Give the adapter's B values, so that A gets gradients too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in lora_parameters(model.decoder).items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def step_once(model, batches, *, loss_sum=None, **options):
    parameters = list(lora_parameters(model.decoder).values())
    optimizer = Watched(parameters, lr=0.0)

    def own_loss(batch, seed):
        seed_dropout(model.decoder, seed)
        return batch_loss(model.decoder, batch)

    values = {
        "step": 1,
        "seed": 7,
        "learning_rate": 1e-2,
        "max_gradient_norm": None,
        "loss_scale": LossScale(),
    }
    result = take_step(
        batches,
        loss_sum=loss_sum or own_loss,
        parameters=parameters,
        optimizer=optimizer,
        **(values | options),
    )
    return result, optimizer


def snapshot(model):
    return [p.detach().clone() for p in lora_parameters(model.decoder).values()]


def changed(model, before):
    return any(not torch.equal(a, b) for a, b in zip(snapshot(model), before))


WHOLE = pack(make_prompts(8), tokens_per_batch=1000)


@settings(deadline=None, max_examples=12)
@given(st.integers(24, 200))
def test_loss_and_gradient_do_not_depend_on_micro_batches(tokens_per_batch):
    expected, reference = step_once(wake(make_model()), WHOLE)
    batches = pack(make_prompts(8), tokens_per_batch=tokens_per_batch)
    result, optimizer = step_once(wake(make_model()), batches)
    assert result.num_micro_batches == len(batches)
    assert result.num_targets == expected.num_targets
    assert result.num_tokens == expected.num_tokens
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    for gradient, other in zip(optimizer.seen, reference.seen, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


def test_loss_is_the_mean_over_target_tokens():
    model = make_model()
    batches = pack(make_prompts(8), tokens_per_batch=40)
    with torch.no_grad():
        total = sum(float(batch_loss(model.decoder, batch)) for batch in batches)
    result, _ = step_once(model, batches)
    assert result.loss == pytest.approx(total / sum(batch.num_targets for batch in batches))


def test_clipping_bounds_the_gradient_and_logs_the_norm_before():
    free, _ = step_once(wake(make_model()), WHOLE)
    result, optimizer = step_once(
        wake(make_model()), WHOLE, max_gradient_norm=free.gradient_norm / 4
    )
    norm = math.sqrt(sum(float(g.square().sum()) for g in optimizer.seen))
    assert result.gradient_norm == free.gradient_norm
    assert norm == pytest.approx(free.gradient_norm / 4, rel=1e-4)


def test_a_smaller_gradient_is_left_alone():
    _, reference = step_once(wake(make_model()), WHOLE)
    _, optimizer = step_once(wake(make_model()), WHOLE, max_gradient_norm=1e6)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.seen, reference.seen))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_names_step_micro_batch_and_cases(value):
    model = make_model()
    batches = pack(make_prompts(8), tokens_per_batch=40)
    before = snapshot(model)

    def loss_sum(batch, seed):
        loss = batch_loss(model.decoder, batch)
        return loss * value if batch is batches[1] else loss

    with pytest.raises(NonFiniteError) as caught:
        step_once(model, batches, loss_sum=loss_sum, step=12)
    text = str(caught.value)
    assert f"step 12, micro-batch 2 of {len(batches)}" in text
    assert all(case_id in text for case_id in batches[1].case_ids)
    assert all(case_id not in text for case_id in batches[0].case_ids)
    assert not changed(model, before)


def poisoned(model, culprit):
    """A loss whose value is finite and whose gradient is not, for one micro-batch."""

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            return grads[0] * math.inf

    def loss_sum(batch, seed):
        loss = batch_loss(model.decoder, batch)
        return Poison.apply(loss) if batch is culprit else loss

    return loss_sum


def test_non_finite_gradient_names_its_micro_batch():
    model = make_model()
    batches = pack(make_prompts(8), tokens_per_batch=40)
    before = snapshot(model)
    with pytest.raises(NonFiniteError, match=rf"step 1, micro-batch 3 of {len(batches)}") as caught:
        step_once(model, batches, loss_sum=poisoned(model, batches[2]))
    assert batches[2].case_ids[0] in str(caught.value)
    assert not changed(model, before)


def test_gradients_that_overflow_only_together_name_all_cases():
    model = make_model()
    batches = pack(make_prompts(8), tokens_per_batch=40)

    class Huge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a.sum() * 0

        @staticmethod
        def backward(ctx, *grads):
            return torch.full(shape, 1e18)

    parameter = next(iter(lora_parameters(model.decoder).values()))
    shape = parameter.shape
    with pytest.raises(NonFiniteError, match="added up"):
        step_once(model, batches, loss_sum=lambda batch, seed: Huge.apply(parameter))


def test_overflowing_fp16_gradient_is_tried_again_with_a_smaller_scale():
    model = make_model()
    before = snapshot(model)
    attempts = []

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            attempts.append(float(grads[0]))
            return grads[0] * (math.inf if len(attempts) < 4 else 1.0)

    scale = initial_loss_scale(is_float16=True)
    result, optimizer = step_once(
        model,
        WHOLE,
        loss_sum=lambda batch, seed: Overflow.apply(batch_loss(model.decoder, batch)),
        loss_scale=scale,
    )
    reference, plain = step_once(make_model(), WHOLE)
    assert result.loss_scale == LossScale(2.0**13, good_steps=1, overflows=3, dynamic=True)
    assert attempts[0] / attempts[-1] == 8
    assert result.gradient_norm == reference.gradient_norm
    assert all(torch.equal(a, b) for a, b in zip(optimizer.seen, plain.seen))
    assert changed(model, before)


def test_fp16_gradient_that_overflows_at_any_scale_is_an_error():
    model = make_model()
    with pytest.raises(NonFiniteError, match="micro-batch 1 of 1"):
        step_once(
            model, WHOLE, loss_sum=poisoned(model, WHOLE[0]), loss_scale=LossScale(4, dynamic=True)
        )


def test_fp16_model_trains():
    model = make_model(dtype=torch.float16)
    result, _ = step_once(model, WHOLE, loss_scale=initial_loss_scale(is_float16=True))
    expected, _ = step_once(make_model(), WHOLE)
    assert result.loss == pytest.approx(expected.loss, rel=1e-2)
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=5e-2)


def test_loss_scale_grows_after_many_good_steps_up_to_a_limit():
    scale = LossScale(2.0**23, good_steps=GROWTH_INTERVAL - 1, dynamic=True).after_step()
    assert (scale.value, scale.good_steps) == (2.0**24, 0)
    assert LossScale(2.0**24, good_steps=GROWTH_INTERVAL - 1, dynamic=True).after_step().value == (
        2.0**24
    )
    assert LossScale().after_step() == LossScale()


def test_step_without_targets_is_an_error():
    prompts = make_prompts(3)
    for prompt in prompts:
        prompt.is_target_S[:] = False
    with pytest.raises(TrainingError, match=r"case-0.*no token of this step is a target") as caught:
        step_once(make_model(), pack(prompts, tokens_per_batch=100))
    assert "step 1" in str(caught.value)


def test_micro_batch_without_targets_is_left_out():
    prompts = make_prompts(8)
    batches = pack(prompts, tokens_per_batch=40)
    silent = make_prompts(2, seed=9)
    for prompt in silent:
        prompt.is_target_S[:] = False
    result, _ = step_once(make_model(), [*pack(silent, tokens_per_batch=100), *batches])
    expected, _ = step_once(make_model(), batches)
    assert result == expected


@pytest.mark.parametrize("scale", [0.0, -0.0])
def test_zero_gradient_is_an_error(scale):
    model = make_model()
    before = snapshot(model)
    with pytest.raises(TrainingError, match=r"step 1, cases case-0.*gradient.*zero"):
        step_once(
            model, WHOLE, loss_sum=lambda batch, seed: batch_loss(model.decoder, batch) * scale
        )
    assert not changed(model, before)


def test_disabled_adapter_is_an_error():
    model = make_model()
    parameters = list(lora_parameters(model.decoder).values())
    with pytest.raises(TrainingError, match="zero"):
        step_once(
            model,
            WHOLE,
            loss_sum=lambda batch, seed: (
                (batch_loss(model.decoder, batch) + sum(p.sum() * 0 for p in parameters)).detach()
                + sum(p.sum() * 0 for p in parameters)
            ),
        )


def test_held_out_loss_is_the_same_for_any_packing_and_keeps_no_graph():
    model = make_model()
    values = []
    for tokens_per_batch in (24, 60, 1000):
        batches = pack(make_prompts(8), tokens_per_batch=tokens_per_batch)

        def loss_sum(batch, seed):
            loss = batch_loss(model.decoder, batch)
            assert not loss.requires_grad
            return loss

        values.append(mean_loss(batches, loss_sum=loss_sum, step=4))
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_held_out_loss_must_be_finite():
    with pytest.raises(NonFiniteError, match="held-out loss after step 4, micro-batch 1"):
        mean_loss(WHOLE, loss_sum=lambda batch, seed: torch.tensor(math.nan), step=4)


def test_dropout_seeds_differ_and_repeat():
    seeds = {dropout_seed(3407, step, index) for step in range(50) for index in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert dropout_seed(1, 2, 3) == dropout_seed(1, 2, 3)
    assert np.ptp([seed / 2**62 for seed in seeds]) > 0.9
