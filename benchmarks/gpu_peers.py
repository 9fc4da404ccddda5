"""A peer's training step as a worker: one JSON request a line in, one JSON answer a line out.

    python benchmarks/gpu_peers.py make FOLDER TOKENIZER_FOLDER     # random 8B checkpoint, 16 GB
    python benchmarks/gpu_peers.py {unsloth,hf} FOLDER              # then requests on stdin

A request is ``{"batch": 2, "sequence": 2048, "checkpointing": true, "repeats": 8}``. The model
stays loaded between requests, so that a driver can time us and a peer in alternation.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
GIB = 1 << 30
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_checkpoint(folder: str, tokenizer: str) -> None:
    """Write random weights in the shape of DeepSeek-R1-Distill-Llama-8B."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    scaling = {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=scaling,
        tie_word_embeddings=False,
        bos_token_id=128000,
        eos_token_id=128001,
        pad_token_id=128001,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer) / name, folder)


def load_unsloth(folder: str):
    import torch
    import unsloth  # noqa: F401  (must come before transformers)
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        folder, max_seq_length=8192, dtype=torch.bfloat16, load_in_4bit=True
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=16,
        target_modules=TARGETS,
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=3407,
    )


def load_hf(folder: str):
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=quantization,
        dtype=torch.bfloat16,
        device_map={"": 0},
        attn_implementation="sdpa",
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def set_checkpointing(model, framework: str, wanted: bool) -> None:
    if framework == "unsloth":
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = wanted
    elif wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    else:
        model.gradient_checkpointing_disable()


def answer(model, optimizer, framework: str, request: dict) -> dict:
    import torch

    set_checkpointing(model, framework, request["checkpointing"])
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    shape, times, loss = (request["batch"], request["sequence"]), [], None
    for index in range(3 + request["repeats"]):
        ids = torch.randint(0, 128000, shape, device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if index >= 3:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    result = {
        "seconds": round(seconds, 5),
        "tokens_per_second": round(shape[0] * shape[1] / seconds),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "loss": round(float(loss.detach()), 4),
    }
    loss = None
    torch.cuda.empty_cache()
    return result


def answer_job(model, optimizer, framework: str, request: dict) -> dict:
    """Time optimizer steps over rows of given lengths, padded to the longest of a micro-batch.

    All of them count, the first too, as on our side; other shapes have been trained on before.
    """
    import torch

    set_checkpointing(model, framework, request["checkpointing"])
    torch.cuda.synchronize()
    start = time.perf_counter()
    for step in request["job"]:
        for lengths in step:
            longest = max(lengths)
            ids = torch.randint(0, 128000, (len(lengths), longest), device="cuda")
            used = (
                torch.arange(longest, device="cuda") < torch.tensor(lengths, device="cuda")[:, None]
            )
            labels = torch.where(used, ids, -100)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=used.long(), labels=labels).loss
            (loss / len(step)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    return {"seconds": round(time.perf_counter() - start, 3)}


def serve(framework: str, folder: str) -> None:
    """Answer requests until stdin ends; answers go to the real stdout, chatter to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = time.perf_counter()
    model = load_unsloth(folder) if framework == "unsloth" else load_hf(folder)
    import bitsandbytes
    import torch

    model.train()
    model.config.use_cache = False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = bitsandbytes.optim.AdamW8bit(trained, lr=2e-4)
    ready = {
        "load_seconds": round(time.perf_counter() - start, 1),
        "weights_gib": round(torch.cuda.memory_allocated() / GIB, 2),
    }
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            function = answer_job if "job" in request else answer
            result = function(model, optimizer, framework, request)
        except (RuntimeError, ValueError, TypeError) as error:
            torch.cuda.empty_cache()
            result = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make_checkpoint(sys.argv[2], sys.argv[3])
    else:
        serve(sys.argv[1], sys.argv[2])
