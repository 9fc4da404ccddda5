"""What the planner counts against what a step allocates, buffer by buffer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medimind.kernels.nf4 import quantize_nf4
from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import FusedStep, StepPlan
from medimind.models.fused import memory as counted
from medimind.models.fused.memory import memory_need
from medimind.models.fused.offload import NUM_SLOTS
from medimind.models.fused.workload import Workload
from medimind.models.lora import attach_lora

PLAIN = Architecture(
    family="llama",
    vocab_size=512,
    hidden_size=128,
    intermediate_size=320,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
)
LEAN = StepPlan(keep="inputs", resident=False, head_chunk=16)
PLANS = [
    StepPlan(head_chunk=32),
    StepPlan(keep="cheap", resident=False),
    StepPlan(fp8=True, head_chunk=32),
    LEAN,
    replace(LEAN, offload=True),
    replace(LEAN, offload=True, offload_projections=True),
    replace(LEAN, offload=True, offload_projections=True, mlp_chunk=48),
    replace(LEAN, offload=True, mlp_chunk=48),
    replace(LEAN, mlp_chunk=16),
    replace(LEAN, fp8=True),
]
LORAS = [
    {"rank": 8, "targets": PROJECTIONS},
    {"rank": 40, "targets": PROJECTIONS},
    {"rank": 8, "targets": ("q_proj", "v_proj")},
]
CHANGES = [{}, {"qkv_bias": True}, {"head_dim": 64}, {"mlp_bias": True, "tied_head": True}]


def _storages(value, found):
    """Bytes of the storages behind all tensors of nested containers, each counted once."""
    if isinstance(value, torch.Tensor):
        found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, list | tuple):
        for item in value:
            _storages(item, found)
    elif isinstance(value, dict):
        _storages(list(value.values()), found)
    elif hasattr(value, "__slots__") and hasattr(value, "__dataclass_fields__"):
        _storages([getattr(value, name) for name in value.__dataclass_fields__], found)
    elif type(value).__name__ == "Offload":
        _storages(value.slots, found)  # the rest lies on the host
    return found


def _bytes(*values):
    return sum(_storages(list(values), {}).values())


def _step(changes, lora, plan, *, num_tokens, **more):
    architecture = replace(PLAIN, **changes, **more)
    decoder = Decoder(architecture, dtype=torch.bfloat16)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.1)
    attach_lora(decoder, alpha=8, seed=1, **lora)
    step = FusedStep(decoder, num_tokens=num_tokens, plan=plan)
    return step, Workload(architecture, num_tokens, 2, rank=lora["rank"], targets=lora["targets"])


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_buffers_are_those_that_are_counted(changes, lora, plan):
    for num_tokens in (96, 160):
        step, work = _step(changes, lora, plan, num_tokens=num_tokens)
        a, need = work.architecture, memory_need(work, plan)
        values = 2 * a.num_heads * a.head_dim  # bytes of an output of attention, a token
        made = a.num_layers * num_tokens * 8  # both norms' factors
        if plan.keep != "inputs":
            made += a.num_layers * num_tokens * values
        buffers = _bytes(step.all) + made + _log_sums(work, plan)
        assert need.activations == pytest.approx(buffers, rel=0.01)
        assert need.logits == _bytes(step.all, step.head.logits_CV) - _bytes(step.all)


@pytest.mark.parametrize("plan", [plan for plan in PLANS if not plan.fp8], ids=str)
def test_what_a_forward_pass_leaves_is_counted(plan):
    num_tokens = 96
    step, work = _step({}, LORAS[0], plan, num_tokens=num_tokens)
    tokens = torch.randint(0, PLAIN.vocab_size, (num_tokens,))
    step.run(tokens, torch.arange(num_tokens), tokens, cu_seqlens=[0, 96], backward=False)
    moving = 0
    if plan.offload:  # those of the last layers stay; they are counted with attention
        moving = NUM_SLOTS * 2 * num_tokens * PLAIN.num_heads * PLAIN.head_dim
    left = _bytes(step.all) - moving + _log_sums(work, plan)
    assert memory_need(work, plan).activations == left


def _log_sums(work, plan):
    """What attention keeps on a card, but not here; one layer's where it is done again."""
    again = plan.keep == "inputs" and not plan.offload
    layers = 1 if again else work.architecture.num_layers
    return layers * work.num_tokens * 4 * work.architecture.num_heads


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("plan", [StepPlan(), StepPlan(fp8=True), LEAN], ids=str)
def test_copies_and_adapters_are_those_that_are_counted(changes, lora, plan):
    layers = 17 if plan.fp8 else PLAIN.num_layers  # some products are exact
    step, work = _step(changes, lora, plan, num_tokens=64, num_layers=layers)
    products = step.products
    if plan.fp8:
        held = [products.forward_weights, products.backward_weights, products.columns.buffers]
        held += [
            products.a_LIE,
            products._values,
            products._scales_T,
            products.joined.weights.buffers,
        ]
    else:
        held = [products.weights.buffers]
    need = memory_need(work, plan)
    assert need.copies == _bytes(held)
    adapters = step.adapters
    total = adapters.grads  # a second sum of this size is made by the loss
    flat = _bytes(adapters.values, adapters.grads, adapters.cast) + total.nbytes
    assert need.adapters == flat


@pytest.mark.parametrize("int8_tables", [False, True])
@pytest.mark.parametrize("tied_head", [False, True])
def test_weights_are_those_that_are_counted(int8_tables, tied_head):
    architecture = replace(PLAIN, tied_head=tied_head)
    decoder = Decoder(architecture, dtype=torch.bfloat16)
    nf4 = sum(
        quantize_nf4(torch.randn(p.out_features, p.in_features)).nbytes
        for _, p in decoder.projections()
    )
    norms = sum(p.nbytes for n, p in decoder.named_parameters() if "norm" in n)
    tables = [table.weight.data for _, table in decoder.tables()]
    size = sum(t.numel() + 4 * len(t) if int8_tables else t.nbytes for t in tables)
    work = Workload(architecture, 64, 2, int8_tables=int8_tables)
    weights = memory_need(work, LEAN).weights
    assert weights == pytest.approx(nf4 + norms + size, rel=2e-3)
    without = memory_need(work, replace(LEAN, host_embedding=True)).weights
    assert without == (weights if tied_head else pytest.approx(nf4 + norms + size / 2, rel=2e-3))


def test_moments_in_8_bits():
    work = Workload(PLAIN, 64, 2)
    values = counted.adapter_values(PLAIN, rank=16, targets=PROJECTIONS)
    assert memory_need(work, LEAN).optimizer == 8 * values
    eight_bit = memory_need(replace(work, moment_bytes=1), LEAN).optimizer
    assert 2 * values < eight_bit < 2.1 * values
