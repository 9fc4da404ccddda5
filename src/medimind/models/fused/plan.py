"""How a step trades memory for time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Keep = Literal["everything", "cheap", "inputs"]

GroupName = Literal["qkv", "o", "gate_up", "down"]
"""Projections that share an input."""
_LAYERS_FOR_EXACT = 16


def exact_products(num_layers: int) -> frozenset[tuple[int, GroupName]]:
    """What stays in the compute dtype in fp8's forward pass: layers and groups of projections.

    The MLPs of the first two layers and of the last, whose activations have outliers, and o in the
    first half of the layers: without them SmolLM2's loss ends 0.9 % above bf16's, and they take 2 %
    of an 8B's step (docs/notes/gpu_step.md). Nothing in models of under 16 layers, where it would
    be too large a part.
    """
    if num_layers < _LAYERS_FOR_EXACT:
        return frozenset()
    found: set[tuple[int, GroupName]] = {(layer, "o") for layer in range(num_layers // 2)}
    for layer in (0, 1, num_layers - 1):
        found |= {(layer, "gate_up"), (layer, "down")}
    return frozenset(found)


def exact_gradients(num_layers: int) -> frozenset[tuple[int, GroupName]]:
    """What stays in the compute dtype in fp8's backward pass: the MLPs of ``exact_products``."""
    return frozenset(
        (layer, name) for layer, name in exact_products(num_layers) if name in ("gate_up", "down")
    )


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How a step trades memory for time.

    Attributes:
        keep: What the forward pass keeps for the backward pass (see ``buffers``).
        resident: Hold base weights dense in the compute dtype instead of dequantising each time.
        offload: Send layer inputs and attention outputs to pinned host memory between the passes
            (``keep="inputs"``).
        offload_projections: Send queries, keys, values and the stream after attention too, so that
            they are not done again. A token of the 8B then takes 36 KB a layer of host memory.
        host_embedding: Hold an untied embedding in pinned host memory.
        head_chunk: Rows whose logits exist at once, at most.
        mlp_chunk: Tokens whose gate, up and z exist at once (``keep="inputs"``); ``None`` for all.
        graph: Capture CUDA graphs.
        fp8: Multiply with the frozen weights in e4m3, but for ``exact_products`` and
            ``exact_gradients``; they are then kept in fp8 whatever ``resident`` says.
        deterministic: Sum in a fixed order everywhere; attention of rows of one length is then not
            left to cuDNN.
    """

    keep: Keep = "everything"
    resident: bool = True
    offload: bool = False
    offload_projections: bool = False
    host_embedding: bool = False
    head_chunk: int = 2048
    mlp_chunk: int | None = None
    graph: bool = True
    fp8: bool = False
    deterministic: bool = True

    def describe(self) -> str:
        """The plan in words."""
        kept = {
            "everything": "all activations kept",
            "cheap": "norms done again",
            "inputs": "layers done again",
        }[self.keep]
        parts = [kept]
        if self.offload and self.offload_projections:
            parts.append("all but their MLP in host memory")
        elif self.offload:
            parts.append("their inputs in host memory")
        if self.mlp_chunk:
            parts.append(f"MLP {self.mlp_chunk:,} tokens at a time")
        if self.host_embedding:
            parts.append("embedding in host memory")
        weights = "dense" if self.resident else "dequantised each time"
        parts.append("weights in fp8" if self.fp8 else f"weights {weights}")
        return ", ".join(parts)
