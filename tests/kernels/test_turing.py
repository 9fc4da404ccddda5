"""Cards without bf16 (T4, compute capability 7.5): nothing asks for it, and fp16 has a way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import medimind.kernels
from medimind.cli.main import main
from medimind.kernels.attention.forward import choose_backend
from medimind.models.load import pick_dtype

KERNELS = Path(medimind.kernels.__file__).parent
T4_GIB = "14.56GiB"


def _triton_functions():
    for path in sorted(KERNELS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            jitted = isinstance(node, ast.FunctionDef) and any(
                "jit" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            if jitted:
                yield f"{path.relative_to(KERNELS)}:{node.name}", node


def test_no_kernel_names_bf16():
    found = dict(_triton_functions())
    assert len(found) > 10
    for name, node in found.items():
        attributes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        assert "bfloat16" not in attributes, name


@pytest.mark.parametrize("equal", [True, False])
def test_attention_and_dtype_of_a_t4(monkeypatch, equal):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    card = torch.device("cuda")
    assert choose_backend(card, torch.float16, head_dim=128, equal=equal) == "efficient"
    assert pick_dtype("auto", device=card) == torch.float16


def test_the_t4_recipe_fits_a_t4(capsys):
    assert main(["plan", "kaggle-t4", "--gpu-memory", T4_GIB]) == 0
    assert "2,048 tokens a micro-batch" in capsys.readouterr().out
