"""What makes a run the same run after a resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medimind.config import TrainConfig
from medimind.config.train import FREE_SETTINGS
from medimind.prompts.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run and its continuation must have in common.

    Attributes:
        fingerprint: Of recipe, data and base weights, by the caller.
        settings: Flat settings that decide what is learned, to name what differs.
    """

    fingerprint: str
    settings: Mapping[str, Any]

    def differences(self, other: Identity) -> list[str]:
        """What ``other`` (the run now) has different, as phrases; empty where they agree."""
        old, new = self.settings, other.settings
        found = [
            f"{key} was {old.get(key)}, now {new.get(key)}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if not found and self.fingerprint != other.fingerprint:
            found.append(
                "model, data or prompt settings "
                f"(fingerprint {self.fingerprint[:12]}, now {other.fingerprint[:12]})"
            )
        return found


def training_settings(
    config: TrainConfig,
    train: Sequence[Prompt],
    weights: Sequence[float] | None,
    held_out: Sequence[Prompt],
) -> dict[str, Any]:
    """What a continuation must have in common, as JSON gives it back."""
    settings = config.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    return {
        **{f"train.{key}": value for key, value in settings.items()},
        "training cases": len(train),
        "hash of training cases": _hash_prompts(train, weights),
        "hash of held-out cases": _hash_prompts(held_out, None),
    }


def _hash_prompts(prompts: Sequence[Prompt], weights: Sequence[float] | None) -> str:
    digest = hashlib.sha256(json.dumps(None if weights is None else list(weights)).encode())
    for prompt in prompts:
        digest.update(f"\0{prompt.case_id}\0{len(prompt.token_ids_S)}\0".encode())
        digest.update(prompt.token_ids_S.astype("<i4").tobytes())
        digest.update(prompt.is_target_S.tobytes())
    return digest.hexdigest()[:16]
