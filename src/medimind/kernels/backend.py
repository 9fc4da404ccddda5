"""The elementwise kernels of a device: Triton on a card, the references elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.cross_entropy import reference as cross_entropy_reference
from medimind.kernels.lora_norm import reference as lora_norm_reference
from medimind.kernels.lora_swiglu import reference as lora_swiglu_reference
from medimind.kernels.rms_norm import reference as rms_norm_reference
from medimind.kernels.rotary import reference as rotary_reference
from medimind.kernels.swiglu import reference as swiglu_reference


@dataclass(frozen=True, slots=True)
class Kernels:
    """One set of implementations with the references' signatures."""

    rms_norm_forward: Callable[..., Any]
    rms_norm_backward: Callable[..., Any]
    rotate: Callable[..., Any]
    rotate_back: Callable[..., Any]
    swiglu_forward: Callable[..., Any]
    swiglu_backward: Callable[..., Any]
    cross_entropy_: Callable[..., Any]
    lora_norm_forward: Callable[..., Any]
    lora_swiglu_backward: Callable[..., Any]


REFERENCE = Kernels(
    rms_norm_forward=rms_norm_reference.rms_norm_forward,
    rms_norm_backward=rms_norm_reference.rms_norm_backward,
    rotate=rotary_reference.rotate,
    rotate_back=rotary_reference.rotate_back,
    swiglu_forward=swiglu_reference.swiglu_forward,
    swiglu_backward=swiglu_reference.swiglu_backward,
    cross_entropy_=cross_entropy_reference.cross_entropy_,
    lora_norm_forward=lora_norm_reference.lora_norm_forward,
    lora_swiglu_backward=lora_swiglu_reference.lora_swiglu_backward,
)


def kernels_for(device: torch.device) -> Kernels:
    """Triton's kernels on CUDA where triton is installed, else the references."""
    return triton_kernels() if device.type == "cuda" and has_triton() else REFERENCE


@cache
def triton_kernels() -> Kernels:
    """The Triton kernels; needs triton."""
    from medimind.kernels.cross_entropy.forward import cross_entropy_
    from medimind.kernels.lora_norm.forward import lora_norm_forward
    from medimind.kernels.lora_swiglu.backward import lora_swiglu_backward
    from medimind.kernels.rms_norm.backward import rms_norm_backward
    from medimind.kernels.rms_norm.forward import rms_norm_forward
    from medimind.kernels.rotary.backward import rotate_back
    from medimind.kernels.rotary.forward import rotate
    from medimind.kernels.swiglu.backward import swiglu_backward
    from medimind.kernels.swiglu.forward import swiglu_forward

    return Kernels(
        rms_norm_forward=rms_norm_forward,
        rms_norm_backward=rms_norm_backward,
        rotate=rotate,
        rotate_back=rotate_back,
        swiglu_forward=swiglu_forward,
        swiglu_backward=swiglu_backward,
        cross_entropy_=cross_entropy_,
        lora_norm_forward=lora_norm_forward,
        lora_swiglu_backward=lora_swiglu_backward,
    )
