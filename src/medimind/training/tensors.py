"""Adapter and optimizer of a checkpoint, as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medimind.errors import ResumeError, TrainingError
from medimind.models.adapter import WEIGHTS

ADAPTER_FOLDER = "adapter"
OPTIMIZER_FILE = "optimizer.safetensors"
_AVERAGES = ("exp_avg", "exp_avg_sq")


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019), fused; its rate is set at each step."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=0.0,
        betas=betas,
        eps=epsilon,
        weight_decay=weight_decay,
        fused=True,
    )


def require_finite(parameters: Mapping[str, torch.Tensor], *, step: int) -> None:
    """Refuse to save values that are not finite.

    Raises:
        TrainingError: Names the first such parameter.
    """
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise TrainingError(
                f"the adapter's {name} is no longer finite and was not saved",
                where=f"step {step}",
                fix="Resume from the last checkpoint with a lower train.learning_rate",
            )


def save_optimizer(
    path: Path, optimizer: torch.optim.AdamW, *, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Write the averages of each parameter, under its name."""
    tensors = {
        f"{name}.{average}": optimizer.state[parameter][average].detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for average in _AVERAGES
    }
    save_file(tensors, path)


def load_optimizer(
    path: Path,
    optimizer: torch.optim.AdamW,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    step: int,
) -> None:
    """Put the averages back, as after ``step`` steps.

    Raises:
        ResumeError: The file is of other parameters.
    """
    tensors = _read(path)
    state = {}
    for index, (name, parameter) in enumerate(parameters.items()):
        averages = {
            average: _take(tensors, f"{name}.{average}", parameter.shape, path=path)
            for average in _AVERAGES
        }
        state[index] = {"step": torch.tensor(float(step)), **averages}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_adapter_values(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Copy an adapter's file into parameters that are there already.

    Raises:
        ResumeError: The file is of other parameters.
    """
    path = folder / WEIGHTS
    tensors = _read(path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_take(tensors, name, parameter.shape, path=path))
    if len(tensors) != len(parameters):
        raise ResumeError(
            f"{len(tensors)} tensors are saved, the adapter has {len(parameters)}",
            where=str(path),
            fix=_FIX,
        )


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ResumeError(f"the file cannot be read: {error}", where=str(path), fix=_FIX) from None


def _take(
    tensors: Mapping[str, torch.Tensor], name: str, shape: torch.Size, *, path: Path
) -> torch.Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != shape:
        found = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise ResumeError(
            f"the tensor {name} {found}, the adapter wants {tuple(shape)}",
            where=str(path),
            fix=_FIX,
        )
    return tensor


_FIX = "Resume with the recipe the run was started with, or start over in another folder"
