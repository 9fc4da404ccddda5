"""Token ids of 1,000 rendered chats: ours, transformers', and llama.cpp's from the exported file.

    python benchmarks/gguf_tokens.py --shared ../shared

For each tokenizer a tiny model of random weights is exported with it, and llama.cpp tokenises from
that file's header alone. The chats are medical-o1 rows (English and Chinese, with thoughts) and
conversations of several turns about exam questions, some of which hold control tokens as text,
emoji, tabs and odd spaces. ``AutoTokenizer`` is counted apart: some releases of transformers
rebuild an R1 tokenizer from its class name and lose the spaces.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medimind.cases.case import Case, Turn
from medimind.config.prompt import PromptConfig
from medimind.engines.llama_cpp import LlamaCppEngine
from medimind.export.gguf import About, export_gguf, open_weights
from medimind.models.resolve import resolve_model
from medimind.prompts.render import render_inference, render_training
from medimind.prompts.templates import Template, get_template
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gguf_tokens.json"
ODD = (
    " \t tabs\tand   spaces \n\n\n new lines",
    " emoji 🩺👩🏽‍⚕️, accents naïve café, units 38.5 °C, 10⁹/L, μg",
    " control tokens: <|im_end|> <think> </think> <｜end▁of▁sentence｜> <|eot_id|>",
    " digits 1234567890 and 3.14159e-10; CamelCase_snake-case's they'll we're",
)


def chats(shared: Path) -> Iterator[tuple[Case, bool]]:
    """1,000 cases, and whether they are rendered with their output."""
    data = shared / "data"
    rows = [json.loads(line) for line in (data / "cot/medical_o1_500.jsonl").open(encoding="utf-8")]
    rows += json.loads((data / "cot/medical_o1_zh_200.json").read_text(encoding="utf-8"))
    for number, row in enumerate(rows[:700]):
        question, thoughts, response = row["Question"], row["Complex_CoT"], row["Response"]
        yield Case(str(number), question, response, reasoning=thoughts), True
    questions = [
        json.loads(line)
        for line in (data / "mcq/medqa_us_4op_test_part.jsonl").open("r", encoding="utf-8")
    ]
    for number in range(300):
        first, last = questions[number % len(questions)], questions[-1 - number % len(questions)]
        history = (Turn("user", first["question"]), Turn("assistant", first["answer"]))
        text = last["question"] + ODD[number % len(ODD)]
        yield Case(f"chat-{number}", text, "", history=history), False


def rendered(case: Case, with_output: bool, template: Template, tokenizer: Tokenizer) -> list[int]:
    if with_output:
        prompt = render_training(case, template=template, tokenizer=tokenizer)
        return prompt.token_ids_S.tolist()
    return render_inference(case, template=template, tokenizer=tokenizer)


def model_folder(source: Path, folder: Path) -> Path:
    """A tiny model of random weights with the tokenizer of ``source``."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_checkpoints import make_transformers_model

    tokenizer = load_tokenizer(source)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    model = make_transformers_model("llama", vocab_size=tokenizer.vocab_size + 64, **ids)
    model.save_pretrained(folder)
    if source.is_file():
        tokenizer.save(folder)
    else:
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


def compare(source: Path, folder: Path, template_name: str, shared: Path) -> dict[str, Any]:
    base = model_folder(source, folder / "model")
    file = export_gguf(
        open_weights(base),
        folder / "model.gguf",
        quantization="f16",
        model=base,
        about=About(name="tokens"),
    )
    tokenizer = load_tokenizer(base)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(base)
    engine = LlamaCppEngine(file.path, context=64)
    template = get_template(PromptConfig.model_validate({"template": template_name}))
    counts = dict.fromkeys(
        ("chats", "tokens", "transformers", "llama_cpp", "llama_cpp_by_our_reader",
         "round_trips", "rendered_as_one_text", "auto_tokenizer"), 0
    )  # fmt: skip
    differing = []
    for case, with_output in chats(shared):
        rendered_ids = rendered(case, with_output, template, tokenizer)
        text = tokenizer.decode(rendered_ids)
        ids = tokenizer.encode(text)
        of_llama_cpp = engine.tokenize(text)
        counts["chats"] += 1
        counts["tokens"] += len(ids)
        counts["transformers"] += theirs.encode(text, add_special_tokens=False) == ids
        counts["auto_tokenizer"] += auto.encode(text, add_special_tokens=False) == ids
        counts["llama_cpp"] += of_llama_cpp == ids
        counts["llama_cpp_by_our_reader"] += engine.tokenizer.encode(text) == ids
        counts["round_trips"] += tokenizer.decode(ids) == text
        counts["rendered_as_one_text"] += rendered_ids == ids
        if of_llama_cpp != ids:
            differing.append(case.id)
    engine.close()
    return {**counts, "llama_cpp_differs_in": differing[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    tokenizers = arguments.shared / "tokenizers"
    sources = {
        "SmolLM2": (resolve_model("smollm2-135m-instruct").path, "chatml"),
        "DeepSeek-R1-Distill-Llama": (tokenizers / "deepseek-r1-distill-llama-8b", "r1"),
        "DeepSeek-R1-Distill-Qwen": (tokenizers / "deepseek-r1-distill-qwen-7b", "r1"),
    }
    found = {}
    for name, (source, template) in sources.items():
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = compare(source, Path(scratch), template, arguments.shared)
        print(name, json.dumps(found[name]), flush=True)
    versions = ("medimind", "tokenizers", "transformers", "xllamacpp")
    result = {
        "same_ids_as_ours": found,
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/gguf_tokens.py",
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
