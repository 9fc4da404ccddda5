"""Who answers: a trained run, a model of this machine, or models behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.config.evaluation import EvaluationConfig
from medimind.config.model import ModelConfig
from medimind.config.prompt import PromptConfig
from medimind.errors import EvaluationError, PromptError
from medimind.evaluation.answering.asks import Arm
from medimind.tracking.run_folder import is_run, open_run_folder, trained_adapter

_TITLES = {
    "base": "Base model",
    "tuned": "Tuned model",
    "base_native": "Base model, its own chat template",
}


@dataclass(frozen=True, slots=True)
class OpenedArms:
    """The arms, the first of which is what the others are held to.

    Attributes:
        arms: Who answers.
        folder: Where results go unless told otherwise.
        config: The evaluation section of the run's recipe; the defaults where there is no run.
    """

    arms: tuple[Arm, ...]
    folder: Path
    config: EvaluationConfig


def open_own(
    target: str,
    *,
    overrides: Sequence[str] = (),
    adapter: Path | None = None,
    template: str | None = None,
    quantization: str = "none",
    batch_size: int | None = None,
    native: bool = False,
) -> OpenedArms:
    """A run folder (its model with the adapter off and on) or a model, answered by our decoder.

    Args:
        target: Run folder, built-in name, folder of a checkpoint, GGUF file, or hub id.
        overrides: Settings of the run's recipe.
        adapter: PEFT folder, for a model without a run.
        template: Name of a prompt template, for a model without a run.
        quantization: ``nf4`` or ``none``, for a model without a run.
        batch_size: Outputs generated at once; by default as the recipe says.
        native: Also ask the base model with its own chat template.

    Raises:
        AdapterError: The adapter is damaged or of another model, or the run has none yet.
        CheckpointError: The model cannot be loaded.
    """
    from medimind.engines.own import OwnEngine
    from medimind.models.adapter import load_adapter
    from medimind.models.load import load_model
    from medimind.prompts.guess import guess_template
    from medimind.prompts.templates import get_template

    if is_run(target):
        folder, recipe = open_run_folder(Path(target), overrides=overrides)
        model_config, adapter, prompt = recipe.model, trained_adapter(folder), recipe.prompt
        place, config = folder.evaluation / "benchmarks", recipe.evaluation
    else:
        model_config = ModelConfig.model_validate({"path": target, "quantization": quantization})
        prompt = PromptConfig.model_validate({"template": template}) if template else None
        place, config = default_folder(target), EvaluationConfig()
    model = load_model(model_config)
    if adapter is not None:
        load_adapter(adapter, model.decoder, base_sha256=model.sha256)
    prompt = prompt or PromptConfig(template=guess_template(model.tokenizer))
    size = batch_size or config.decoding.batch_size
    engine = OwnEngine(model, template=get_template(prompt), batch_size=size)
    arms = [Arm(name, _TITLES[name], engine, name) for name in engine.variants]
    if native:
        own_template = OwnEngine(model, template=None, batch_size=size)
        _check_native(own_template)
        arms.append(Arm("base_native", _TITLES["base_native"], own_template, "base"))
    return OpenedArms(tuple(arms), place, config)


def open_endpoint(
    url: str,
    *,
    model: str,
    tuned: str | None = None,
    api_key: str | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
) -> OpenedArms:
    """A model behind an endpoint, and the tuned one beside it.

    Args:
        url: Address of the API, such as ``http://localhost:8000/v1``.
        model: The model's name there.
        tuned: Name of the tuned model there, such as that of a LoRA adapter in vLLM.
        api_key: Sent as bearer token.
        concurrency: Requests at a time.
        timeout: Seconds that a request may take.
    """
    from medimind.engines.endpoint import EndpointEngine

    engine = EndpointEngine(
        url,
        model=model,
        tuned_model=tuned,
        api_key=api_key,
        concurrency=concurrency,
        timeout=timeout,
    )
    names = {"base": model, "tuned": tuned or ""}
    arms = tuple(Arm(name, names[name], engine, name) for name in engine.variants)
    return OpenedArms(arms, default_folder(model), EvaluationConfig())


def default_folder(name: str) -> Path:
    """Where the results of a model without a run go."""
    return Path("runs") / "benchmarks" / re.sub(r"[^\w.-]+", "-", Path(name).name or name)


def _check_native(engine: object) -> None:
    from medimind.engines.engine import Message, Request
    from medimind.engines.own import OwnEngine

    if not isinstance(engine, OwnEngine):
        raise AssertionError("only our own engine is asked so")
    try:
        engine.prompt_ids(Request((Message("user", "?"),)))
    except PromptError as error:
        raise EvaluationError(
            f"the base model cannot be asked with its own chat template: {error.message}",
            fix="Leave evaluation.benchmarks.native_template out",
        ) from None
