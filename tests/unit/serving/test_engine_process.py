"""The engine's process: real SmolLM2, killed and started again; and ended with its server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from medimind.engines.gguf_chat import open_chat
from medimind.errors import EngineError
from medimind.export.gguf import About, export_gguf, open_weights
from medimind.prompts.template_process import template_process
from medimind.serving.backend import Ask, Ended
from medimind.serving.engine_process import EngineProcess
from medimind.serving.failures import ServingError
from medimind.serving.llama_backend import LlamaBackend
from tiny_checkpoints import write_folder

pytest.importorskip("xllamacpp", reason="the extra 'serve' is not installed")


def ask(text="What is fever?", *, max_tokens=8, stop=()):
    return Ask((("user", text),), "base", max_tokens, 0.0, 1.0, 1, stop)


def backend(path):
    return LlamaBackend(
        path, chat=open_chat(path), adapter=None, context=256, parallel=1, threads=1
    )


async def collect(engine, asked):
    pieces = [piece async for piece in engine.generate(asked, await engine.prepare(asked))]
    return "".join(piece.text for piece in pieces[:-1]), pieces[-1]


def test_it_answers_stops_refuses_dies_and_comes_back(smollm2_gguf):
    async def go():
        engine = backend(smollm2_gguf)
        await engine.start()
        try:
            assert engine.is_ready
            text, ended = await collect(engine, ask())
            assert isinstance(ended, Ended)
            assert (ended.finish_reason, ended.num_tokens) == ("length", 8)
            assert text.startswith("Fever")
            cut, ended = await collect(engine, ask(stop=(text[5:8],)))
            assert (cut, ended.finish_reason) == (text[:5], "stop")
            with pytest.raises(ServingError) as refused:
                await engine.prepare(ask("word " * 300))
            assert refused.value.code == "context_length_exceeded"
            await _cancelled(engine)
            await _killed(engine)
            assert (await collect(engine, ask()))[0] == text
        finally:
            await engine.close()
        assert not engine.is_ready

    asyncio.run(go())


async def _rest(pieces):
    async for _ in pieces:
        continue


async def _cancelled(engine):
    """A generation that is closed frees llama.cpp's only slot within a second."""
    asked = ask("Tell a long story.", max_tokens=200)
    pieces = engine.generate(asked, await engine.prepare(asked))
    await anext(pieces)
    await pieces.aclose()
    started = time.perf_counter()
    await collect(engine, ask(max_tokens=1))
    assert time.perf_counter() - started < 5  # generous: this machine may be busy


def test_a_prompt_that_nobody_waits_for_is_not_read_to_its_end(smollm2_gguf):
    """Held to the processor time of reading such a prompt, as other programs run here too."""

    async def go():
        engine = LlamaBackend(
            smollm2_gguf, chat=open_chat(smollm2_gguf), adapter=None,
            context=512, parallel=1, threads=1,
        )  # fmt: skip
        await engine.start()
        try:
            before = used(engine)
            await collect(engine, ask("fever " * 400, max_tokens=1))
            whole = used(engine) - before
            asked = ask("cough " * 400, max_tokens=1)
            before = used(engine)
            reading = asyncio.create_task(collect(engine, asked))
            while used(engine) - before < whole / 10 and not reading.done():
                await asyncio.sleep(0.01)
            assert reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            before = used(engine)
            await collect(engine, ask(max_tokens=1))
            assert used(engine) - before < whole / 2
        finally:
            await engine.close()

    asyncio.run(go())


def used(engine):
    """Processor seconds of the engine's process."""
    times = psutil.Process(engine.process.pid).cpu_times()
    return times.user + times.system


async def _killed(engine):
    asked = ask("Tell a long story.", max_tokens=200)
    pieces = engine.generate(asked, await engine.prepare(asked))
    await anext(pieces)
    before = engine.process.pid
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ServingError) as told:
        await _rest(pieces)
    assert (told.value.status, told.value.code) == (503, "engine_stopped")
    async with asyncio.timeout(60):
        while engine.process.pid == before or not engine.is_ready:
            await asyncio.sleep(0.01)
    assert engine.num_restarts == 1


def test_a_model_that_cannot_be_loaded_is_told_at_the_start(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    settings = {"model": str(path), "adapter": None, "context": 64, "parallel": 1}
    process = EngineProcess({**settings, "threads": 1, "batch": 64})
    with pytest.raises(EngineError, match="cannot load"):
        asyncio.run(process.start())


def test_a_chat_template_that_loops_is_a_bad_request(tmp_path, processor_seconds):
    base = write_folder(tmp_path / "base", "llama")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (base / "chat_template.jinja").write_text(loop, encoding="utf-8")
    path = tmp_path / "m.gguf"
    export_gguf(open_weights(base), path, quantization="q8_0", model=base, about=About(name="m"))
    engine = backend(path)
    template_process.close()  # all of a worker's life counts when it ends, so a new one
    started = processor_seconds()
    with pytest.raises(ServingError, match="chat template fails") as refused:
        asyncio.run(engine.prepare(ask()))
    assert processor_seconds() - started < 3  # 1.5, and its start
    assert refused.value.status == 400


def test_the_engine_ends_with_its_server(smollm2_gguf):
    """Its input is the server's pipe: when that breaks, it ends by itself."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "medimind.serving.engine_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(
        f'{{"model": "{smollm2_gguf}", "adapter": null, "context": 64, "parallel": 1, '
        '"threads": 1, "batch": 64, "key": "k"}\n'
    )
    worker.stdin.flush()
    assert "http://127.0.0.1:" in worker.stdout.readline()
    worker.stdin.close()
    assert worker.wait(10) == 0
    worker.stdout.close()
