"""A real browser, as a phone holds it; skipped with the reason where something is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chromium import CHROMIUM, FLAGS, PHONE
from stub_server import STATIC

from medimind.config import ModelConfig
from medimind.config.prompt import PromptConfig
from medimind.export.gguf import About, export_gguf_adapter
from medimind.models.adapter import save_adapter
from medimind.models.load import load_model
from medimind.models.lora import attach_lora, lora_parameters


@pytest.fixture(scope="module")
def driver():
    """Playwright, for one module: while it is open, its thread can run no other event loop.

    So it is closed before modules of other folders have their turn in the same process.
    """
    api = pytest.importorskip(
        "playwright.sync_api", reason="the package playwright is not installed"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's package, or set CHROME_PATH")
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def playwright(driver):
    if not (STATIC / "index.html").is_file():
        pytest.skip("the phone app is not built: python web/hatch_build.py")
    return driver


@pytest.fixture(scope="module")
def browser(playwright):
    opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield opened
    opened.close()


@pytest.fixture
def profile(playwright, tmp_path):
    """A phone with a profile on disk, as an installed app has it."""
    context = playwright.chromium.launch_persistent_context(
        str(tmp_path / "profile"), executable_path=CHROMIUM, args=FLAGS, **PHONE
    )
    yield context
    context.close()


@pytest.fixture(scope="session")
def device_files(smollm2_gguf, tmp_path_factory) -> dict[str, Path]:
    """SmolLM2, and an adapter on it that medimind made."""
    folder = tmp_path_factory.mktemp("device")
    adapter = write_adapter(smollm2_gguf, folder / "clinical-adapter.gguf")
    return {"smollm2-135m.gguf": smollm2_gguf, adapter.name: adapter}


def write_adapter(model_path: Path, path: Path) -> Path:
    """A small random adapter for `model_path`: it knows nothing, but changes every answer."""
    model = load_model(ModelConfig(path=str(model_path), quantization="none", device="cpu"))
    attach_lora(model.decoder, rank=4, alpha=8, targets=("q_proj", "v_proj", "o_proj"), seed=1)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in lora_parameters(model.decoder).items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    folder = path.parent / "adapter"
    save_adapter(folder, model.decoder, base_model_name="SmolLM2-135M-Instruct")
    export_gguf_adapter(
        folder,
        path,
        architecture=model.architecture,
        about=About(name="clinical-adapter"),
        prompt=PromptConfig(template="chatml"),
    )
    return path


@pytest.fixture
def stub() -> Iterator[object]:
    """The stand-in server, without model files."""
    from stub_server import StubServer

    server = StubServer()
    yield server
    server.close()
