"""The hand-written step against autograd over the plain decoder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medimind.errors import TrainingError
from medimind.kernels.attention.footprint import Card
from medimind.kernels.availability import has_flash4
from medimind.kernels.int8 import quantize_int8
from medimind.kernels.lora_linear.joined import split_input
from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import FusedStep, StepPlan, training_loss
from medimind.models.fused import loss as loss_module
from medimind.models.fused.fp8 import Fp8Products
from medimind.models.fused.fp8_weights import why_no_fp8
from medimind.models.fused.group import fuse_layer
from medimind.models.fused.loss import FusedLoss
from medimind.models.fused.plan import exact_products
from medimind.models.fused.step import why_unsupported
from medimind.models.lora import attach_lora, lora_parameters
from medimind.models.loss import batch_loss
from medimind.packing.batch import IGNORE_INDEX, PackedBatch

PLAIN = Architecture(
    family="llama",
    vocab_size=97,
    hidden_size=64,
    intermediate_size=128,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
)


def _decoder(
    architecture=PLAIN, *, nf4=False, device="cpu", dtype=torch.float32, as_in=None, **lora
):
    torch.manual_seed(0)
    decoder = Decoder(architecture, dtype=dtype, device=device)
    for parameter in decoder.parameters():
        values = torch.randn(parameter.shape) * (0.5 if parameter.dim() == 1 else 0.1)
        parameter.data.copy_((values + (parameter.dim() == 1)).to(as_in or dtype))
    if nf4:
        decoder.quantize_nf4()
    attach_lora(decoder, **({"rank": 4, "alpha": 6, "seed": 1} | lora))
    for parameter in lora_parameters(decoder).values():
        parameter.data.add_(torch.randn(parameter.shape).to(device) * 0.1)
    return decoder


def _larger(**changes):
    fields = {name: getattr(PLAIN, name) for name in PLAIN.__slots__}
    return Architecture(**(fields | changes))


def _batch(lengths, *, vocab=97, seed=0, share=0.6):
    generator = np.random.default_rng(seed)
    total = sum(lengths)
    labels = np.where(
        generator.random(total) < share, generator.integers(0, vocab, total), IGNORE_INDEX
    ).astype(np.int64)
    labels[0] = 3
    return PackedBatch(
        token_ids_T=generator.integers(0, vocab, total),
        labels_T=labels,
        position_ids_T=np.concatenate([np.arange(n) for n in lengths]),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        max_seqlen=max(lengths),
        num_targets=int((labels != IGNORE_INDEX).sum()),
        case_ids=tuple(f"c{i}" for i in range(len(lengths))),
    )


def _compare(decoder, step, batch, *, tolerance):
    parameters = lora_parameters(decoder)
    expected = batch_loss(decoder, batch)
    expected_grads = torch.autograd.grad(expected, list(parameters.values()))
    step.zero_gradients()
    loss = step.run_batch(batch)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=tolerance)
    by_parameter = dict(zip(map(id, step.adapters.parameters), step.adapters.grad_views))
    for name, (parameter, grad) in zip(
        parameters, zip(parameters.values(), expected_grads, strict=True), strict=True
    ):
        found = by_parameter[id(parameter)]
        error = (found - grad).norm() / grad.norm().clamp(min=1e-20)
        assert error < tolerance, (name, float(error))


PLANS = [
    StepPlan(keep="everything", resident=True, head_chunk=7),
    StepPlan(keep="everything", resident=False, head_chunk=16),
    StepPlan(keep="cheap", resident=True, head_chunk=16),
    StepPlan(keep="inputs", resident=True, head_chunk=16),
    StepPlan(keep="inputs", resident=False, head_chunk=16, offload=True, host_embedding=True),
    StepPlan(keep="inputs", resident=False, head_chunk=16, offload=True, mlp_chunk=8),
    StepPlan(keep="inputs", resident=True, head_chunk=16, mlp_chunk=13),
    StepPlan(keep="inputs", resident=False, head_chunk=16, offload=True, offload_projections=True),
    StepPlan(keep="inputs", head_chunk=16, offload=True, offload_projections=True, mlp_chunk=8),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_same_loss_and_gradients(plan):
    decoder = _decoder(_larger(num_layers=5))
    step = FusedStep(decoder, num_tokens=30, plan=plan)
    for seed, lengths in enumerate([(30,), (11, 19), (10, 10, 10), (5, 3, 9)]):
        _compare(decoder, step, _batch(lengths, seed=seed), tolerance=1e-4)


@pytest.mark.parametrize("tied_head", [False, True])
def test_tables_in_8_bits(tied_head):
    decoder = _decoder(_larger(tied_head=tied_head))
    for _, table in decoder.tables():
        table.hold(quantize_int8(table.weight.data))
    plan = StepPlan(keep="inputs", resident=False, head_chunk=16, offload=True)
    step = FusedStep(decoder, num_tokens=20, plan=plan)
    for lengths in ((9, 11), (20,)):
        _compare(decoder, step, _batch(lengths), tolerance=1e-4)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj", "up_proj")])
@pytest.mark.parametrize("changes", [{"mlp_bias": True, "qkv_bias": True}, {"tied_head": True}])
def test_the_mlp_in_parts_with_biases_and_without_adapters(changes, targets):
    decoder = _decoder(_larger(**changes), targets=targets)
    plan = StepPlan(keep="inputs", resident=False, mlp_chunk=6)
    step = FusedStep(decoder, num_tokens=20, plan=plan)
    for lengths in ((9, 11), (3, 4), (20,)):
        _compare(decoder, step, _batch(lengths), tolerance=1e-4)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_loss_without_gradients_leaves_them_alone(plan):
    decoder = _decoder(_larger(num_layers=5))
    step = FusedStep(decoder, num_tokens=30, plan=plan)
    batches = [_batch((11, 19)), _batch((5, 3, 9), seed=1), _batch((30,), seed=2)]
    for batch in batches:
        expected = float(batch_loss(decoder, batch).detach())
        assert float(step.run_batch(batch, backward=False)) == pytest.approx(expected, rel=1e-5)
        assert not step.adapters.grads.any()
        _compare(decoder, step, batch, tolerance=1e-4)
        step.zero_gradients()


def test_every_token_a_target():
    decoder = _decoder()
    step = FusedStep(decoder, num_tokens=16, plan=StepPlan(head_chunk=5))
    _compare(decoder, step, _batch((16,), share=1.1), tolerance=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen2", "qkv_bias": True},
        {"tied_head": True},
        {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
        {"num_kv_heads": 4},
    ],
)
def test_families(changes):
    decoder = _decoder(_larger(**changes))
    step = FusedStep(decoder, num_tokens=20)
    _compare(decoder, step, _batch((9, 11)), tolerance=1e-4)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("o_proj", "up_proj")])
def test_some_projections_without_adapter(targets):
    decoder = _decoder(targets=targets, rslora=True)
    step = FusedStep(decoder, num_tokens=20, plan=StepPlan(resident=False))
    _compare(decoder, step, _batch((9, 11)), tolerance=1e-4)


def test_gradients_add_up_and_changes_are_taken_over():
    decoder = _decoder(nf4=True)
    step = FusedStep(decoder, num_tokens=20)
    batch = _batch((9, 11))
    step.run_batch(batch)
    once = step.adapters.grads.clone()
    step.run_batch(batch)
    assert torch.allclose(step.adapters.grads, 2 * once, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        for parameter in lora_parameters(decoder).values():
            parameter.mul_(1.5)
    step.refresh()
    _compare(decoder, step, batch, tolerance=1e-4)


def test_stands_in_for_the_loss_in_training():
    """Two micro-batches of a step, scaled, twice: gradients as autograd's."""
    decoder = _decoder()
    fused = FusedLoss(decoder, num_tokens=20, plan=StepPlan(keep="cheap"))
    parameters = list(lora_parameters(decoder).values())
    batches = [_batch((9, 11)), _batch((7, 6), seed=1)]
    for factor in (0.5, 0.25):
        expected = sum(batch_loss(decoder, batch) for batch in batches) * factor
        expected_grads = torch.autograd.grad(expected, parameters)
        losses = [fused(batch) for batch in batches]
        for parameter in parameters:
            parameter.grad = None
        for batch in batches:
            (fused(batch) * factor).backward()
        assert float(sum(losses).detach()) * factor == pytest.approx(float(expected.detach()))
        for parameter, grad in zip(parameters, expected_grads, strict=True):
            assert torch.allclose(parameter.grad, grad, rtol=1e-3, atol=1e-6)
        with torch.no_grad():
            assert float(fused(batches[0])) == pytest.approx(float(losses[0].detach()), rel=1e-5)
            for parameter in parameters:
                parameter.mul_(1.1)


def test_a_loss_whose_gradients_are_gone_says_so():
    fused = FusedLoss(_decoder(), num_tokens=20, plan=StepPlan())
    first, second = fused(_batch((9, 11))), fused(_batch((7, 6)))
    second.backward()
    with pytest.raises(RuntimeError, match="another batch's by now"):
        first.backward()


def test_a_batch_that_failed_halfway_leaves_the_next_one_right(monkeypatch):
    step = FusedStep(_decoder(), num_tokens=20, plan=StepPlan())
    step.run_batch(_batch((9, 11)))
    batch = _batch((4, 16), seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("medimind.models.fused.step.choose_backend", lambda *args, **rule: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            step.run_batch(batch)
    _compare(step.decoder, step, batch, tolerance=1e-4)


FP8_PLANS = [StepPlan(fp8=True, head_chunk=16), StepPlan(fp8=True, keep="inputs", head_chunk=16)]


def _compare_fp8(exact, decoder, plan, *, lengths=((16, 16), (9, 23), (32,))):
    """Loss within a percent; all gradients together point the same way."""
    step = FusedStep(decoder, num_tokens=32, plan=plan)
    order = [id(parameter) for parameter in step.adapters.parameters]
    for seed, one in enumerate([*lengths, *lengths]):
        batch = _batch(one, seed=seed)
        expected = batch_loss(exact, batch)
        grads = torch.autograd.grad(expected, list(lora_parameters(exact).values()))
        step.zero_gradients()
        loss = step.run_batch(batch)
        assert float(loss) == pytest.approx(float(expected.detach()), rel=0.02)
        names = lora_parameters(decoder).values()
        found = torch.cat([step.adapters.grad_views[order.index(id(p))].flatten() for p in names])
        wanted = torch.cat([grad.flatten() for grad in grads])
        assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.97
        assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("plan", FP8_PLANS, ids=str)
@pytest.mark.parametrize("changes", [{}, {"family": "qwen2", "qkv_bias": True}])
def test_fp8_stays_near(plan, changes):
    architecture = _larger(**changes)
    _compare_fp8(_decoder(architecture, nf4=True), _decoder(architecture, nf4=True), plan)


@pytest.mark.parametrize("plan", FP8_PLANS, ids=str)
def test_fp8_of_a_deep_model_leaves_some_products_exact(plan):
    deep = _larger(num_layers=16)
    exact = exact_products(16)
    assert {(0, "gate_up"), (15, "down"), (7, "o")} <= exact
    assert not {(2, "gate_up"), (8, "o"), (0, "qkv")} & exact
    assert not exact_products(15)
    decoder = _decoder(deep, nf4=True)
    step = FusedStep(decoder, num_tokens=32, plan=plan)
    layer = step.layers[15]
    weight_OX = layer.groups["down"].weight_buffer(dtype=torch.float32, device=torch.device("cpu"))
    x, out = torch.randn(3, 128), split_input(torch.empty(3, 64), 64, bias_column=None)
    for index, right in ((15, True), (7, False)):
        step.products.narrow(step.layers[index], "down", x, out=out)
        step.layers[index].groups["down"].fill(weight_OX)
        assert torch.allclose(out.x_TI, x @ weight_OX[:64, :128].t(), atol=1e-5) == right
        grad = split_input(torch.empty(3, 128), 64, bias_column=None)
        step.products.input_gradient(
            step.layers[index], "down", out.x_TI, grad_inputs=grad, update=False
        )
        wanted = out.x_TI @ weight_OX[:64, :128]
        assert torch.allclose(grad.x_TI, wanted, atol=1e-5) == right
    batch = _batch((16, 16))
    expected = float(batch_loss(_decoder(deep, nf4=True), batch).detach())
    assert float(step.run_batch(batch)) == pytest.approx(expected, rel=0.02)


def test_fp8_takes_over_changed_adapters_and_some_projections():
    decoder = _decoder(targets=("q_proj", "v_proj"))
    exact = _decoder(targets=("q_proj", "v_proj"))
    step = FusedStep(decoder, num_tokens=20, plan=StepPlan(fp8=True))
    with torch.no_grad():
        for one in (decoder, exact):
            for parameter in lora_parameters(one).values():
                parameter.mul_(-2.0)
    step.refresh()
    batch = _batch((9, 11))
    expected = float(batch_loss(exact, batch).detach())
    assert float(step.run_batch(batch)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("plan", FP8_PLANS, ids=str)
def test_fp8_takes_over_changed_adapters_in_the_products_that_stay_exact(plan):
    deep, batch, found = _larger(num_layers=16), _batch((9, 11)), []
    for before in (True, False):
        decoder = _decoder(deep)
        step = FusedStep(decoder, num_tokens=20, plan=plan) if before else None
        with torch.no_grad():
            for parameter in lora_parameters(decoder).values():
                parameter.mul_(-2.0)
        step = step or FusedStep(decoder, num_tokens=20, plan=plan)
        step.refresh()
        found.append((step.run_batch(batch), step.adapters.grads))
    (loss, grads), (expected, expected_grads) = found
    assert torch.equal(loss, expected)
    assert torch.equal(grads, expected_grads)


class _Failed(Exception):
    """Something failed halfway."""


def test_fp8_codes_of_a_batch_that_failed_halfway_are_not_the_next_ones(monkeypatch):
    steps = [
        FusedStep(_decoder(), num_tokens=20, plan=StepPlan(fp8=True, keep="inputs"))
        for _ in range(2)
    ]
    steps[0].run_batch(_batch((9, 11)))
    products, made = steps[0].products, []
    codes = products.codes

    def failing(layer, name, x_TI, **options):
        made.append(codes(layer, name, x_TI, **options))
        if (layer.index, name) == (1, "qkv"):
            raise _Failed
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(products, "codes", failing)
        with pytest.raises(_Failed):
            steps[0].run_batch(_batch((9, 11)))
    losses = []
    for step in steps:
        step.refresh()
        losses.append(step.run_batch(_batch((9, 11), seed=1)))
    assert torch.equal(*losses)


@pytest.mark.parametrize("plan", [*FP8_PLANS, *(replace(p, fp8=True) for p in PLANS[2:])], ids=str)
@pytest.mark.parametrize("targets", [None, ("q_proj", "down_proj")], ids=str)
def test_fp8_rows_written_along_change_nothing(plan, targets, monkeypatch):
    """Losses and gradients of batches of unlike shapes, evaluation between them."""
    lora = {} if targets is None else {"targets": targets}
    found = []
    for along in (True, False):
        with monkeypatch.context() as patch:
            if not along:
                patch.setattr(Fp8Products, "codes", lambda *args, **options: None)
            step = FusedStep(_decoder(_larger(num_layers=4), **lora), num_tokens=30, plan=plan)
            for seed, lengths in enumerate([(30,), (11, 19), (1,), (5, 3, 9)]):
                step.run_batch(_batch((8, 9), seed=9), backward=False)
                found.append(step.run_batch(_batch(lengths, seed=seed)))
            found.append(step.adapters.grads)
    half = len(found) // 2
    assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))


def test_fp8_on_a_card_without_triton_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("medimind.models.fused.fp8_weights.has_triton", lambda: False)
    layers = [fuse_layer(layer) for layer in _decoder().layers]
    assert "triton is not installed" in str(why_no_fp8(layers, torch.device("cuda")))


def test_fp8_refuses_widths_it_cannot_do():
    decoder = _decoder(_larger(intermediate_size=72))
    with pytest.raises(ValueError, match="multiples of 16"):
        FusedStep(decoder, num_tokens=8, plan=StepPlan(fp8=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", FP8_PLANS, ids=str)
def test_fp8_on_the_card(dtype, plan):
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no card with fp8")
    exact = _decoder(device="cuda", nf4=True, as_in=dtype)
    _compare_fp8(exact, _decoder(device="cuda", dtype=dtype, nf4=True), plan)


def test_refuses_what_it_cannot_do():
    decoder = _decoder(dropout=0.1)
    assert "dropout" in str(why_unsupported(decoder))
    with pytest.raises(ValueError, match="dropout"):
        FusedStep(decoder, num_tokens=8)
    step = FusedStep(_decoder(), num_tokens=8)
    with pytest.raises(ValueError, match="more than 8"):
        step.run_batch(_batch((9,)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_on_the_card(dtype, plan):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    _compare_on_the_card(_larger(num_layers=5), dtype, plan)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", [PLANS[0], PLANS[3], replace(PLANS[0], graph=False)], ids=str)
def test_heads_as_wide_as_models_have_them_on_the_card(dtype, plan):
    """On a Hopper their attention is our own (``kernels/attention/tiled.py``)."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    _compare_on_the_card(_larger(head_dim=64), dtype, plan)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "plan",
    [PLANS[0], PLANS[3], replace(PLANS[0], deterministic=False)],
    ids=["fixed order", "layers again", "any order"],
)
def test_flash_attention_4_on_the_card(plan, monkeypatch):
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper")
    if not has_flash4():
        pytest.skip("flash-attn-4 is not installed: pip install 'medimind[hopper]'")
    for name in ("FLASH4_FROM", "FLASH4_LOOSE_FROM"):
        monkeypatch.setattr(f"medimind.kernels.attention.forward.{name}", 0.0)
    _compare_on_the_card(_larger(head_dim=128), torch.bfloat16, plan)


def _compare_on_the_card(architecture, dtype, plan):
    tolerance = {torch.float32: 2e-3, torch.float16: 0.02, torch.bfloat16: 0.06}[dtype]
    exact = _decoder(architecture, device="cuda", nf4=True, as_in=dtype)
    decoder = _decoder(architecture, device="cuda", dtype=dtype, nf4=True)
    step = FusedStep(decoder, num_tokens=48, plan=plan)
    names = lora_parameters(decoder)
    order = [id(parameter) for parameter in step.adapters.parameters]
    shapes = [(48,), (24, 24), (11, 19), (12, 18), (48,), (24, 24), (13, 17), (11, 19, 3)]
    for seed, lengths in enumerate(shapes * 2):  # eager twice, then as graphs
        batch = _batch(lengths, seed=seed)
        expected = batch_loss(exact, batch)
        grads = torch.autograd.grad(expected, list(lora_parameters(exact).values()))
        step.zero_gradients()
        loss = step.run_batch(batch)
        assert float(loss) == pytest.approx(float(expected.detach()), rel=tolerance)
        found = [step.adapters.grad_views[order.index(id(p))] for p in names.values()]
        error = torch.stack([(f - g).norm() ** 2 for f, g in zip(found, grads)]).sum().sqrt()
        norm = torch.stack([g.norm() ** 2 for g in grads]).sum().sqrt()
        assert float(error / norm) < tolerance, lengths


def test_fp8_off_the_card_is_refused():
    with pytest.raises(TrainingError, match="needs a CUDA card") as caught:
        training_loss(_decoder(), num_tokens=20, fp8=True)
    assert "train.precision=dtype" in str(caught.value)


@pytest.mark.gpu
def test_what_does_not_fit_is_refused_with_what_would():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    decoder = _decoder(device="cuda", dtype=torch.bfloat16, nf4=True)
    with pytest.raises(TrainingError, match=r"train\.micro_batch_tokens=") as caught:
        training_loss(decoder, num_tokens=1 << 40)
    assert "fits" in str(caught.value)


@pytest.mark.gpu
def test_the_plain_way_works_with_the_embedding_in_host_memory():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    decoder = _decoder(device="cuda", nf4=True)
    batch = _batch((9, 11))
    before = batch_loss(decoder, batch).detach()
    plan = StepPlan(keep="inputs", resident=False, offload=True, host_embedding=True)
    step = FusedStep(decoder, num_tokens=20, plan=plan)
    assert decoder.model.embed_tokens.weight.device.type == "cpu"
    assert torch.equal(batch_loss(decoder, batch).detach(), before)
    assert float(step.run_batch(batch)) == pytest.approx(float(before), rel=1e-3)


def test_training_off_the_card_keeps_the_plain_loss():
    decoder = _decoder()
    batch = _batch((9, 11))
    loss = training_loss(decoder, num_tokens=20)(batch)
    assert torch.equal(loss.detach(), batch_loss(decoder, batch).detach())
    loss.backward()
    assert all(p.grad is not None for p in lora_parameters(decoder).values())


@pytest.mark.parametrize("lengths", [(24, 24), (11, 19), (48,)])
def test_rows_of_one_length_are_left_to_cudnn_only_where_bits_may_differ(lengths, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "medimind.models.fused.step.choose_backend",
        lambda device, dtype, **rule: (
            asked.append(rule["equal"] and not rule["deterministic"]) or "reference"
        ),
    )
    for deterministic in (True, False):
        plan = StepPlan(deterministic=deterministic)
        FusedStep(_decoder(), num_tokens=48, plan=plan).run_batch(_batch(lengths))
    assert asked == [False, len(set(lengths)) == 1]


def test_attention_is_chosen_by_the_length_of_rows(monkeypatch):
    told = []
    monkeypatch.setattr(
        "medimind.models.fused.step.choose_backend",
        lambda device, dtype, **rule: told.append(rule["mean_length"]) or "reference",
    )
    step = FusedStep(_decoder(), num_tokens=48, plan=StepPlan())
    for lengths in ((24, 24), (10, 20)):
        step.run_batch(_batch(lengths))
    assert told == [24, (100 + 400) / 30]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_plan_for_a_card_is_told_whether_bits_may_differ(deterministic, monkeypatch):
    limits = []

    def chosen(work, found, **shape):
        limits.append(found.deterministic)
        return StepPlan()

    decoder = _decoder()
    decoder.device = torch.device("cuda")
    monkeypatch.setattr(loss_module, "card_of", lambda device: Card((9, 0), 132))
    monkeypatch.setattr(loss_module, "choose_plan", chosen)
    monkeypatch.setattr(loss_module, "choose_tokens", chosen)
    monkeypatch.setattr(loss_module, "FusedLoss", lambda decoder, **options: None)
    card = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    loss_module.training_loss(decoder, num_tokens=64, deterministic=deterministic)
    loss_module.micro_batch_tokens(decoder, longest=64, batch_size=2, deterministic=deterministic)
    assert limits == [deterministic] * 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("lengths", "width"), [((24, 24), 16), ((11, 19, 3), 16), ((1500,), 64), ((700, 700), 64)]
)
def test_two_runs_on_the_card_are_alike(lengths, width):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    results = []
    for _ in range(2):
        architecture = _larger(head_dim=width)
        decoder = _decoder(architecture, device="cuda", dtype=torch.bfloat16, nf4=True)
        loss_of = training_loss(decoder, num_tokens=max(48, sum(lengths)))
        assert isinstance(loss_of, FusedLoss)
        parameters = list(lora_parameters(decoder).values())
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        for seed in range(6):
            optimizer.zero_grad(set_to_none=True)
            loss_of(_batch(lengths, seed=seed)).backward()
            optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in parameters]))
    assert torch.equal(*results)


def test_attention_of_another_shape_is_not_held():
    step = FusedStep(_decoder(), num_tokens=64, plan=StepPlan(graph=False))
    for lengths in ([20, 9], [33], [60]):
        step.run_batch(_batch(lengths))
    assert len(step._shapes) == 4  # a multiple of a 64th of all tokens each, and all of them
    held = [sum(s.o is not None for s in shape.saved) for shape in step._shapes.values()]
    assert sorted(held) == [0, 0, 0, PLAIN.num_layers]
