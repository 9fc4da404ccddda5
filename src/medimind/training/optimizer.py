"""AdamW over the adapter, its moments in 32 or 8 bits, and their file in a checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from medimind.errors import MissingExtraError
from medimind.training.tensors import read_tensors, take_tensor

OPTIMIZER_FILE = "optimizer.safetensors"
OptimizerName = Literal["adamw", "adamw_8bit"]
MOMENT_BYTES: dict[OptimizerName, int] = {"adamw": 4, "adamw_8bit": 1}


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    name: OptimizerName = "adamw",
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019); its rate is set at each step.

    ``adamw_8bit`` holds its moments in blocks of 8-bit values (Dettmers et al., 2022, arXiv
    2110.02861), by bitsandbytes.

    Raises:
        MissingExtraError: bitsandbytes is asked for and not installed.
    """
    options: dict[str, Any] = {
        "lr": 0.0,
        "betas": betas,
        "eps": epsilon,
        "weight_decay": weight_decay,
    }
    if name == "adamw":
        return torch.optim.AdamW(list(parameters.values()), fused=True, **options)
    require_optimizer(name)
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(list(parameters.values()), **options)


def require_optimizer(name: OptimizerName) -> None:
    """Find out before anything is loaded whether the optimizer is there.

    Raises:
        MissingExtraError: It is not.
    """
    if name == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", extra="adamw-8bit")


def save_optimizer(
    path: Path, optimizer: torch.optim.Optimizer, *, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Write the moments of each parameter, under its name."""
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, tensor in _moments(optimizer.state[parameter]).items()
    }
    save_file(tensors, path)


def load_optimizer(
    path: Path,
    optimizer: torch.optim.Optimizer,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    step: int,
) -> None:
    """Put the moments back, as after ``step`` steps.

    Raises:
        ResumeError: The file is of other parameters, or of another optimizer.
    """
    tensors = read_tensors(path)
    for index, (name, parameter) in enumerate(parameters.items()):
        _begin(optimizer, parameter, index=index, step=step)
        for key, tensor in _moments(optimizer.state[parameter]).items():
            tensor.copy_(take_tensor(tensors, f"{name}.{key}", tensor.shape, path=path))


def _moments(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a parameter's state has learned: no step, no constant table."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key != "step" and not key.startswith("qmap")
    }


def _begin(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, *, index: int, step: int
) -> None:
    """A parameter's state after so many steps, with moments of 0."""
    state = optimizer.state[parameter]
    if isinstance(optimizer, torch.optim.AdamW):
        state["step"] = torch.tensor(float(step), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter.data)
        state["exp_avg_sq"] = torch.zeros_like(parameter.data)
        return
    eight_bit: Any = optimizer
    eight_bit.init_state(eight_bit.param_groups[0], parameter, 0, index)
    state["step"] = step
