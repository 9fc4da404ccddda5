"""Tensors of a checkpoint, as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medimind.errors import ResumeError, TrainingError
from medimind.models.adapter import WEIGHTS

ADAPTER_FOLDER = "adapter"


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


def load_adapter_values(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Copy an adapter's file into parameters that are there already.

    Raises:
        ResumeError: The file is of other parameters.
    """
    path = folder / WEIGHTS
    tensors = read_tensors(path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(take_tensor(tensors, name, parameter.shape, path=path))
    if len(tensors) != len(parameters):
        raise ResumeError(
            f"{len(tensors)} tensors are saved, the adapter has {len(parameters)}",
            where=str(path),
            fix=_FIX,
        )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file.

    Raises:
        ResumeError: It cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ResumeError(f"the file cannot be read: {error}", where=str(path), fix=_FIX) from None


def take_tensor(
    tensors: Mapping[str, torch.Tensor], name: str, shape: torch.Size, *, path: Path
) -> torch.Tensor:
    """One of them.

    Raises:
        ResumeError: It is missing or of another shape.
    """
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
