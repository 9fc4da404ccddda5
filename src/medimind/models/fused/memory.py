"""Bytes on the card while a training step runs, part by part.

The buffers of a step are those of ``buffers``, ``weights`` and ``adapters``; a test holds what is
counted here against what is allocated there, and against what a step leaves between its passes.
What attention allocates is counted by backend (``attention``), what other libraries allocate is
measured (``benchmarks/gpu_memory.py``). No card needs to be there.

``T`` tokens, ``C`` tokens in the MLP at once; widths are counted in values a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from medimind.kernels.int8.op import STRETCH
from medimind.kernels.lora_linear.joined import num_adapter_columns
from medimind.models.architecture import Architecture
from medimind.models.fused.attention import AttentionNeed, attention_need
from medimind.models.fused.offload import NUM_SLOTS
from medimind.models.fused.plan import StepPlan, exact_gradients, exact_products
from medimind.models.fused.workload import Workload

_LIBRARIES = 160 << 20
"""Workspaces of cuBLAS, sums of the adapters' gradients, tables of codes: 8 to 153 MiB in 26
measured settings (docs/notes/gpu_memory.md)."""
_GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes on the card while a step runs.

    Attributes:
        weights: The loaded model: NF4 or dense layers, embedding, head, norms.
        copies: Weights ready to multiply with: dense or fp8 copies, or room for one layer.
        adapters: fp32 values, the sums of a step's and a batch's gradients, and a cast.
        optimizer: AdamW's two moments.
        activations: What the forward pass keeps, and the buffers the layers share.
        logits: Of one chunk of the targets, and what the head's gradient takes.
        workspace: Of the libraries, and of attention while its gradients are made.
        graphs: What captured graphs hold beside the peak: the tensors that a step not yet captured
            allocates for itself, once more.
    """

    weights: int
    copies: int
    adapters: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    graphs: int = 0

    @property
    def total(self) -> int:
        """The predicted peak of torch's allocations."""
        return self.held - self.graphs

    @property
    def held(self) -> int:
        """What torch's allocator takes from the card."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class _Widths:
    """Values a token of a layer's tensors."""

    model: int
    heads: int
    kv: int
    inner: int
    columns: dict[str, int]
    down_rank: int
    skinny: bool

    @property
    def qkv(self) -> int:
        return self.heads + 2 * self.kv


def _widths(work: Workload) -> _Widths:
    a = work.architecture
    biases = {
        "qkv": a.qkv_bias,
        "o": a.output_bias,
        "gate_up": a.mlp_bias,
        "down": a.mlp_bias,
    }
    ranks = {
        group: [work.rank for name in names if name in work.targets]
        for group, names in _GROUPS.items()
    }
    return _Widths(
        model=a.hidden_size,
        heads=a.num_heads * a.head_dim,
        kv=a.num_kv_heads * a.head_dim,
        inner=a.intermediate_size,
        columns={g: num_adapter_columns(ranks[g], has_bias=biases[g]) for g in _GROUPS},
        down_rank=sum(ranks["down"]),
        skinny=len(ranks["gate_up"]) == 2 and len(ranks["down"]) == 1,
    )


def memory_need(work: Workload, plan: StepPlan) -> MemoryNeed:
    """The parts of the predicted peak."""
    values = adapter_values(work.architecture, rank=work.rank, targets=work.targets)
    cast = work.item if work.item < 4 else 0
    moments = 2 * work.moment_bytes * values
    attention = attention_need(work, plan)
    return MemoryNeed(
        weights=_model_bytes(work, host_embedding=plan.host_embedding),
        copies=_copies(work, plan),
        adapters=values * (4 + 4 + 4 + cast),
        optimizer=moments + (moments // 64 if work.moment_bytes == 1 else 0),
        activations=_activations(work, plan) + attention.kept,
        logits=_logits(work, plan),
        workspace=_LIBRARIES + attention.workspace,
        graphs=_graphs(work, plan, attention) if plan.graph else 0,
    )


def host_need(work: Workload, plan: StepPlan) -> int:
    """Bytes of pinned host memory for tensors that travel; an allocation is a power of two."""
    w = _widths(work)
    widths = [w.model, w.heads] if plan.offload else []
    if plan.offload and plan.offload_projections:
        widths += [w.model, w.qkv]
    sizes = [1 << (work.item * work.num_tokens * width - 1).bit_length() for width in widths]
    return max(0, work.architecture.num_layers - NUM_SLOTS) * sum(sizes)


def _activations(work: Workload, plan: StepPlan) -> int:
    """Buffers whose rows are tokens, without the logits."""
    a, w, tokens = work.architecture, _widths(work), work.num_tokens
    e, layers = w.columns, a.num_layers
    lean = plan.keep == "inputs"
    wide = min(tokens, plan.mlp_chunk or tokens) if lean else tokens
    h1, h2 = w.model + e["qkv"], w.model + e["gate_up"]
    z = w.inner + e["down"]
    z_columns = w.down_rank * layers if w.skinny else 0
    travels = lean and plan.offload and plan.offload_projections
    turns = NUM_SLOTS if travels else 1
    z_layers = 1 if lean or plan.keep == "cheap" or w.skinny else layers
    norms = (h1 + h2) * (layers if plan.keep == "everything" else 1)
    inputs = w.model * (2 * NUM_SLOTS if lean and plan.offload else layers)
    if lean and plan.offload:
        inputs += NUM_SLOTS * (w.heads - w.model)
    one = (w.model + w.qkv) * (turns if lean else layers)  # x_mid, q, k, v
    one += e["o"] * (layers if travels or not lean else 1) + z_columns
    one += 0 if lean else w.heads * layers  # attention's output
    each = norms + inputs + one
    gate_up = 2 * w.inner * (1 if lean else layers)
    shared = 2 * w.model + max(e["o"], e["down"]) + h1 + e["o"]  # delta, grad, grad_h1, grad_o
    shared += 0 if wide * z >= tokens * w.heads else w.heads
    shared += 0 if lean and wide * 2 * w.inner >= tokens * w.qkv else w.qkv
    in_z = wide * z >= tokens * w.model
    shared += 0 if lean and (in_z or not travels) else w.model  # what the final norm takes
    few = gate_up + z * z_layers
    few += 0 if wide == tokens and h1 == h2 else h2  # grad_h2
    few += 0 if w.skinny and not a.mlp_bias else z  # grad_z
    tables = 2 * a.head_dim
    per_token = 2 * 8 + 4 + 4 + 4 * 2 * layers  # ids, loss, norms' fp32 factors
    values = tokens * (each + shared + tables) + wide * few
    return work.item * values + tokens * per_token


def _copies(work: Workload, plan: StepPlan) -> int:
    """Weights ready to multiply with."""
    a, w = work.architecture, _widths(work)
    e, layers = w.columns, a.num_layers
    shapes = {
        "qkv": (w.qkv, w.model),
        "o": (w.model, w.heads),
        "gate_up": (2 * w.inner, w.model),
        "down": (w.model, w.inner),
    }
    below = {"o": e["o"], "down": e["down"]}  # rows for A
    joined = {g: (o + below.get(g, 0)) * (i + e[g]) for g, (o, i) in shapes.items()}
    if not plan.fp8:
        return work.item * sum(joined.values()) * (layers if plan.resident else 1)
    codes = sum(
        2 * outputs * inputs + 4 * (outputs + inputs) for outputs, inputs in shapes.values()
    )
    ahead, back = exact_products(layers), exact_gradients(layers)
    exact = sum(work.item * joined[group] for _, group in ahead | back)
    exact -= sum(shapes[group][0] * (shapes[group][1] + 4) for _, group in ahead)  # by outputs
    exact -= sum(shapes[group][1] * (shapes[group][0] + 4) for _, group in back)  # by inputs
    columns = sum((outputs + inputs) * e[g] for g, (outputs, inputs) in shapes.items())
    widest = max(max(pair) for pair in shapes.values())
    weights = layers * (codes + work.item * columns) + exact
    return weights + work.num_tokens * (widest + 4)


def _logits(work: Workload, plan: StepPlan) -> int:
    """One chunk's logits (in a spare buffer, when lean) and its hidden states and gradient."""
    a, tokens = work.architecture, work.num_tokens
    rows = min(plan.head_chunk, tokens)
    logits = work.item * rows * a.vocab_size
    if plan.keep == "inputs":
        wide = min(tokens, plan.mlp_chunk or tokens)
        fits = wide * 2 * a.intermediate_size >= a.vocab_size
        logits = 0 if fits else logits
    scratch = work.item * min(STRETCH, a.vocab_size * a.hidden_size) if work.int8_tables else 0
    return logits + scratch


def _graphs(work: Workload, plan: StepPlan, attention: AttentionNeed) -> int:
    """What a step allocates for itself, in the memory of graphs."""
    a, w = work.architecture, _widths(work)
    outputs = 0 if plan.keep == "inputs" else a.num_layers * work.item * w.heads
    factors = 4 * 2 * a.num_layers
    return _LIBRARIES + work.num_tokens * (outputs + factors) + attention.kept + attention.workspace


def _model_bytes(work: Workload, *, host_embedding: bool) -> int:
    """The loaded model."""
    a, w = work.architecture, _widths(work)
    layer = a.hidden_size * (w.qkv + w.heads + 3 * a.intermediate_size)
    scales = 1 + 4 / 256 if work.double_quantized else 4
    per_value = 0.5 + scales / 64 if work.nf4 else work.item
    table = a.vocab_size * (a.hidden_size + 4 if work.int8_tables else work.item * a.hidden_size)
    num_tables = 1 if a.tied_head or host_embedding else 2
    norms = a.hidden_size * (2 * a.num_layers + 1)
    return int(a.num_layers * layer * per_value + work.item * norms + num_tables * table)


def adapter_values(architecture: Architecture, *, rank: int, targets: Sequence[str]) -> int:
    """Values of the A and B of all layers."""
    a = architecture
    heads, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    width, inner = a.hidden_size, a.intermediate_size
    both = {
        "q_proj": width + heads,
        "k_proj": width + kv,
        "v_proj": width + kv,
        "o_proj": heads + width,
        "gate_proj": width + inner,
        "up_proj": width + inner,
        "down_proj": inner + width,
    }
    return rank * a.num_layers * sum(both[name] for name in targets)
