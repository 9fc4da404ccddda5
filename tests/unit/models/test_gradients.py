"""Loss and adapter gradients against transformers + peft, and of our paths against each other."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch

from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.cpu_step import step as cpu_step
from medimind.models.decoder import Decoder
from medimind.models.lora import (
    PEFT_PREFIX,
    adapter_disabled,
    attach_lora,
    lora_parameters,
    seed_dropout,
)
from medimind.models.loss import batch_loss, packed_tensors, token_losses
from medimind.packing.batch import IGNORE_INDEX, PackedBatch
from tiny_checkpoints import make_transformers_model

# peft asks transformers for a property that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
LENGTHS = (37, 1, 150, 5)
VARIANTS = {
    "llama with llama3 scaling": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with linear scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama with explicit head width": ("llama", {"head_dim": 24}),
    "llama with one head a group": ("llama", {"num_key_value_heads": 4}),
    "llama with tied head": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {}),
}


def make_batch(lengths=LENGTHS, *, vocabulary=300, seed=0, padding=0) -> PackedBatch:
    rng = np.random.default_rng(seed)
    tokens, labels = [], []
    for length in lengths:
        ids = rng.integers(0, vocabulary, length)
        targets = np.append(ids[1:], IGNORE_INDEX)
        targets[: length // 3] = IGNORE_INDEX
        tokens.append(ids)
        labels.append(targets)
    segments = [*lengths, padding] if padding else list(lengths)
    if padding:
        tokens.append(np.zeros(padding, dtype=np.int64))
        labels.append(np.full(padding, IGNORE_INDEX))
    labels_T = np.concatenate(labels).astype(np.int64)
    return PackedBatch(
        token_ids_T=np.concatenate(tokens).astype(np.int64),
        labels_T=labels_T,
        position_ids_T=np.concatenate([np.arange(n) for n in segments]).astype(np.int64),
        cu_seqlens=np.concatenate(([0], np.cumsum(segments))).astype(np.int32),
        max_seqlen=max(segments),
        num_targets=int((labels_T != IGNORE_INDEX).sum()),
        case_ids=tuple(f"case {i}" for i in range(len(lengths))),
    )


def make_decoder(model) -> Decoder:
    decoder = Decoder(Architecture.from_config_json(model.config.to_dict()))
    for name, tensor in model.state_dict().items():
        if not (name == "lm_head.weight" and decoder.architecture.tied_head):
            decoder.load_tensor(name, tensor)
    assert decoder.missing_tensors() == []
    return decoder


def fill_adapters(parameters, *, scale=0.1) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def make_peer(model, decoder, *, targets=PROJECTIONS, rslora=False):
    """The same adapter in peft."""
    spec = decoder.lora
    config = peft.LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, use_rslora=rslora, target_modules=list(targets)
    )
    peer = peft.get_peft_model(model, config)
    theirs = {
        name.replace(".default", ""): parameter
        for name, parameter in peer.named_parameters()
        if parameter.requires_grad
    }
    ours = lora_parameters(decoder)
    assert list(ours) == sorted(ours, key=list(ours).index)
    assert ours.keys() == theirs.keys()
    for name, parameter in theirs.items():
        parameter.data.copy_(ours[name].data)
    return peer, theirs


def peer_loss(peer, batch) -> torch.Tensor:
    """Sum over the rows, each on its own; cross-entropy in float64.

    In float32 torch's own loses five digits over a vocabulary of 49,152.
    """
    total = torch.zeros((), dtype=torch.float64)
    for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
        labels = torch.from_numpy(batch.labels_T[start:end])
        if (labels == IGNORE_INDEX).all():
            continue
        logits = peer(input_ids=torch.from_numpy(batch.token_ids_T[start:end])[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits.double(), labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
    return total


def relative(ours, theirs) -> float:
    norm = theirs.double().norm().item()
    return (ours.double() - theirs.double()).norm().item() / max(norm, 1e-30)


def joined(tensors) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def gradients(decoder, batch, *, scale=1.0) -> dict[str, torch.Tensor]:
    for parameter in lora_parameters(decoder).values():
        parameter.grad = None
    (batch_loss(decoder, batch) * scale).backward()
    return {name: p.grad.clone() for name, p in lora_parameters(decoder).items()}


def plain_gradients(decoder, batch, monkeypatch) -> dict[str, torch.Tensor]:
    """Through the modules, operation by operation."""
    with monkeypatch.context() as patch:
        patch.setattr("medimind.models.loss.can_join", lambda decoder: False)
        return gradients(decoder, batch)


def assert_same_as_peer(decoder, peer, theirs, batch, *, tolerance=1e-5) -> None:
    loss = peer_loss(peer, batch)
    loss.backward()
    ours = batch_loss(decoder, batch)
    assert abs(ours.item() / loss.item() - 1) <= tolerance
    for name, gradient in gradients(decoder, batch).items():
        assert relative(gradient, theirs[name].grad) <= tolerance, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_transformers_and_pefts(variant):
    family, changes = VARIANTS[variant]
    model = make_transformers_model(family, **changes)
    decoder = make_decoder(model)
    attach_lora(decoder, rank=4, alpha=6, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    peer, theirs = make_peer(model, decoder)
    assert_same_as_peer(decoder, peer, theirs, make_batch())


@pytest.mark.parametrize(
    "targets", [("q_proj", "v_proj"), ("down_proj",), ("k_proj", "o_proj", "up_proj")]
)
def test_any_choice_of_projections_and_rslora(targets):
    model = make_transformers_model("qwen3")
    decoder = make_decoder(model)
    attach_lora(decoder, rank=3, alpha=6, rslora=True, targets=targets, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    peer, theirs = make_peer(model, decoder, targets=targets, rslora=True)
    assert_same_as_peer(decoder, peer, theirs, make_batch())


def test_an_nf4_base_is_its_dequantised_values():
    model = make_transformers_model("llama")
    decoder = make_decoder(model)
    decoder.quantize_nf4()
    for name, parameter in model.named_parameters():
        if any(projection in name for projection in PROJECTIONS):
            nf4 = quantize_nf4(parameter.data)
            parameter.data.copy_(dequantize_nf4(nf4, dtype=torch.float32))
    attach_lora(decoder, rank=4, alpha=6, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    peer, theirs = make_peer(model, decoder)
    assert_same_as_peer(decoder, peer, theirs, make_batch())


def test_the_built_in_model(smollm2_reference):
    """Against float64, which transformers' own float32 misses by as much over 30 layers."""
    decoder = make_decoder(smollm2_reference)
    attach_lora(decoder, rank=4, alpha=6, seed=0)
    fill_adapters(lora_parameters(decoder).values(), scale=0.02)
    batch = make_batch((40, 9), vocabulary=49_152)
    peer, theirs = make_peer(smollm2_reference, decoder)
    try:
        peer_loss(peer, batch).backward()
        float32 = {name: parameter.grad.clone() for name, parameter in theirs.items()}
        peer.zero_grad()
        peer.double()
        loss = peer_loss(peer, batch)
        loss.backward()
        exact = {name: parameter.grad for name, parameter in theirs.items()}
    finally:
        peer.unload()
        smollm2_reference.float()
    ours = gradients(decoder, batch)
    assert abs(batch_loss(decoder, batch).item() / loss.item() - 1) <= 1e-5
    assert relative(joined(ours), joined(exact)) <= 1e-5
    worst = max(relative(float32[name], exact[name]) for name in exact)
    for name, gradient in ours.items():
        # Which of the 420 is worst, and whether it stays under 1e-5, depends on the processor.
        assert relative(gradient, exact[name]) <= max(1e-5, 1.5 * worst), name


@pytest.fixture
def qwen3() -> Decoder:
    decoder = make_decoder(make_transformers_model("qwen3"))
    attach_lora(decoder, rank=4, alpha=6, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    return decoder


def test_packed_is_the_sum_of_unpacked(qwen3):
    packed = gradients(qwen3, make_batch())
    alone = [make_batch((n,)) for n in (60, 200, 23)]
    together = PackedBatch(
        token_ids_T=np.concatenate([b.token_ids_T for b in alone]),
        labels_T=np.concatenate([b.labels_T for b in alone]),
        position_ids_T=np.concatenate([b.position_ids_T for b in alone]),
        cu_seqlens=np.array([0, 60, 260, 283], dtype=np.int32),
        max_seqlen=200,
        num_targets=sum(b.num_targets for b in alone),
        case_ids=("a", "b", "c"),
    )
    packed = gradients(qwen3, together)
    single = [gradients(qwen3, batch) for batch in alone]
    for name, gradient in packed.items():
        assert relative(gradient, sum(each[name] for each in single)) <= 1e-5, name


def test_padding_changes_nothing(qwen3):
    padded, bare = gradients(qwen3, make_batch(padding=30)), gradients(qwen3, make_batch())
    assert all(relative(padded[name], bare[name]) <= 1e-5 for name in bare)


@pytest.mark.parametrize("variant", VARIANTS)
def test_joint_products_give_what_the_modules_give(variant, monkeypatch):
    family, changes = VARIANTS[variant]
    decoder = make_decoder(make_transformers_model(family, **changes))
    attach_lora(decoder, rank=4, alpha=6, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    batch = make_batch()
    joint, plain = gradients(decoder, batch), plain_gradients(decoder, batch, monkeypatch)
    assert all(relative(joint[name], plain[name]) <= 1e-5 for name in plain)


def test_probabilities_may_be_made_again(qwen3, monkeypatch):
    kept = gradients(qwen3, make_batch())
    monkeypatch.setattr(cpu_step, "PROBABILITY_BYTES", 0)
    again = gradients(qwen3, make_batch())
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_the_same_batch_gives_the_same_bits_whatever_came_before(qwen3):
    first = gradients(qwen3, make_batch())
    gradients(qwen3, make_batch((300, 20), seed=5))
    again = gradients(qwen3, make_batch())
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_gradients_scale_and_accumulate(qwen3):
    batch = make_batch()
    whole, half = gradients(qwen3, batch), gradients(qwen3, batch, scale=0.5)
    assert all(relative(half[name] * 2, whole[name]) <= 1e-6 for name in whole)
    (batch_loss(qwen3, batch) * 0.5).backward()
    for name, parameter in lora_parameters(qwen3).items():
        assert relative(parameter.grad, whole[name]) <= 1e-6, name


def test_two_losses_may_wait_for_their_backward(qwen3):
    one, two = make_batch(), make_batch((80,), seed=4)
    expected = [gradients(qwen3, batch) for batch in (one, two)]
    for parameter in lora_parameters(qwen3).values():
        parameter.grad = None
    losses = [batch_loss(qwen3, batch) for batch in (one, two)]
    for loss in losses:
        loss.backward()
    for name, parameter in lora_parameters(qwen3).items():
        assert relative(parameter.grad, expected[0][name] + expected[1][name]) <= 1e-6, name


def test_a_loss_is_differentiated_once(qwen3):
    loss = batch_loss(qwen3, make_batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        loss.backward()


def test_layers_below_the_first_adapter_are_left_alone(qwen3):
    whole = gradients(qwen3, make_batch())
    for _, projection in qwen3.layers[0].projections():
        projection.adapter_enabled = False
    for parameter in lora_parameters(qwen3).values():
        parameter.grad = None
    batch_loss(qwen3, make_batch()).backward()
    for name, parameter in lora_parameters(qwen3).items():
        assert (parameter.grad is None) == (".layers.0." in name)
    assert whole


def test_token_losses_sum_to_the_loss(qwen3, monkeypatch):
    batch = make_batch(padding=11)
    losses = token_losses(qwen3, batch)
    assert losses.case_ids == batch.case_ids
    assert losses.losses_N.dtype == np.float32
    assert losses.losses_N.sum() == pytest.approx(batch_loss(qwen3, batch).item(), rel=1e-6)
    cases = dict(losses.per_case())
    assert [len(cases[f"case {i}"]) for i in range(4)] == [24, 0, 99, 3]
    alone = token_losses(qwen3, make_batch((37,)))
    np.testing.assert_allclose(cases["case 0"], alone.losses_N, rtol=2e-5)
    monkeypatch.setattr("medimind.models.loss.can_join", lambda decoder: False)
    np.testing.assert_allclose(token_losses(qwen3, batch).losses_N, losses.losses_N, rtol=2e-5)


def test_evaluation_shares_buffers_between_layers(qwen3):
    token_losses(qwen3, make_batch())
    (workspace,) = qwen3.spare_workspaces
    without = workspace.nbytes
    gradients(qwen3, make_batch())
    assert workspace.nbytes > without


def test_without_the_adapter_it_is_the_base_model(qwen3):
    base = make_decoder(make_transformers_model("qwen3"))
    batch = make_batch()
    with adapter_disabled(qwen3):
        assert batch_loss(qwen3, batch).item() == pytest.approx(
            batch_loss(base, batch).item(), rel=1e-6
        )
        np.testing.assert_array_equal(
            token_losses(qwen3, batch).losses_N, token_losses(base, batch).losses_N
        )
    assert batch_loss(qwen3, batch).item() != batch_loss(base, batch).item()


def test_dropout_is_a_pure_function_of_its_seed():
    decoder = make_decoder(make_transformers_model("llama"))
    attach_lora(decoder, rank=4, alpha=6, dropout=0.5, seed=0)
    fill_adapters(lora_parameters(decoder).values())
    batch = make_batch()
    decoder.eval()
    still = batch_loss(decoder, batch).item()
    decoder.train()
    losses = []
    for seed in (1, 2, 1):
        seed_dropout(decoder, seed)
        losses.append(batch_loss(decoder, batch).item())
    assert losses[0] == losses[2]
    assert len({still, *losses}) == 3
    assert not torch.equal(gradients(decoder, batch)[f"{FIRST}.lora_A.weight"], torch.zeros(1))


FIRST = f"{PEFT_PREFIX}model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_close(dtype):
    model = make_transformers_model("llama")
    exact = make_decoder(model)
    half = Decoder(exact.architecture, dtype=dtype)
    for name, tensor in model.state_dict().items():
        half.load_tensor(name, tensor)
    for decoder in (exact, half):
        attach_lora(decoder, rank=4, alpha=6, seed=0)
        fill_adapters(lora_parameters(decoder).values())
    batch = make_batch()
    close, right = gradients(half, batch), gradients(exact, batch)
    assert half.logits(torch.ones(2, 64, dtype=dtype)).dtype == torch.float32
    tolerance = 0.15 if dtype == torch.bfloat16 else 0.03
    assert all(gradient.dtype == torch.float32 for gradient in close.values())
    assert all(relative(close[name], right[name]) <= tolerance for name in right)


def test_a_batch_without_targets_has_loss_zero(qwen3):
    batch = make_batch((3,))
    blank = PackedBatch(
        token_ids_T=batch.token_ids_T,
        labels_T=np.full(3, IGNORE_INDEX),
        position_ids_T=batch.position_ids_T,
        cu_seqlens=batch.cu_seqlens,
        max_seqlen=3,
        num_targets=0,
        case_ids=("a",),
    )
    assert packed_tensors(blank, device=torch.device("cpu")).targets_N.shape == (0,)
    assert batch_loss(qwen3, blank).item() == 0.0
    assert not any(gradient.any() for gradient in gradients(qwen3, blank).values())
