"""Cards without bf16 (T4, compute capability 7.5): nothing asks for it, and fp16 has a way."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import medimind.kernels
from medimind.cli.main import main
from medimind.kernels.attention.forward import choose_backend
from medimind.kernels.nf4_linear.forward import rounds_in_pairs
from medimind.models.graph_decode import unit_products
from medimind.models.load import pick_dtype

KERNELS = Path(medimind.kernels.__file__).parent
T4_GIB = "14.56GiB"
HOPPERS_OWN = "nf4_linear/hopper_kernel.py"
"""Of that chip's instructions; ``unit_products`` turns to it on compute capability 9 alone."""


def _triton_functions():
    for path in sorted(KERNELS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            jitted = isinstance(node, ast.FunctionDef) and any(
                "jit" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            if jitted:
                yield f"{path.relative_to(KERNELS)}:{node.name}", node


def _asks_for_bf16(node: ast.AST) -> bool:
    """Whether bf16 is named other than behind ``if ... == tl.bfloat16``."""
    if isinstance(node, ast.If) and "== tl.bfloat16" in ast.unparse(node.test):
        return any(map(_asks_for_bf16, node.orelse))
    named = isinstance(node, ast.Attribute) and node.attr == "bfloat16"
    return named or any(map(_asks_for_bf16, ast.iter_child_nodes(node)))


def test_no_kernel_names_bf16_but_for_bf16():
    found = dict(_triton_functions())
    assert len(found) > 10
    for name, node in found.items():
        assert name.startswith(HOPPERS_OWN) or not _asks_for_bf16(node), name
    assert unit_products.CAPABILITY == 9


def test_what_is_looked_for_would_be_found():
    behind = "if kind == tl.bfloat16:\n  a = tl.bfloat16\nelse:\n  a = tl.float16"
    assert not _asks_for_bf16(ast.parse(behind))
    assert _asks_for_bf16(ast.parse(behind.replace("float16", "bfloat16").replace("bb", "b")))
    assert _asks_for_bf16(ast.parse("a = x.to(tl.bfloat16)"))


def test_a_t4_decodes_nf4_without_instructions_of_later_cards(monkeypatch):
    x = SimpleNamespace(is_cuda=True, dtype=torch.float16, device="cuda")
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert rounds_in_pairs(x) is expected


@pytest.mark.parametrize("equal", [True, False])
def test_attention_and_dtype_of_a_t4(monkeypatch, equal):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    card = torch.device("cuda")
    assert choose_backend(card, torch.float16, head_dim=128, equal=equal) == "efficient"
    assert pick_dtype("auto", device=card) == torch.float16


def test_the_t4_recipe_fits_a_t4(capsys):
    assert main(["plan", "kaggle-t4", "--gpu-memory", T4_GIB]) == 0
    assert "2,048 tokens a micro-batch" in capsys.readouterr().out
