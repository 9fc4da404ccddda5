r"""Our models in lm-evaluation-harness, under the name ``medimind``.

    python -m medimind.evaluation.lm_eval run --model medimind \
        --model_args run=runs/starter,variant=tuned --tasks medqa_4options

takes all arguments of the harness's own command. In Python, importing this module registers the
name. ``benchmarks/lm_eval_parity.py`` holds our option likelihoods to the harness's own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medimind.config.model import ModelConfig
from medimind.errors import EvaluationError, MediMindError, MissingExtraError
from medimind.models.adapter import load_adapter
from medimind.models.generate import generate
from medimind.models.load import Model, load_model
from medimind.models.lora import adapter_disabled
from medimind.models.options import Choice, continuation_scores, option_logprobs
from medimind.prompts.chat import render_chat
from medimind.tracking.run_folder import open_run_folder

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    missing = MissingExtraError("lm_eval", extra="lm-eval", error=error)
    if __name__ == "__main__":
        sys.exit(f"error: {missing}")
    raise missing from error

_log = logging.getLogger(__name__)
_MAX_NEW_TOKENS = 256


@register_model("medimind")
class MediMindLM(LM):
    """A model of ours as the harness asks it.

    Args:
        model: Loaded already; takes the place of ``run`` and ``pretrained``.
        run: Run folder: its base model and its adapter.
        pretrained: Built-in name, folder, GGUF file or hub id.
        adapter: PEFT folder for ``pretrained``.
        variant: ``tuned`` or ``base``: the adapter on or off; by default on where there is one.
        quantization: ``nf4`` or ``none``, for ``pretrained``.
        dtype: Compute dtype, for ``pretrained``.
        device: ``auto``, ``cpu`` or ``cuda``; the harness says ``cuda:0`` where nobody named
            one, without a card too: that is taken as ``auto``.
        batch_size: Outputs generated at once.
        max_batch_size: Taken and not needed: where the memory does not suffice, batches shrink.
    """

    def __init__(
        self,
        *,
        model: Model | None = None,
        run: str | None = None,
        pretrained: str | None = None,
        adapter: str | None = None,
        variant: str | None = None,
        quantization: str = "none",
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        config = {"quantization": quantization, "dtype": dtype, "device": _device(device)}
        self.model = model or _load(run=run, pretrained=pretrained, adapter=adapter, config=config)
        has_adapter = self.model.decoder.lora is not None
        if variant == "tuned" and not has_adapter:
            raise EvaluationError("the model has no adapter to switch on", fix="Name a run")
        self.is_tuned = has_adapter and variant != "base"
        self.batch_size = batch_size if isinstance(batch_size, int) else 16
        self._device = self.model.device

    @property
    def tokenizer_name(self) -> str:
        """What cached requests are named by."""
        return self.model.tokenizer.hash

    @property
    def max_length(self) -> int:
        """Longest prompt and output together."""
        return self.model.architecture.max_positions - 1

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's own chat template, where one is asked for."""
        return self.model.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages by the checkpoint's own chat template."""
        messages = [(one["role"], one["content"]) for one in chat_history]
        ids = render_chat(messages, template=None, tokenizer=self.model.tokenizer)
        return self.model.tokenizer.decode(ids)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """``(log-probability, is the likeliest)`` of each continuation; prompts are read once."""
        found: dict[int, tuple[float, bool]] = {}
        grouped: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for index, request in enumerate(requests):
            prompt, continuation = self._pair(*request.args)
            grouped.setdefault(tuple(prompt), []).append((index, continuation))
        with self._switched():
            groups = list(grouped.items())
            choices = [Choice(prompt, [ids for _, ids in some]) for prompt, some in groups]
            for (_, some), scores in zip(groups, continuation_scores(self.model, choices)):
                for (index, _), score in zip(some, scores, strict=True):
                    found[index] = (score.logprob, score.is_greedy)
        for index, request in enumerate(requests):
            self.cache_hook.add_partial("loglikelihood", request.args, found[index])
        return [found[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of the model's length."""
        sums = []
        with self._switched():
            for request in requests:
                windows = get_rolling_token_windows(
                    token_list=self.model.tokenizer.encode(request.args[0]),
                    prefix_token=self._prefix_id(),
                    max_seq_len=self.max_length - 1,  # and the prefix
                    context_len=1,
                )
                pairs = map(make_disjoint_window, windows)
                choices = [Choice(context, [ids]) for context, ids in pairs]
                sums.append(sum(sum(one) for one in option_logprobs(self.model, choices)))
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The output to each context, up to a stop text."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        texts: dict[int, str] = {}
        with self._switched():
            for chosen in groups.values():
                options = requests[chosen[0]].args[1]
                most = int(options.get("max_gen_toks", _MAX_NEW_TOKENS))
                outputs = generate(
                    self.model,
                    [self._shortened(self._prompt(requests[i].args[0]), most) for i in chosen],
                    max_new_tokens=most,
                    temperature=_temperature(options),
                    top_p=float(options.get("top_p", 1.0)),
                    seed=int(options.get("seed", 0)),
                    stop=_stops(options.get("until")),
                    batch_size=self.batch_size,
                )
                texts.update((i, output.text) for i, output in zip(chosen, outputs, strict=True))
        return [texts[index] for index in range(len(requests))]

    def _switched(self) -> contextlib.AbstractContextManager[None]:
        is_off = not self.is_tuned and self.model.decoder.lora is not None
        return adapter_disabled(self.model.decoder) if is_off else contextlib.nullcontext()

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids as the harness cuts them: the whole encoded at once, cut behind the context's ids."""
        tokenizer = self.model.tokenizer
        if not context:
            return [self._prefix_id()], tokenizer.encode(continuation)
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        prompt = self._prompt(bare)
        ids = self._prompt(bare + continuation)[len(prompt) :]
        return self._shortened(prompt, len(ids)), ids

    def _prompt(self, text: str) -> list[int]:
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(text)
        bos = tokenizer.bos_id
        return [bos, *ids] if tokenizer.adds_bos and bos is not None and ids[:1] != [bos] else ids

    def _shortened(self, ids: list[int], room: int) -> list[int]:
        """The end of a prompt that leaves so much room, as the harness's own models do."""
        most = max(self.max_length - room, 1)
        if len(ids) <= most:
            return ids
        _log.warning("a prompt of %d tokens is cut to its last %d", len(ids), most)
        return ids[-most:]

    def _prefix_id(self) -> int:
        tokenizer = self.model.tokenizer
        found = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if found is None:
            raise EvaluationError("the tokenizer has neither BOS nor EOS to begin a text with")
        return found


def _load(
    *, run: str | None, pretrained: str | None, adapter: str | None, config: dict[str, str]
) -> Model:
    if (run is None) == (pretrained is None):
        raise EvaluationError("name a model", fix="Give run=FOLDER or pretrained=NAME")
    if run is not None:
        folder, recipe = open_run_folder(Path(run))
        model_config = recipe.model.model_copy(update={"device": config["device"]})
        path: Path | None = folder.adapter
    else:
        try:
            model_config = ModelConfig.model_validate({"path": pretrained, **config})
        except ValidationError as error:
            told = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
            raise EvaluationError(told, where="--model_args") from None
        path = None if adapter is None else Path(adapter)
    model = load_model(model_config)
    if path is not None:
        load_adapter(path, model.decoder, base_sha256=model.sha256)
    return model


def _device(name: str | None) -> str:
    if name in (None, "cuda:0"):
        return "auto"
    if name in ("auto", "cpu", "cuda"):
        return name
    raise EvaluationError(
        f"the device '{name}' cannot be chosen here",
        fix="Give --device cpu or --device cuda; CUDA_VISIBLE_DEVICES picks a card",
    )


def _temperature(options: dict[str, Any]) -> float:
    return float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0


def _stops(until: str | Iterable[str] | None) -> Sequence[str]:
    if until is None:
        return ()
    return (until,) if isinstance(until, str) else tuple(until)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except MediMindError as problem:
        sys.exit(f"error: {problem}")
