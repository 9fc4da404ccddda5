"""llama.cpp's server inside this process, from the prebuilt wheel of ``xllamacpp``."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from medimind.errors import CheckpointError, MissingExtraError


def start_llama(
    model: Path,
    *,
    key: str,
    adapter: Path | None,
    context: int,
    parallel: int,
    threads: int,
    batch: int | None = None,
) -> Any:
    """A running ``xllamacpp.Server``, which listens on a loopback port and wants the key.

    Args:
        model: GGUF file.
        key: Bearer token of its port.
        adapter: GGUF LoRA, off until a request switches it on.
        context: Longest prompt and output together, of each of the ``parallel`` outputs.
        parallel: Outputs generated at a time.
        threads: Of the computation.
        batch: Prompt tokens computed at a time. Nothing is cancelled within a batch, so a server
            wants it small.

    Raises:
        CheckpointError: If llama.cpp cannot load the files.
        MissingExtraError: If xllamacpp is not installed.
    """
    llama = import_xllamacpp()
    params = llama.CommonParams()
    params.model.path = str(model)
    params.n_ctx = context * parallel
    params.n_parallel = parallel
    if batch is not None:
        params.n_batch = params.n_ubatch = batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    # Threads that wait by spinning starve where other programs run: a prompt took 20 times as long.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.warmup = False
    params.cache_ram_mib = 0  # else prompts of the past may take 8 GiB
    # Chats are rendered by us: a hostile template in the file is never run by llama.cpp.
    params.enable_chat_template = False
    params.use_jinja = False
    params.chat_template = "chatml"
    params.api_keys = [key]
    params.cors_origins = ""
    params.ui = False
    if adapter is not None:
        lora = llama.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
        params.lora_init_without_apply = True
    try:
        return llama.Server(params)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"llama.cpp cannot load it ({error})",
            where=str(model if adapter is None else f"{model} with {adapter}"),
            fix="Check that model and adapter belong together and fit the memory",
        ) from error


def import_xllamacpp() -> ModuleType:
    """The package, or what to do where it is missing."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the library is loaded
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtraError("xllamacpp", extra="local", error=error) from error
    return xllamacpp
