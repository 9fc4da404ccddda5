"""A Modelfile: how Ollama runs an exported file, asked by the template that it was tuned with.

Ollama's templates are Go's ``text/template`` over ``.Messages``; BOS is added by its tokenizer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from medimind.errors import ExportError
from medimind.prompts.templates import ChatTemplate, Template, TextTemplate
from medimind.prompts.tokenizer import Tokenizer
from medimind.tracking.run_folder import write_atomically

MODELFILE = "Modelfile"


def modelfile(
    *,
    model: str,
    adapter: str | None = None,
    template: Template,
    tokenizer: Tokenizer,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    context: int,
) -> str:
    """The text of a Modelfile.

    Args:
        model: Path of the GGUF file, relative to the Modelfile's folder.
        adapter: Path of a GGUF LoRA to be laid over it.
        template: What the model was tuned with.
        tokenizer: The model's.
        temperature: Of the sampling; 0 is greedy.
        top_p: Of the sampling.
        max_new_tokens: Longest output.
        context: Prompt and output together.
    """
    stops = list(template.stop)
    end = template.end_token(tokenizer)
    stops += [end] if end is not None and end not in stops else []
    lines = [f"FROM ./{model}"]
    lines += [f"ADAPTER ./{adapter}"] if adapter else []
    lines += [f'TEMPLATE """{go_template(template, tokenizer)}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [
        f"PARAMETER temperature {temperature:g}",
        f"PARAMETER top_p {top_p:g}",
        f"PARAMETER num_predict {max_new_tokens}",
        f"PARAMETER num_ctx {context}",
    ]
    return "\n".join(lines) + "\n"


def go_template(template: Template, tokenizer: Tokenizer) -> str:
    """The template in Go's language.

    Raises:
        ExportError: If its text holds what no Modelfile can hold.
    """
    if isinstance(template, ChatTemplate):
        text = _of_turns(template, tokenizer)
    elif isinstance(template, TextTemplate):
        text = _of_text(template)
    else:
        raise TypeError(f"no form for Ollama is known of {type(template).__name__}")
    if '"""' in text:
        raise ExportError(
            'the template holds """, which no Modelfile can hold', fix="Change the template"
        )
    return text


def create(name: str, folder: Path) -> None:
    """Have Ollama read the Modelfile of a folder.

    Raises:
        ExportError: If Ollama is not installed or fails.
    """
    program = shutil.which("ollama")
    if program is None:
        raise ExportError(
            "the program 'ollama' is not installed here",
            where=str(folder / MODELFILE),
            fix=f"Where it is, run in that folder: ollama create {name} -f {MODELFILE}",
        )
    done = subprocess.run(
        [program, "create", name, "-f", MODELFILE],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ExportError(
            f"ollama create failed: {done.stderr.strip()[-400:]}", where=str(folder / MODELFILE)
        )


def write_modelfile(folder: Path, text: str) -> Path:
    """Write the Modelfile of a folder."""
    path = folder / MODELFILE
    write_atomically(path, text)
    return path


def _of_turns(template: ChatTemplate, tokenizer: Tokenizer) -> str:
    frame = template.frame(tokenizer)
    default = template.system
    if default is None:
        default = frame.default_system(tokenizer.chat_template)
    system = f"{_text(frame.system[0])}{{{{ .System }}}}{_text(frame.system[1])}"
    otherwise = _text(frame.system[0] + default.strip() + frame.system[1]) if default else ""
    opening = template.reasoning_open if template.open_in_prompt else ""
    user = f"{_text(frame.user[0])}{{{{ .Content }}}}{_text(frame.user[1])}"
    assistant = f"{_text(frame.assistant[0])}{{{{ .Content }}}}{_text(frame.assistant[1])}"
    return (
        f"{{{{ if .System }}}}{system}{{{{ else }}}}{otherwise}{{{{ end }}}}"
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}'
        f"{_text(frame.assistant[0] + opening)}"
    )


def _of_text(template: TextTemplate) -> str:
    """One question; a conversation's earlier turns stand before it, as in training."""
    default = template.default_system if template.system is None else template.system
    # Ollama leaves the system text among the messages, so turns cannot be counted by their number.
    said = (
        "{{ $several := false }}{{ $first := true }}"
        '{{ range .Messages }}{{ if eq .Role "assistant" }}{{ $several = true }}{{ end }}{{ end }}'
        '{{ range .Messages }}{{ if ne .Role "system" }}'
        '{{ if $first }}{{ $first = false }}{{ else }}{{ "\\n\\n" }}{{ end }}'
        '{{ if $several }}{{ if eq .Role "user" }}User: {{ else }}Assistant: {{ end }}{{ end }}'
        "{{ .Content }}{{ end }}{{ end }}"
    )
    opening = template.reasoning_open if template.open_in_prompt else ""
    parts = []
    for index, outer in enumerate(template.prompt.split("{question}")):
        parts += [said] if index else []
        first, *others = outer.split("{system}")
        parts.append(_text(first))
        for inner in others:
            # Without any system text, the space after it is left out too.
            text = inner if default else inner.lstrip()
            space = inner.removesuffix(text)
            parts.append(f"{{{{ if .System }}}}{{{{ .System }}}}{_text(space)}{{{{ else }}}}")
            parts.append(f"{_text(default)}{{{{ end }}}}{_text(text)}")
    return "".join(parts) + _text(opening)


def _text(value: str) -> str:
    """Text as itself, or quoted where it would be read as a command."""
    return value if "{{" not in value else f"{{{{ {json.dumps(value, ensure_ascii=False)} }}}}"
