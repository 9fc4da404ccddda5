"""The model card of a tuned model: what a stranger must know before using it.

Everything in it comes from the run folder: recipe, provenance, data account, report, verification.
It holds no text of a case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medimind.config.recipe import Recipe
from medimind.export.deliver import Delivered
from medimind.export.gguf import License

MIB = 1 << 20
_UNKNOWN_DATA_LICENSE = "not stated"
_STARTER_LICENSE = "Apache-2.0"
_NOT_STORED = "The before/after comparison has not been run: `medimind evaluate RUN` makes it."
_SHOWN_ROWS = 8


def model_card(
    recipe: Recipe,
    *,
    repo: str,
    base_model: str,
    license_: License,
    parts: Sequence[str],
    delivered: Sequence[Delivered],
    provenance: Mapping[str, Any],
    data: Mapping[str, Any],
    report: Mapping[str, Any],
) -> str:
    """The text of ``README.md``, front matter first.

    Args:
        recipe: The run's.
        repo: ``owner/name`` on the hub.
        base_model: Name of the model it was tuned from.
        license_: That model's licence.
        parts: What the repository holds: ``merged``, ``adapter``, ``gguf``.
        delivered: The GGUF files.
        provenance: ``provenance.json``.
        data: ``data.json``.
        report: ``report.json``; empty where there is none.
    """
    is_hub_id = base_model.count("/") == 1 and not Path(base_model).exists()
    if not is_hub_id:
        base_model = Path(base_model).name  # a stranger need not know this machine's folders
    sections = [
        _front_matter(
            recipe,
            base_model=base_model if is_hub_id else None,
            license_=license_,
            parts=parts,
            results=[
                {**one, "name": repo.rpartition("/")[2]} for one in report.get("model_index", ())
            ],
        ),
        f"# {repo.rpartition('/')[2]}",
        f"{base_model}, tuned with QLoRA on medical cases by the recipe `{recipe.name}` of "
        "MediMind. " + (recipe.description and f"{recipe.description}."),
        "## Intended use\n\nResearch, and support for professionals who check what they read. "
        "**Not a device, not a diagnosis**, not for patients without a professional. It can be "
        "wrong and sound sure; its thoughts need not be the reason for its answer.",
        "## Before and after\n\n" + _before_after(report),
        "## How it was made\n\n" + _table(("", ""), _method(recipe, provenance)),
        "## Data\n\n" + _data(recipe, data),
        "## Files\n\n" + _files(parts, delivered),
        "## How to ask it\n\n" + _usage(repo, parts, delivered),
        "## Licence\n\n" + _license_text(license_, base_model),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _front_matter(
    recipe: Recipe,
    *,
    base_model: str | None,
    license_: License,
    parts: Sequence[str],
    results: Sequence[Mapping[str, Any]],
) -> str:
    hub_data = [
        source.path
        for source in recipe.data.sources
        if source.source == "huggingface" and source.path
    ]
    values: dict[str, Any] = {
        "license": license_.id or "other",
        "license_name": license_.name,
        "license_link": license_.link,
        "base_model": base_model,
        "library_name": "transformers" if "merged" in parts else "peft",
        "pipeline_tag": "text-generation",
        "datasets": hub_data,
        "tags": ["medical", "reasoning", "qlora", *(["gguf"] if "gguf" in parts else [])],
        "model-index": list(results),
    }
    kept = {key: value for key, value in values.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def _before_after(report: Mapping[str, Any]) -> str:
    content = report.get("report")
    if not isinstance(content, Mapping):
        return _NOT_STORED
    comparisons = content.get("comparisons") or [{}]
    rows = [
        tuple(
            str(row[key])
            for key in ("title", "before", "after", "difference", "interval", "num_cases")
        )
        for row in comparisons[0].get("rows", ())[:_SHOWN_ROWS]
    ]
    limits = "\n".join(f"- {limit}" for limit in content.get("limits", ()))
    return "\n\n".join(
        [
            f"**{content.get('headline', '')}** {content.get('addition', '')}".strip(),
            _table(("Figure", "Before", "After", "Difference", "Interval", "Cases"), rows),
            "Same held-out cases, same prompt, same decoding; the adapter off and on. An answer "
            "that cannot be read counts as wrong.",
            limits,
        ]
    )


def _method(recipe: Recipe, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    lora, train = recipe.lora, recipe.train
    model = provenance.get("model") or {}
    machine = provenance.get("machine") or {}
    versions = provenance.get("versions") or {}
    length = f"{train.epochs:g} epochs" if train.epochs else f"{train.steps} steps"
    return [
        (
            "Base weights",
            f"{Path(str(model.get('name'))).name}, sha256 {str(model.get('sha256'))[:16]}",
        ),
        ("Base held in", f"{recipe.model.quantization}, computed in {model.get('dtype')}"),
        ("Adapter", f"LoRA rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}"),
        ("Length", f"{length} of {train.batch_size} cases, at most {train.max_length} tokens"),
        ("Learning rate", f"{train.learning_rate:g}, {train.schedule}, AdamW"),
        ("Prompt template", recipe.prompt.template),
        ("Seed", str(train.seed)),
        ("Machine", str(machine.get("gpu") or machine.get("cpu"))),
        ("Versions", ", ".join(f"{name} {versions[name]}" for name in sorted(versions)[:8])),
    ]


def _data(recipe: Recipe, data: Mapping[str, Any]) -> str:
    loading = data.get("loading") or {}
    rows = [
        (
            Path(str(source.get("name"))).name
            if source.get("kind") == "file"
            else str(source.get("name")),
            str(source.get("revision") or "-"),
            str(source.get("rows_in")),
            str(source.get("kept")),
            _data_license(recipe, str(source.get("kind"))),
        )
        for source in loading.get("sources", ())
    ]
    trained = (data.get("train") or {}).get("cases")
    held_out = (data.get("held_out") or {}).get("cases")
    dropped = (data.get("contamination") or {}).get("dropped")
    return "\n\n".join(
        [
            _table(("Source", "Revision", "Rows", "Kept", "Licence"), rows),
            f"Trained on {trained} cases, judged on {held_out} others; {dropped} training cases "
            "were left out because they repeat a held-out case or a benchmark.",
        ]
    )


def _data_license(recipe: Recipe, kind: str) -> str:
    if recipe.export.data_license:
        return recipe.export.data_license
    return _STARTER_LICENSE if kind == "starter" else _UNKNOWN_DATA_LICENSE


def _files(parts: Sequence[str], delivered: Sequence[Delivered]) -> str:
    held = []
    if "merged" in parts:
        held.append(
            "- `*.safetensors` with `config.json`: the merged model, for transformers, vLLM"
        )
    if "adapter" in parts:
        held.append("- `adapter/`: the adapter alone, for peft")
    if not delivered:
        return "\n".join(held)
    rows = [
        (
            f"`{one.file.path.name}`",
            f"{one.file.num_bytes / MIB:,.1f}",
            f"{one.fidelity.kl_mean:.4f}" if one.fidelity else "not verified",
            f"{one.fidelity.agreement:.1%}" if one.fidelity else "",
        )
        for one in delivered
    ]
    head = ("GGUF file", "MiB", "KL from the trained model, nats", "same likeliest token")
    return "\n\n".join(["\n".join(held), _table(head, rows)])


def _usage(repo: str, parts: Sequence[str], delivered: Sequence[Delivered]) -> str:
    blocks = []
    if "merged" in parts:
        blocks.append(
            "```python\nfrom transformers import pipeline\n\n"
            f'ask = pipeline("text-generation", "{repo}")\n'
            'ask([{"role": "user", "content": "..."}], max_new_tokens=1024)\n```'
        )
    if delivered:
        name = delivered[0].file.path.name
        blocks.append(f"```sh\nmedimind chat --model {repo}/{name}\n```")
    blocks.append("The chat template in these files is the prompt that the model was tuned with.")
    return "\n\n".join(blocks)


def _license_text(license_: License, base_model: str) -> str:
    name = license_.id or license_.name
    if name is None:
        return f"{base_model} names no licence; its terms hold for this model too."
    link = f" ({license_.link})" if license_.link else ""
    return f"{name}{link}, as {base_model}, whose terms hold for this model too."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
