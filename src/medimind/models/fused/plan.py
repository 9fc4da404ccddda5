"""How a step trades memory for time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Keep = Literal["everything", "cheap", "inputs"]


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
        fp8: Multiply with the frozen weights in e4m3; they are then kept in fp8 whatever
            ``resident`` says.
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
