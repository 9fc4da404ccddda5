"""Memory of a step by plan, and the fastest plan that fits.

Measured on an H100 with the 8B at 2 x 2048 tokens: each line below is slower and smaller than the
one above it, so the first that fits is taken.
"""

from __future__ import annotations

from medimind.models.architecture import Architecture
from medimind.models.fused.plan import StepPlan

PLANS: tuple[StepPlan, ...] = (
    StepPlan(keep="everything", resident=True),
    StepPlan(keep="cheap", resident=True),
    StepPlan(keep="everything", resident=False),
    StepPlan(keep="cheap", resident=False),
    StepPlan(keep="inputs", resident=False, head_chunk=1024),
    StepPlan(keep="inputs", resident=False, offload=True, head_chunk=1024),
)
_ADAPTER_COLUMNS = 64
_CUDNN_AND_CUBLAS = 256 << 20
"""Workspaces of the libraries, gradients of q, k and v, fp32 sums: about this much beside."""


def step_bytes(
    architecture: Architecture, plan: StepPlan, *, num_tokens: int, item: int, num_adapter: int
) -> int:
    """Bytes the step takes on the card beside the loaded model.

    Args:
        architecture: Shapes.
        plan: What is kept.
        num_tokens: Tokens of a micro-batch.
        item: Bytes of a value of the compute dtype.
        num_adapter: Values of all adapters.
    """
    a, extra = architecture, _ADAPTER_COLUMNS
    width, inner, heads = a.hidden_size, a.intermediate_size, a.num_heads * a.head_dim
    qkv = heads + 2 * a.num_kv_heads * a.head_dim
    h, z = width + extra, inner + extra
    joined = qkv * h + width * (heads + extra) + 2 * inner * h + width * z
    weights = joined * (a.num_layers if plan.resident else 1)
    one = 2 * width + qkv + heads + 2 * inner + 2 * extra  # kept unless the layer is done again
    layers = {
        "everything": a.num_layers * (one + 2 * h),
        "cheap": a.num_layers * one + 2 * h,
        "inputs": one + 2 * h + (6 if plan.offload else a.num_layers) * width,
    }[plan.keep]
    # Gradients of the layer's tensors; cuDNN's and flash's of q, k, v (one of them in fp32).
    shared = z + 2 * width + h + qkv + 2 * heads
    shared += 0 if plan.keep == "inputs" else qkv
    head = 0 if plan.keep == "inputs" else min(plan.head_chunk, num_tokens) * a.vocab_size
    adapters = num_adapter * (4 + 4 + 4 + item)  # values, sums of a step and a batch, and a cast
    return item * (weights + num_tokens * (layers + shared) + head) + adapters + _CUDNN_AND_CUBLAS


def choose_plan(
    architecture: Architecture,
    *,
    num_tokens: int,
    item: int,
    num_adapter: int,
    free_bytes: int,
) -> StepPlan | None:
    """The fastest plan that fits into the free memory; ``None`` when none does."""
    for plan in PLANS:
        needed = step_bytes(
            architecture, plan, num_tokens=num_tokens, item=item, num_adapter=num_adapter
        )
        if needed <= free_bytes:
            return plan
    return None
