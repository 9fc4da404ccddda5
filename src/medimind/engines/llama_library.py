"""llama.cpp's library, as ``llama-cpp-python`` brings it: one model, one sequence, one adapter.

That package's own ``Llama`` class compiles the chat template of a file, and Jinja computes constant
expressions while it compiles: a hostile file could hold it for ever. So only the library beneath it
is called.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medimind.errors import CheckpointError, EngineError, MissingExtraError

_BATCH = 512


def import_llama_cpp() -> ModuleType:
    """The package, or what to do where it is missing."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # as its own loader raises them
        extra = "llama-cpp-python"
        raise MissingExtraError("llama_cpp", extra=extra, error=error) from error
    # It prints what its logger lets through; what matters arrives as return values.
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)
    return llama_cpp


class LlamaLibrary:
    """A loaded model.

    Args:
        model: GGUF file.
        adapter: GGUF LoRA.
        context: Longest sequence in tokens.
        threads: Of the computation.

    Raises:
        CheckpointError: If llama.cpp cannot load the files.
        MissingExtraError: If llama-cpp-python is not installed.
    """

    def __init__(self, model: Path, *, adapter: Path | None, context: int, threads: int) -> None:
        self._lib: Any = import_llama_cpp()
        self._lock = threading.Lock()
        self._where = model.name
        self._read: list[int] = []
        self._is_on = False
        self._context: Any = None
        self._adapter: Any = None
        self._lib.llama_backend_init()
        params = self._lib.llama_model_default_params()
        self._model = self._lib.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise _not_loaded(model)
        try:
            self._context = self._lib.llama_init_from_model(
                self._model, self._context_params(context, threads)
            )
            if not self._context:
                raise _not_loaded(model)
            if adapter is not None:
                self._adapter = self._lib.llama_adapter_lora_init(
                    self._model, str(adapter).encode()
                )
                if not self._adapter:
                    raise _not_loaded(f"{model} with {adapter}")
        except CheckpointError:
            self.close()
            raise
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self._num_tokens = int(self._lib.llama_vocab_n_tokens(self._vocabulary))

    def _context_params(self, context: int, threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = min(context, _BATCH)
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        return params

    def sampler(self, *, temperature: float, top_p: float, seed: int) -> Any:
        """What chooses tokens; give it back with `free_sampler`."""
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if temperature == 0:
            chosen = [lib.llama_sampler_init_greedy()]
        else:
            chosen = [
                lib.llama_sampler_init_top_p(top_p, 1),
                lib.llama_sampler_init_temp(temperature),
                lib.llama_sampler_init_dist(seed & 0xFFFFFFFF),
            ]
        for sampler in chosen:
            lib.llama_sampler_chain_add(chain, sampler)
        return chain

    def free_sampler(self, sampler: Any) -> None:
        """Free what `sampler` gave."""
        self._lib.llama_sampler_free(sampler)

    def next_token(self, ids: Sequence[int], *, adapter_on: bool, sampler: Any) -> int:
        """The token that the sampler chooses after a text.

        Raises:
            EngineError: If llama.cpp cannot read the text.
        """
        with self._lock:
            self._advance(ids, adapter_on=adapter_on)
            return int(self._lib.llama_sampler_sample(sampler, self._context, -1))

    def logits(self, ids: Sequence[int], *, adapter_on: bool) -> NDArray[np.float32]:
        """Logits of the next token, ``(V,)``.

        Raises:
            EngineError: If llama.cpp cannot read the text.
        """
        with self._lock:
            self._advance(ids, adapter_on=adapter_on)
            pointer = self._lib.llama_get_logits_ith(self._context, -1)
            return np.ctypeslib.as_array(pointer, shape=(self._num_tokens,)).copy()

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an output."""
        is_end = self._lib.llama_vocab_is_eog
        return frozenset(i for i in range(self._num_tokens) if is_end(self._vocabulary, i))

    def tokenize(self, text: str) -> list[int]:
        """The ids that llama.cpp itself gives a text, control tokens read; no BOS is added."""
        data = text.encode()
        room = len(data) + 8  # no token is shorter than a byte
        found = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(
            self._vocabulary, data, len(data), found, room, False, True
        )
        if count < 0:
            raise EngineError("llama.cpp cannot tokenise the text", where=self._where)
        return list(found[:count])

    def close(self) -> None:
        """Free everything; the adapter goes with its model."""
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._context = self._model = self._adapter = None

    def _advance(self, ids: Sequence[int], *, adapter_on: bool) -> None:
        """Read a text; what was computed for the same beginning is used again."""
        if self._context is None:
            raise EngineError("the engine is closed", where=self._where)
        if adapter_on != self._is_on:
            self._switch(adapter_on)
        limit = min(len(self._read), len(ids) - 1)  # the last one is read in any case: its logits
        same = next((at for at in range(limit) if self._read[at] != ids[at]), limit)
        memory = self._lib.llama_get_memory(self._context)
        if not self._lib.llama_memory_seq_rm(memory, 0, same, -1):
            self._lib.llama_memory_clear(memory, True)
            same = 0
        self._read = self._read[:same]
        for start in range(same, len(ids), _BATCH):
            part = list(ids[start : start + _BATCH])
            tokens = (self._lib.llama_token * len(part))(*part)
            status = self._lib.llama_decode(
                self._context, self._lib.llama_batch_get_one(tokens, len(part))
            )
            if status:
                self._read = []
                self._lib.llama_memory_clear(memory, True)
                raise EngineError(
                    f"llama.cpp cannot read the text (status {status})", where=self._where
                )
            self._read += part

    def _switch(self, adapter_on: bool) -> None:
        if adapter_on and self._adapter is None:
            raise EngineError(
                "no adapter is loaded", where=self._where, fix="Give one, or ask the base model"
            )
        count = 1 if adapter_on else 0
        adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        scales = (ctypes.c_float * 1)(1.0)
        if self._lib.llama_set_adapters_lora(self._context, adapters, count, scales):
            raise EngineError("llama.cpp cannot switch the adapter", where=self._where)
        self._is_on, self._read = adapter_on, []


def _not_loaded(what: Path | str) -> CheckpointError:
    return CheckpointError(
        "llama.cpp cannot load it",
        where=str(what),
        fix="Check that model and adapter belong together and fit the memory",
    )
