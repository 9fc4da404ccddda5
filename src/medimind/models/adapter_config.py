"""``adapter_config.json``: what PEFT writes there, and what of it we can compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medimind.errors import AdapterError
from medimind.models.architecture import PROJECTIONS
from medimind.models.lora import LoraSpec

_MAX_RANK = 1 << 14
# Settings that change what an adapter computes in ways this decoder has no part for.
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules trained beside the adapter (modules_to_save)",
    "rank_pattern": "ranks that differ between projections (rank_pattern)",
    "alpha_pattern": "alphas that differ between projections (alpha_pattern)",
    "layers_to_transform": "adapters on some layers only (layers_to_transform)",
    "layer_replication": "replicated layers (layer_replication)",
    "lora_bias": "biases in the adapter (lora_bias)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "target_parameters": "adapters on bare parameters (target_parameters)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
}
# Ways of starting that leave the base weights as they are; others need a changed base model.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def peft_config(
    spec: LoraSpec, *, base_model_name: str, revision: str | None = None
) -> dict[str, Any]:
    """The content of ``adapter_config.json``."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "revision": revision,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "use_rslora": spec.rslora,
        "use_dora": False,
        "target_modules": list(spec.targets),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def read_spec(config: dict[str, Any], *, where: str) -> tuple[LoraSpec, frozenset[str] | None]:
    """Shape of the adapter, and its projections where the config lists them by name.

    Raises:
        AdapterError: If a value is wrong, or asks for what this decoder has no part for.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"an adapter of type {kind!r:.40} is not supported", where=where, fix="LORA is"
        )
    refused = [what for key, what in _REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        refused.append("trained biases (bias)")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, (bool, str, type(None))) or start not in _PLAIN_STARTS:
        refused.append(f"init_lora_weights {start!r:.40}, which changes the base weights")
    if refused:
        raise AdapterError(
            f"this adapter uses what is not supported: {'; '.join(refused)}",
            where=where,
            fix="Merge it into its base model with peft, and use the merged model",
        )
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= _MAX_RANK:
        raise AdapterError(f"r is {rank!r:.40}, not a whole number from 1", where=where)
    spec = LoraSpec(
        rank=rank,
        alpha=_number(config, "lora_alpha", where=where),
        dropout=_number(config, "lora_dropout", default=0.0, most=1.0, where=where),
        rslora=config.get("use_rslora") is True,
    )
    return spec, _read_targets(config.get("target_modules"), where=where)


def _number(
    config: dict[str, Any],
    key: str,
    *,
    where: str,
    default: float | None = None,
    most: float = math.inf,
) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
        raise AdapterError(f"{key} is {value!r:.40}, not a number from 0", where=where)
    try:
        return float(value)
    except OverflowError as error:
        raise AdapterError(f"{key} is {str(value)[:40]}..., too large", where=where) from error


def _read_targets(value: Any, *, where: str) -> frozenset[str] | None:
    if isinstance(value, str):
        # A pattern: what it matched when the adapter was made is seen from the tensors, and a
        # pattern from a file that is not trusted may take for ever to match.
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise AdapterError("target_modules is neither a list of names nor a pattern", where=where)
    names = frozenset(name.rsplit(".", 1)[-1] for name in value)
    unknown = sorted(names - set(PROJECTIONS))
    if unknown:
        raise AdapterError(
            f"target_modules names what has no adapter here: {', '.join(unknown[:6])[:200]}",
            where=where,
            fix=f"Adapters are supported on {', '.join(PROJECTIONS)}",
        )
    return names
