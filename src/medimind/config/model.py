"""Which base model to start from, and how its weights are held."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medimind.config.section import Section


class ModelConfig(Section):
    """The base model.

    Attributes:
        path: A built-in name (``smollm2-135m-instruct``), a folder with ``config.json`` and
            safetensors, a ``.gguf`` file, or a Hugging Face model id.
        revision: Commit, tag or branch on the hub; ``None`` takes the newest and warns.
        quantization: ``nf4`` holds the base weights of the adapted projections in 4 bits;
            ``none`` holds them in the compute dtype.
        double_quantization: Quantise the NF4 scales themselves (saves 0.4 bits a weight).
        head_quantization: ``int8`` holds the head and the embedding in 8 bits, a scale a row (saves
            1 GiB of an 8B on a small card).
        dtype: Compute dtype; ``auto`` takes bf16 where the card has it, else fp16, and fp32 on a
            CPU.
        device: ``auto`` takes CUDA where there is a card.
        prompt_precision: ``fp8`` reads prompts in fp8 when answers are generated on a card (Ada,
            Hopper and later): faster, and no longer the same to the last bit. Training and option
            likelihoods do not change.
    """

    path: str
    revision: str | None = None
    quantization: Literal["nf4", "none"] = "nf4"
    double_quantization: bool = True
    head_quantization: Literal["none", "int8"] = "none"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    prompt_precision: Literal["dtype", "fp8"] = "dtype"


class LoraConfig(Section):
    """The adapter (Hu et al., 2021; rank-stabilised scaling: Kalajdzievski, 2023).

    Attributes:
        rank: Width r of the update ``B @ A``.
        alpha: The update is scaled by ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``.
        dropout: Share of the adapter's inputs that is zeroed while training.
        rslora: Rank-stabilised scaling.
        targets: The projections that get an adapter.
    """

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rslora: bool = False
    targets: tuple[
        Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...
    ] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
    )
