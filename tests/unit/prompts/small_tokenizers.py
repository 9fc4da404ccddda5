"""Tokenizers small enough to make in a test."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

TEXT = """A 54-year-old woman has chest pain and fever. Let me think about what fits the findings.
The patient needs an ECG, then aspirin 300 mg. Thinking step by step: pain, troponin, risk.
## Thinking ## Final Response Answer: A. Question: <think> </think> 患者发热三天，考虑肺炎。"""
CONTROL = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>")


def small_backend(
    *, control: tuple[str, ...] = CONTROL, plain_added: tuple[str, ...] = ()
) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of about 400 tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in control])
    backend.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in plain_added])
    return backend


def write_folder(folder: Path, backend: tokenizers.Tokenizer, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
